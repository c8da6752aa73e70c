/* The main() of a CPython that comes without one.
 *
 * panda3d's wheels hold `deploy-stub`, a program with the whole interpreter linked in and its API
 * exported, made to start a frozen game. This library becomes the first that the program needs, so
 * its __libc_start_main comes before libc's, and the program runs as `python` does: -c, -m, a file,
 * "-", each with the options that PyConfig knows. It has no prompt, and runs no folders. */
#define _GNU_SOURCE
#include <Python.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef int main_function(int argc, char **argv, char **environment);
typedef int start_function(main_function *, int argc, char **argv, void (*init)(void),
                           void (*fini)(void), void (*loader_fini)(void), void *stack_end);

static int set_first_of_path(PyObject *folder) {
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    return folder && path ? PyList_Insert(path, 0, folder) : -1;
}

/* -m and -c look in the current folder, a file in its own. */
static int extend_path(const PyConfig *config) {
    if (config->safe_path)
        return 0;
    PyObject *folder;
    if (config->run_filename) {
        char *name = Py_EncodeLocale(config->run_filename, NULL);
        char *real = name ? realpath(name, NULL) : NULL;
        char *end = real ? strrchr(real, '/') : NULL;
        folder = PyUnicode_DecodeFSDefaultAndSize(real ? real : "", end ? end - real : 0);
        free(real);
        PyMem_Free(name);
    } else if (config->run_module) {
        char *cwd = getcwd(NULL, 0);
        folder = PyUnicode_DecodeFSDefault(cwd ? cwd : "");
        free(cwd);
    } else {
        folder = PyUnicode_FromString("");
    }
    int status = set_first_of_path(folder);
    Py_XDECREF(folder);
    return status;
}

static PyObject *run_module(const wchar_t *name) {
    PyObject *runpy = PyImport_ImportModule("runpy");
    PyObject *module = runpy ? PyUnicode_FromWideChar(name, -1) : NULL;
    PyObject *result =
        module ? PyObject_CallMethod(runpy, "_run_module_as_main", "O", module) : NULL;
    Py_XDECREF(module);
    Py_XDECREF(runpy);
    return result;
}

static PyObject *run_command(const wchar_t *text, PyObject *globals) {
    PyObject *command = PyUnicode_FromWideChar(text, -1);
    const char *source = command ? PyUnicode_AsUTF8(command) : NULL;
    PyObject *result = source ? PyRun_String(source, Py_file_input, globals, globals) : NULL;
    Py_XDECREF(command);
    return result;
}

static PyObject *run_file(const wchar_t *wide_name, PyObject *globals) {
    char *name = Py_EncodeLocale(wide_name, NULL);
    if (!name)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    PyObject *shown = PyUnicode_DecodeFSDefault(name);
    if (shown && PyDict_SetItemString(globals, "__file__", shown) == 0) {
        FILE *file = fopen(name, "rb");
        result = file ? PyRun_FileEx(file, name, Py_file_input, globals, globals, 1)
                      : PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    }
    Py_XDECREF(shown);
    PyMem_Free(name);
    return result;
}

static PyObject *run(const PyConfig *config) {
    PyObject *globals = PyModule_GetDict(PyImport_AddModule("__main__")); /* borrowed */
    if (extend_path(config) < 0)
        return NULL;
    if (config->run_module)
        return run_module(config->run_module);
    if (config->run_command)
        return run_command(config->run_command, globals);
    if (config->run_filename)
        return run_file(config->run_filename, globals);
    return PyRun_File(stdin, "<stdin>", Py_file_input, globals, globals);
}

static int python_main(int argc, char **argv, char **environment) {
    (void)environment;
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    PyStatus status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = PyConfig_Read(&config);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);

    PyObject *result = run(&config);
    PyConfig_Clear(&config);
    int interrupted = !result && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
    int code = result ? 0 : 1;
    if (!result)
        PyErr_Print(); /* a SystemExit ends the process here */
    Py_XDECREF(result);
    if (Py_FinalizeEx() < 0)
        code = 120;
    if (interrupted) {
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    return code;
}

/* Found by the program instead of libc's, which it calls in turn. */
int __libc_start_main(main_function *unused, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*loader_fini)(void), void *stack_end);

int __libc_start_main(main_function *unused, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*loader_fini)(void), void *stack_end) {
    (void)unused;
    start_function *start = (start_function *)dlsym(RTLD_NEXT, "__libc_start_main");
    return start(python_main, argc, argv, init, fini, loader_fini, stack_end);
}
