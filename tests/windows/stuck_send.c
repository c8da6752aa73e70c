/* stuck_send.c: does a send that waits end when its peer is gone? Nothing of ours is used.
 *
 *      wcc - stuck_send.exe tests/windows/stuck_send.c && wine stuck_send.exe
 *
 * One thread has a WSASend under way. Another reads what has arrived, and closes its socket while
 * more is on its way, which is a reset. Every one of these sends has to end with 10054; under
 * Wine 10 a few in a hundred never do. README.md tells why. */
#include <winsock2.h>
#include <ws2tcpip.h>

#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 300, ENOUGH = 5, LENGTH = 3 << 20, NARROW = 1 << 14, LIMIT_MS = 5000 };

static char data[LENGTH];

static void check(BOOL right, const char *what) {
    if (right)
        return;
    printf("%s fails: %d\n", what, WSAGetLastError());
    exit(2);
}

/* Narrow, so that the send waits. */
static void open_pair(SOCKET *sender, SOCKET *reader) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int length = sizeof address, room = NARROW;
    SOCKET listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, (char *)&room, sizeof room) == 0,
          "SO_RCVBUF");
    check(bind(listener, (struct sockaddr *)&address, length) == 0, "bind");
    check(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
    check(listen(listener, 1) == 0, "listen");
    *sender = socket(AF_INET, SOCK_STREAM, 0);
    check(setsockopt(*sender, SOL_SOCKET, SO_SNDBUF, (char *)&room, sizeof room) == 0, "SO_SNDBUF");
    check(connect(*sender, (struct sockaddr *)&address, length) == 0, "connect");
    *reader = accept(listener, NULL, NULL);
    check(*reader != INVALID_SOCKET, "accept");
    closesocket(listener);
}

static DWORD WINAPI read_and_close(void *argument) {
    SOCKET reader = *(SOCKET *)argument;
    char part[4096];
    u_long on = 1;
    check(ioctlsocket(reader, (long)FIONBIO, &on) == 0, "FIONBIO");
    while (recv(reader, part, sizeof part, 0) > 0)
        continue;
    closesocket(reader);
    return 0;
}

/* Whether the send ended by itself. */
static BOOL one_round(void) {
    SOCKET sender, reader;
    OVERLAPPED send = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};
    WSABUF buffer = {LENGTH, data};
    open_pair(&sender, &reader);
    int answer = WSASend(sender, &buffer, 1, NULL, 0, &send, NULL);
    check(answer == 0 || WSAGetLastError() == WSA_IO_PENDING, "WSASend");
    HANDLE thread = CreateThread(NULL, 0, read_and_close, &reader, 0, NULL);
    check(thread != NULL, "CreateThread");
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    BOOL ended = WaitForSingleObject(send.hEvent, LIMIT_MS) == WAIT_OBJECT_0;
    if (!ended) {
        check(CancelIoEx((HANDLE)sender, &send), "CancelIoEx");
        check(WaitForSingleObject(send.hEvent, LIMIT_MS) == WAIT_OBJECT_0, "its cancellation");
    }
    closesocket(sender);
    CloseHandle(send.hEvent);
    return ended;
}

int main(void) {
    WSADATA version;
    int stuck = 0, rounds = 0;
    check(WSAStartup(MAKEWORD(2, 2), &version) == 0, "WSAStartup");
    for (; rounds < ROUNDS && stuck < ENOUGH; rounds++)
        stuck += !one_round();
    printf("%d of %d sends did not end before they were cancelled\n", stuck, rounds);
    return stuck > 0;
}
