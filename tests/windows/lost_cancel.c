/* lost_cancel.c: does CancelIoEx end a send that waits? Nothing of ours is used.
 *
 *      wcc - lost_cancel.exe tests/windows/lost_cancel.c && wine lost_cancel.exe
 *
 * A send is under way, of more than its socket takes, while another thread reads what arrives. The
 * send is cancelled once, and then the reader stops. Every one of these sends has to end. Under
 * Wine 10 a few in a hundred never do: CancelIoEx fails with 1168 (not found) although the send is
 * pending. A second CancelIoEx ends it. README.md tells why. */
#include <winsock2.h>
#include <ws2tcpip.h>

#include <mswsock.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 200, LENGTH = 12 << 20, LIMIT_MS = 2000, PENDING = 0x103 };

typedef struct peer {
    SOCKET socket;
    volatile LONG stop;
} peer;

static char data[LENGTH];

static void check(BOOL right, const char *what) {
    if (right)
        return;
    printf("%s fails: %lu\n", what, GetLastError());
    exit(2);
}

static void open_pair(SOCKET *sender, SOCKET *reader) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int length = sizeof address;
    SOCKET listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(bind(listener, (struct sockaddr *)&address, length) == 0, "bind");
    check(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
    check(listen(listener, 1) == 0, "listen");
    *sender = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(*sender, (struct sockaddr *)&address, length) == 0, "connect");
    *reader = accept(listener, NULL, NULL);
    check(*reader != INVALID_SOCKET, "accept");
    closesocket(listener);
}

static DWORD WINAPI read_until_stopped(void *argument) {
    peer *self = argument;
    char part[16384];
    u_long on = 1;
    check(ioctlsocket(self->socket, (long)FIONBIO, &on) == 0, "FIONBIO");
    while (!self->stop)
        if (recv(self->socket, part, sizeof part, 0) < 0)
            Sleep(0);
    return 0;
}

static HANDLE make_file(void) {
    char folder[MAX_PATH], path[MAX_PATH];
    DWORD written = 0;
    check(GetTempPathA(MAX_PATH, folder) > 0, "GetTempPath");
    check(GetTempFileNameA(folder, "ioc", 0, path) > 0, "GetTempFileName");
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE | DELETE, 0, NULL, CREATE_ALWAYS,
                              FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    check(file != INVALID_HANDLE_VALUE, "CreateFile");
    check(WriteFile(file, data, LENGTH, &written, NULL) && written == LENGTH, "WriteFile");
    return file;
}

static void start(SOCKET socket, HANDLE file, OVERLAPPED *send) {
    WSABUF buffer = {LENGTH, data};
    BOOL started = file != NULL ? TransmitFile(socket, file, LENGTH, 0, send, NULL, 0)
                                : WSASend(socket, &buffer, 1, NULL, 0, send, NULL) == 0;
    check(started || WSAGetLastError() == WSA_IO_PENDING, "the send");
}

/* Whether one cancellation was enough. */
static BOOL one_round(HANDLE file, int number) {
    SOCKET sender;
    peer reader = {INVALID_SOCKET, FALSE};
    OVERLAPPED send = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};
    open_pair(&sender, &reader.socket);
    HANDLE thread = CreateThread(NULL, 0, read_until_stopped, &reader, 0, NULL);
    check(thread != NULL, "CreateThread");
    start(sender, file, &send);
    for (int turns = number % 8; turns > 0; turns--)
        Sleep(0);
    BOOL found = CancelIoEx((HANDLE)sender, &send);
    DWORD code = found ? 0 : GetLastError();
    reader.stop = TRUE;
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    BOOL ended = WaitForSingleObject(send.hEvent, LIMIT_MS) == WAIT_OBJECT_0;
    if (!ended) {
        check(!found && code == ERROR_NOT_FOUND && send.Internal == PENDING, "to find it");
        check(CancelIoEx((HANDLE)sender, &send), "the second CancelIoEx");
        check(WaitForSingleObject(send.hEvent, LIMIT_MS) == WAIT_OBJECT_0, "the cancellation");
    }
    closesocket(sender);
    closesocket(reader.socket);
    CloseHandle(send.hEvent);
    return ended;
}

static int rounds(const char *what, HANDLE file) {
    int lost = 0;
    for (int i = 0; i < ROUNDS; i++)
        lost += !one_round(file, i);
    printf("%s: %d of %d cancellations were lost\n", what, lost, ROUNDS);
    fflush(stdout);
    return lost;
}

int main(void) {
    WSADATA version;
    check(WSAStartup(MAKEWORD(2, 2), &version) == 0, "WSAStartup");
    HANDLE file = make_file();
    int lost = rounds("WSASend", NULL) + rounds("TransmitFile", file);
    CloseHandle(file);
    return lost > 0;
}
