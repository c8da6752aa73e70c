/* main.c: the load generator.
 *
 * One thread and one epoll, in C, so that what limits a benchmark is the server and not this. It
 * keeps `depth` messages under way on each connection, compares every byte that comes back, and
 * prints one line of JSON. The processor time is its own (a share near 1 means that this program
 * was the limit; looking for answers in vain does not count) and that of the server's processes,
 * read at the same two moments between which messages are counted.
 *
 *   main.c      options
 *   report.c    warm-up, measuring, the end; latencies; the line of JSON
 *   pattern.c   what is sent, and comparing
 *   stream.c    echo over TCP, unix sockets or TLS; many idle connections
 *   visit.c     connect, request, response, close
 *   datagram.c  echo over UDP
 *   bulk.c      receiving what a server sends by itself
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "load.h"

static const char usage[] =
    "usage: load [options] 127.0.0.1:PORT | /PATH/OF/UNIX/SOCKET\n"
    "  --mode echo|idle|visit|datagram|bulk   (echo)\n"
    "         idle: one echo on each connection, then they are held until the end of stdin;\n"
    "         visit: connect, request, response, close; bulk: receive until the server closes\n"
    "  --connections N   at once (1)\n"
    "  --size BYTES      of a message, without its frame (1024)\n"
    "  --depth N         messages under way on each connection (1)\n"
    "  --framing none|length|lf|crlf   length: 4 bytes, big-endian (none)\n"
    "  --seconds S       measured (1)\n"
    "  --warmup S        before that (0.3)\n"
    "  --bytes N         of one bulk transfer\n"
    "  --marked          every message begins with '!'\n"
    "  --tls             any certificate will do\n"
    "  --spin            never sleep: to wake this program is work of the servers\n"
    "  --server PID      report its processor time; may be given several times\n";

static void fail(const char *what, const char *value) {
    fprintf(stderr, "load: %s: %s\n%s", what, value, usage);
    exit(2);
}

static double number(const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        fail("not a number, or out of range", text);
    return value;
}

static int choice(const char *text, const char *const *names) {
    for (int i = 0; names[i]; i++) {
        if (!strcmp(text, names[i]))
            return i;
    }
    fail("unknown", text);
    return -1;
}

static void parse_address(struct settings *settings, const char *text) {
    struct sockaddr_un *local = (struct sockaddr_un *)&settings->address;
    struct sockaddr_in *inet = (struct sockaddr_in *)&settings->address;
    const char *colon = strrchr(text, ':');
    char host[INET_ADDRSTRLEN];
    if (text[0] == '/') {
        if (strlen(text) >= sizeof local->sun_path)
            fail("too long", text);
        local->sun_family = AF_UNIX;
        memcpy(local->sun_path, text, strlen(text) + 1);
        settings->address_bytes = sizeof *local;
        return;
    }
    if (!colon || (size_t)(colon - text) >= sizeof host)
        fail("not an address", text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    inet->sin_family = AF_INET;
    inet->sin_port = htons((uint16_t)number(colon + 1, 1, 65535));
    if (inet_pton(AF_INET, host, &inet->sin_addr) != 1)
        fail("not an IPv4 address", host);
    settings->address_bytes = sizeof *inet;
}

static const struct option options[] = {
    {"mode", required_argument, 0, 'm'},
    {"connections", required_argument, 0, 'c'},
    {"size", required_argument, 0, 's'},
    {"depth", required_argument, 0, 'd'},
    {"framing", required_argument, 0, 'f'},
    {"seconds", required_argument, 0, 't'},
    {"warmup", required_argument, 0, 'w'},
    {"bytes", required_argument, 0, 'b'},
    {"marked", no_argument, 0, 'k'},
    {"tls", no_argument, 0, 'l'},
    {"server", required_argument, 0, 'p'},
    {"spin", no_argument, 0, 'i'},
    {0, 0, 0, 0},
};

static void parse_option(struct settings *settings, int option) {
    static const char *const modes[] = {"echo", "idle", "visit", "datagram", "bulk", 0};
    static const char *const framings[] = {"none", "length", "lf", "crlf", 0};
    switch (option) {
    case 'm':
        settings->mode = (enum mode)choice(optarg, modes);
        break;
    case 'f':
        settings->framing = (enum framing)choice(optarg, framings);
        break;
    case 'c':
        settings->connections = (size_t)number(optarg, 1, 1e6);
        break;
    case 's':
        settings->size = (size_t)number(optarg, 1, 1 << 24);
        break;
    case 'd':
        settings->depth = (size_t)number(optarg, 1, 4096);
        break;
    case 't':
        settings->measure_ns = (uint64_t)(number(optarg, 0.01, 3600) * 1e9);
        break;
    case 'w':
        settings->warmup_ns = (uint64_t)(number(optarg, 0, 3600) * 1e9);
        break;
    case 'b':
        settings->bytes = (uint64_t)number(optarg, 1, 1e15);
        break;
    case 'k':
        settings->marked = true;
        break;
    case 'l':
        settings->tls = true;
        break;
    case 'i':
        settings->spin = true;
        break;
    case 'p':
        if (settings->servers_count == SERVERS_MAX)
            fail("too many servers", optarg);
        settings->servers[settings->servers_count++] = (pid_t)number(optarg, 1, 1 << 30);
        break;
    default:
        fputs(usage, stderr);
        exit(2);
    }
}

void settings_parse(struct settings *settings, int count, char **arguments) {
    int option;
    *settings = (struct settings){
        .connections = 1,
        .depth = 1,
        .size = 1024,
        .warmup_ns = 300000000,
        .measure_ns = 1000000000,
    };
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1)
        parse_option(settings, option);
    if (optind + 1 != count)
        fail("one address is needed", optind < count ? arguments[optind + 1] : "there is none");
    parse_address(settings, arguments[optind]);
    if (settings->mode == MODE_BULK && !settings->bytes)
        fail("bulk needs", "--bytes");
    if (settings->mode == MODE_DATAGRAM && settings->size < 8)
        fail("a datagram has at least 8 bytes, for its number", "--size");
}

int main(int count, char **arguments) {
    static struct settings settings;
    static struct report report;
    signal(SIGPIPE, SIG_IGN);
    settings_parse(&settings, count, arguments);
    report_init(&report, &settings);
    switch (settings.mode) {
    case MODE_ECHO:
    case MODE_IDLE:
        run_stream(&settings, &report);
        break;
    case MODE_VISIT:
        run_visits(&settings, &report);
        break;
    case MODE_DATAGRAM:
        run_datagrams(&settings, &report);
        break;
    case MODE_BULK:
        run_bulk(&settings, &report);
        break;
    }
    report_print(&report);
    return report.errors ? 1 : 0;
}
