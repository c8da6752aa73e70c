/* python.exe: the wheels that the interpreters come from hold the DLLs, but no program.
   Built for one interpreter each, with its DLL's name in PYTHON_DLL. */
#include <stdio.h>
#include <windows.h>

typedef int (*main_function)(int argc, wchar_t **argv);

int wmain(int argc, wchar_t **argv) {
    HMODULE dll = LoadLibraryW(PYTHON_DLL);
    FARPROC symbol = dll ? GetProcAddress(dll, "Py_Main") : NULL;
    if (!symbol) {
        fprintf(stderr, "%ls: error %lu\n", PYTHON_DLL, GetLastError());
        return 101;
    }
    return ((main_function)(void *)symbol)(argc, argv);
}
