/* sim_net.c: the in-memory network and files of the simulated backend.
 *
 * A stream buffers the data that has arrived and was not yet received. A send copies bytes directly
 * to the peer's buffer, as far as there is room. A connect creates the other end immediately and
 * puts it into the listener's queue; accept gives it a native. A datagram socket queues packets and
 * drops those above a limit. A closed file is freed with its last reference. sim->lock
 * guards everything. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "backends/sim/sim_net.h"

#include <stdlib.h>
#include <string.h>

#ifndef _WIN32
#include <netinet/in.h>
#endif

#define SIM_STREAM_ROOM 65536u
#define SIM_BACKLOG 128u
#define SIM_PACKETS 256u
#define SIM_PACKET_MAX 65507u
#define SIM_FILE_MAX ((size_t)1 << 26)
#define SIM_FIRST_NATIVE 3 /* as if 0, 1 and 2 were in use */

/* ---- files and natives ----------------------------------------------------------------------- */

sim_file *sim_file_of(const sim_kernel *sim, io_native native) {
    if (native < 0 || (size_t)native >= sim->native_count)
        return NULL;
    return sim->natives[native];
}

static sim_file *sim_net_file_new(sim_kernel *sim, sim_type type) {
    sim_file *file = calloc(1, sizeof(*file));
    if (file == NULL)
        return NULL;
    file->type = (uint8_t)type;
    file->refs = 1;
    file->native = IO_NATIVE_NONE;
    file->identity = ++sim->next_identity;
    io_list_init(&file->link);
    io_list_init(&file->queue);
    io_list_init(&file->works);
    sim->stats.files++;
    return file;
}

void sim_file_unref(sim_kernel *sim, sim_file *file) {
    if (--file->refs > 0)
        return;
    sim->stats.files--;
    free(file->bytes);
    free(file);
}

/* Gives the file the lowest free native. The table takes a new reference. */
static int sim_net_native_new(sim_kernel *sim, sim_file *file) {
    size_t native = SIM_FIRST_NATIVE;
    while (native < sim->native_count && sim->natives[native] != NULL)
        native++;
    if (native >= sim->native_count) {
        size_t count = sim->native_count == 0 ? 64 : 2 * sim->native_count;
        sim_file **grown = realloc(sim->natives, count * sizeof(grown[0]));
        if (grown == NULL)
            return -IOE_NOMEM;
        memset(grown + sim->native_count, 0, (count - sim->native_count) * sizeof(grown[0]));
        sim->natives = grown;
        sim->native_count = count;
    }
    sim->natives[native] = file;
    file->native = (io_native)native;
    file->refs++;
    sim->stats.natives++;
    return 0;
}

static uint16_t sim_net_port_new(sim_kernel *sim) {
    if (++sim->next_port < 1024)
        sim->next_port = 1024;
    return sim->next_port;
}

static sim_file *sim_net_file_of_port(const sim_kernel *sim, sim_type type, uint16_t port) {
    for (size_t i = 0; i < sim->native_count; i++) {
        sim_file *file = sim->natives[i];
        if (file != NULL && file->type == type && file->port == port)
            return file;
    }
    return NULL;
}

static void sim_net_connect_files(sim_file *one, sim_file *other) {
    one->peer = other;
    other->peer = one;
    one->peer_port = other->port;
    other->peer_port = one->port;
    one->connected = other->connected = true;
    one->refs++;
    other->refs++;
}

static void sim_net_leave_peer(sim_kernel *sim, sim_file *file, bool broken) {
    sim_file *peer = file->peer;
    if (peer == NULL)
        return;
    file->peer = peer->peer = NULL;
    peer->ended = true;
    peer->broken = peer->broken || broken;
    sim_file_changed(sim, peer);
    sim_file_unref(sim, peer);
    sim_file_unref(sim, file);
}

/* Resets a connection: both ends fail, and buffered data is lost. */
static void sim_net_break_stream(sim_kernel *sim, sim_file *file) {
    if (file->type != SIM_STREAM || !file->connected)
        return;
    file->ended = file->broken = true;
    file->start = file->end = 0;
    sim_net_leave_peer(sim, file, true);
    sim_file_changed(sim, file);
}

static void sim_net_empty_queue(sim_kernel *sim, sim_file *file) {
    io_link *link;
    while ((link = io_list_pop_front(&file->queue)) != NULL) {
        if (file->type == SIM_LISTENER) {
            sim_file *connection = IO_CONTAINER(link, sim_file, link);
            sim_net_leave_peer(sim, connection, true);
            sim_file_unref(sim, connection);
        } else {
            free(IO_CONTAINER(link, sim_packet, link));
        }
    }
    file->queued = 0;
}

/* Operations in flight are not ended, as when a descriptor is closed. */
void sim_native_close(sim_kernel *sim, sim_file *file) {
    sim->natives[file->native] = NULL;
    sim->stats.natives--;
    file->native = IO_NATIVE_NONE;
    sim_net_leave_peer(sim, file, false);
    sim_net_empty_queue(sim, file);
    sim_file_unref(sim, file);
}

void sim_shutdown(sim_kernel *sim, sim_file *file) {
    file->sends_ended = true;
    if (file->peer != NULL) {
        file->peer->ended = true;
        sim_file_changed(sim, file->peer);
    }
    sim_file_changed(sim, file);
}

/* Resets the stream, or discards the data that has arrived. */
void sim_prepare_close(sim_kernel *sim, sim_file *file, bool reset) {
    if (reset) {
        sim_net_break_stream(sim, file);
        return;
    }
    file->start = file->end = 0;
    if (file->peer != NULL)
        sim_file_changed(sim, file->peer);
}

/* ---- addresses and vectors ------------------------------------------------------------------- */

static void sim_net_address_set(io_address *address, uint16_t port) {
    struct sockaddr_in in;
    memset(&in, 0, sizeof(in));
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = htonl(0x7f000001u);
    memset(address, 0, sizeof(*address));
    memcpy(&address->storage, &in, sizeof(in));
    address->length = (io_socklen)sizeof(in);
}

void sim_address(const sim_file *file, bool peer, io_address *address) {
    uint16_t port = peer ? file->peer_port : file->port;
    address->length = 0;
    if (port != 0)
        sim_net_address_set(address, port);
}

static int sim_net_address_port(const io_address *address, uint16_t *port) {
    struct sockaddr_in in;
    if (address->length < (io_socklen)sizeof(in) || address->storage.ss_family != AF_INET)
        return -IOE_AFNOSUPPORT;
    memcpy(&in, &address->storage, sizeof(in));
    *port = ntohs(in.sin_port);
    return 0;
}

static size_t sim_net_vecs_length(const io_transfer *transfer) {
    size_t length = 0;
    for (uint32_t i = 0; i < transfer->vec_count; i++)
        length += io_vec_length(&transfer->vecs[i]);
    return length;
}

/* Copies `bytes` into or out of the vectors, at most `length` bytes. */
static void sim_net_vecs_copy(const io_transfer *transfer, char *bytes, size_t length, bool into) {
    for (uint32_t i = 0; i < transfer->vec_count && length > 0; i++) {
        size_t part = io_vec_length(&transfer->vecs[i]);
        if (part > length)
            part = length;
        if (into && part > 0)
            memcpy(io_vec_base(&transfer->vecs[i]), bytes, part);
        else if (part > 0)
            memcpy(bytes, io_vec_base(&transfer->vecs[i]), part);
        bytes += part;
        length -= part;
    }
}

static bool sim_net_bytes_reserve(sim_file *file, size_t end) {
    if (end <= file->capacity)
        return true;
    size_t capacity = file->capacity < 256 ? 256 : file->capacity;
    while (capacity < end)
        capacity *= 2;
    char *grown = realloc(file->bytes, capacity);
    if (grown == NULL)
        return false;
    memset(grown + file->capacity, 0, capacity - file->capacity);
    file->bytes = grown;
    file->capacity = capacity;
    return true;
}

static size_t sim_net_partial(sim_kernel *sim, size_t length) {
    if (length > 1 && sim_chance(sim, IO_SIM_PARTIAL, 2))
        return 1 + (size_t)sim_random(sim, length);
    return length;
}

/* ---- operations ---------------------------------------------------------------------------------
 *
 * Each function returns false if the operation must wait. Otherwise it sets the result. */

/* Returns how many bytes a receive with `room` takes. If 0, the receive must `wait` or has ended
 * with `result`. */
static size_t sim_net_arrived(sim_kernel *sim, sim_file *file, size_t room, int64_t *result,
                              bool *wait) {
    *wait = false;
    if (file->type != SIM_STREAM || !file->connected) {
        *result = file->broken ? -IOE_CONNRESET : -IOE_NOTCONN;
        return 0;
    }
    size_t held = file->end - file->start;
    if (held == 0 || room == 0) {
        *result = file->broken ? -IOE_CONNRESET : 0;
        *wait = !file->broken && !file->ended && room > 0;
        return 0;
    }
    return sim_net_partial(sim, room < held ? room : held);
}

static void sim_net_take_arrived(sim_kernel *sim, sim_file *file, size_t length) {
    file->start += length;
    if (file->start == file->end)
        file->start = file->end = 0;
    if (file->peer != NULL)
        sim_file_changed(sim, file->peer);
}

static bool sim_net_do_recv(sim_kernel *sim, sim_file *file, io_transfer *transfer,
                            int64_t *result) {
    bool wait;
    size_t length = sim_net_arrived(sim, file, sim_net_vecs_length(transfer), result, &wait);
    if (length > 0 && !io_transfer_acquire(transfer)) {
        *result = -IOE_NOMEM;
    } else if (length > 0) {
        sim_net_vecs_copy(transfer, file->bytes + file->start, length, true);
        sim_net_take_arrived(sim, file, length);
        *result = (int64_t)length;
    }
    return !wait;
}

static bool sim_net_do_receive(sim_kernel *sim, sim_file *file, io_receive *receive,
                               int64_t *result) {
    bool wait;
    size_t length = sim_net_arrived(sim, file, receive->capacity, result, &wait);
    if (length == 0)
        return !wait;
    receive->buffer = io_buffer_acquire(&sim->lane->port->buffers, receive->capacity);
    if (receive->buffer == NULL) {
        *result = -IOE_NOMEM;
        return true;
    }
    memcpy(receive->buffer, file->bytes + file->start, length);
    sim_net_take_arrived(sim, file, length);
    *result = (int64_t)length;
    return true;
}

/* Makes room in the peer's buffer for a send. Returns how many of `length` bytes it takes. If 0,
 * the send must `wait` or has ended with `result`. */
static size_t sim_net_stream_room(sim_kernel *sim, sim_file *file, size_t length, int64_t *result,
                                  bool *wait) {
    sim_file *peer = file->peer;
    *wait = false;
    *result = 0;
    if (file->type != SIM_STREAM || (!file->connected && !file->broken))
        *result = -IOE_NOTCONN;
    else if (file->sends_ended)
        *result = -IOE_PIPE;
    else if (peer == NULL)
        *result = file->broken ? -IOE_CONNRESET : -IOE_PIPE;
    if (*result < 0 || length == 0)
        return 0;
    size_t held = peer->end - peer->start;
    if (held >= SIM_STREAM_ROOM) {
        *wait = true;
        return 0;
    }
    size_t room = SIM_STREAM_ROOM - held;
    length = sim_net_partial(sim, length < room ? length : room);
    if (peer->start > 0) {
        memmove(peer->bytes, peer->bytes + peer->start, held);
        peer->start = 0;
        peer->end = held;
    }
    if (!sim_net_bytes_reserve(peer, peer->end + length)) {
        *result = -IOE_NOBUFS;
        return 0;
    }
    *result = (int64_t)length;
    return length;
}

static bool sim_net_do_send(sim_kernel *sim, sim_file *file, io_transfer *transfer,
                            int64_t *result) {
    bool wait;
    size_t length = sim_net_stream_room(sim, file, sim_net_vecs_length(transfer), result, &wait);
    if (length > 0) {
        sim_net_vecs_copy(transfer, file->peer->bytes + file->peer->end, length, false);
        file->peer->end += length;
        sim_file_changed(sim, file->peer);
    }
    return !wait;
}

static bool sim_net_do_send_file(sim_kernel *sim, sim_file *file, io_send_file *send,
                                 int64_t *result) {
    sim_file *source = sim_file_of(sim, send->file);
    if (source == NULL || source->type != SIM_FILE) {
        *result = source == NULL ? -IOE_BADF : -IOE_INVAL;
        return true;
    }
    size_t length = send->offset < source->end ? source->end - (size_t)send->offset : 0;
    if (length > send->remaining)
        length = (size_t)send->remaining;
    bool wait;
    length = sim_net_stream_room(sim, file, length, result, &wait);
    if (length > 0) {
        memcpy(file->peer->bytes + file->peer->end, source->bytes + send->offset, length);
        file->peer->end += length;
        sim_file_changed(sim, file->peer);
    }
    return !wait;
}

static bool sim_net_do_accept(sim_kernel *sim, sim_file *file, io_accept *accept, int64_t *result) {
    if (file->type != SIM_LISTENER) {
        *result = -IOE_INVAL;
        return true;
    }
    if (io_list_empty(&file->queue))
        return false;
    sim_file *connection = IO_CONTAINER(file->queue.next, sim_file, link);
    *result = sim_net_native_new(sim, connection);
    if (*result < 0)
        return true;
    io_list_remove(&connection->link);
    file->queued--;
    accept->accepted = connection->native;
    sim_net_address_set(&accept->peer, connection->peer_port);
    sim_file_unref(sim, connection); /* the queue's reference */
    return true;
}

static bool sim_net_do_connect(sim_kernel *sim, sim_file *file, io_connect *connect,
                               int64_t *result) {
    uint16_t port = 0;
    *result = sim_net_address_port(&connect->address, &port);
    if (*result == 0 && file->type != SIM_STREAM)
        *result = -IOE_OPNOTSUPP;
    if (*result == 0 && file->connected)
        *result = -IOE_ISCONN;
    if (*result < 0)
        return true;
    sim_file *listener = sim_net_file_of_port(sim, SIM_LISTENER, port);
    if (listener == NULL || listener->queued >= SIM_BACKLOG) {
        *result = -IOE_CONNREFUSED;
        return true;
    }
    sim_file *other = sim_net_file_new(sim, SIM_STREAM);
    if (other == NULL) {
        *result = -IOE_NOBUFS;
        return true;
    }
    if (file->port == 0)
        file->port = sim_net_port_new(sim);
    other->port = port;
    file->broken = file->ended = false;
    sim_net_connect_files(file, other);
    io_list_push_back(&listener->queue, &other->link);
    listener->queued++;
    sim_file_changed(sim, listener);
    sim_file_changed(sim, file);
    return true;
}

static bool sim_net_do_recv_from(sim_kernel *sim, sim_file *file, io_datagram *datagram,
                                 int64_t *result) {
    io_transfer *transfer = &datagram->transfer;
    if (file->type != SIM_DATAGRAM) {
        *result = -IOE_OPNOTSUPP;
        return true;
    }
    if (io_list_empty(&file->queue))
        return false;
    if (!io_transfer_acquire(transfer)) {
        *result = -IOE_NOMEM;
        return true;
    }
    sim_packet *packet = IO_CONTAINER(io_list_pop_front(&file->queue), sim_packet, link);
    file->queued--;
    size_t length = sim_net_vecs_length(transfer);
    if (length > packet->length)
        length = packet->length;
    sim_net_vecs_copy(transfer, packet->bytes, length, true);
    sim_net_address_set(&datagram->address, packet->from);
    *result = (int64_t)length;
    free(packet);
    (void)sim;
    return true;
}

static bool sim_net_do_send_to(sim_kernel *sim, sim_file *file, io_datagram *datagram,
                               int64_t *result) {
    uint16_t port = 0;
    size_t length = sim_net_vecs_length(&datagram->transfer);
    *result = sim_net_address_port(&datagram->address, &port);
    if (*result == 0 && file->type != SIM_DATAGRAM)
        *result = -IOE_OPNOTSUPP;
    if (*result == 0 && length > SIM_PACKET_MAX)
        *result = -IOE_MSGSIZE;
    if (*result < 0)
        return true;
    *result = (int64_t)length;
    sim_file *target = sim_net_file_of_port(sim, SIM_DATAGRAM, port);
    if (target == NULL || target->queued >= SIM_PACKETS)
        return true; /* dropped silently, as on a real network */
    sim_packet *packet = malloc(sizeof(*packet) + length);
    if (packet == NULL) {
        *result = -IOE_NOBUFS;
        return true;
    }
    packet->from = file->port;
    packet->length = length;
    sim_net_vecs_copy(&datagram->transfer, packet->bytes, length, false);
    io_list_push_back(&target->queue, &packet->link);
    target->queued++;
    sim_file_changed(sim, target);
    return true;
}

static bool sim_net_do_file(sim_kernel *sim, sim_file *file, io_op *op, int64_t *result) {
    *result = file->type == SIM_FILE ? 0 : -IOE_INVAL;
    if (*result < 0 || op->kind == IO_SYNC)
        return true;
    io_transfer *transfer = (io_transfer *)op;
    size_t length = sim_net_vecs_length(transfer);
    if (op->kind == IO_READ) {
        size_t held = transfer->offset < file->end ? file->end - (size_t)transfer->offset : 0;
        if (!io_transfer_acquire(transfer)) {
            *result = -IOE_NOMEM;
            return true;
        }
        length = length < held ? length : held;
        if (length > 0)
            sim_net_vecs_copy(transfer, file->bytes + transfer->offset, length, true);
        *result = (int64_t)length;
        return true;
    }
    length = sim_net_partial(sim, length);
    if (transfer->offset > SIM_FILE_MAX || length > SIM_FILE_MAX - transfer->offset) {
        *result = -IOE_FBIG;
        return true;
    }
    size_t end = (size_t)transfer->offset + length;
    if (!sim_net_bytes_reserve(file, end)) {
        *result = -IOE_NOSPC;
        return true;
    }
    if (length > 0)
        sim_net_vecs_copy(transfer, file->bytes + transfer->offset, length, false);
    if (end > file->end && length > 0)
        file->end = end;
    *result = (int64_t)length;
    return true;
}

static uint32_t sim_net_readiness(const sim_file *file) {
    bool readable = file->type == SIM_FILE || file->end > file->start || file->ended ||
                    file->broken || !io_list_empty(&file->queue);
    bool writable =
        file->type == SIM_FILE || file->type == SIM_DATAGRAM || file->broken || file->sends_ended;
    if (file->type == SIM_STREAM && file->connected && !writable)
        writable = file->peer == NULL || file->peer->end - file->peer->start < SIM_STREAM_ROOM;
    return (readable ? IO_READABLE : 0u) | (writable ? IO_WRITABLE : 0u);
}

static bool sim_net_do_poll(const sim_file *file, io_poll *poll, int64_t *result) {
    poll->ready = poll->events & sim_net_readiness(file);
    *result = 0;
    return poll->ready != 0;
}

bool sim_attempt(sim_kernel *sim, sim_file *file, io_op *op, int64_t *result) {
    switch ((io_kind)op->kind) {
    case IO_RECV:
        return sim_net_do_recv(sim, file, (io_transfer *)op, result);
    case IO_RECEIVE:
        return sim_net_do_receive(sim, file, (io_receive *)op, result);
    case IO_SEND:
        return sim_net_do_send(sim, file, (io_transfer *)op, result);
    case IO_ACCEPT:
        return sim_net_do_accept(sim, file, (io_accept *)op, result);
    case IO_CONNECT:
        return sim_net_do_connect(sim, file, (io_connect *)op, result);
    case IO_RECV_FROM:
        return sim_net_do_recv_from(sim, file, (io_datagram *)op, result);
    case IO_SEND_TO:
        return sim_net_do_send_to(sim, file, (io_datagram *)op, result);
    case IO_SEND_FILE:
        return sim_net_do_send_file(sim, file, (io_send_file *)op, result);
    case IO_READ:
    case IO_WRITE:
    case IO_SYNC:
        return sim_net_do_file(sim, file, op, result);
    case IO_POLL:
        return sim_net_do_poll(file, (io_poll *)op, result);
    case IO_POST:
    case IO_TIMER:
    case IO_KINDS:
        break;
    }
    sim_fail(sim, "not an operation for a kernel", op);
}

/* ---- errors ---------------------------------------------------------------------------------- */

int64_t sim_error(sim_kernel *sim, sim_file *file, io_kind kind) {
    static const int errors[IO_KINDS][4] = {
        [IO_POLL] = {-IOE_NOMEM, -IOE_NOMEM, -IOE_NOBUFS, -IOE_NOMEM},
        [IO_RECV] = {-IOE_CONNRESET, -IOE_TIMEDOUT, -IOE_HOSTUNREACH, -IOE_NETRESET},
        [IO_RECEIVE] = {-IOE_CONNRESET, -IOE_TIMEDOUT, -IOE_HOSTUNREACH, -IOE_NETRESET},
        [IO_SEND] = {-IOE_CONNRESET, -IOE_PIPE, -IOE_TIMEDOUT, -IOE_HOSTUNREACH},
        [IO_ACCEPT] = {-IOE_NOBUFS, -IOE_MFILE, -IOE_CONNABORTED, -IOE_NFILE},
        [IO_CONNECT] = {-IOE_CONNREFUSED, -IOE_TIMEDOUT, -IOE_HOSTUNREACH, -IOE_NETUNREACH},
        [IO_RECV_FROM] = {-IOE_CONNREFUSED, -IOE_NOMEM, -IOE_NETDOWN, -IOE_CONNRESET},
        [IO_SEND_TO] = {-IOE_NOBUFS, -IOE_HOSTUNREACH, -IOE_PERM, -IOE_NETUNREACH},
        [IO_SEND_FILE] = {-IOE_CONNRESET, -IOE_PIPE, -IOE_IO, -IOE_TIMEDOUT},
        [IO_READ] = {-IOE_IO, -IOE_IO, -IOE_NOMEM, -IOE_IO},
        [IO_WRITE] = {-IOE_NOSPC, -IOE_IO, -IOE_FBIG, -IOE_NOSPC},
        [IO_SYNC] = {-IOE_IO, -IOE_NOSPC, -IOE_IO, -IOE_IO},
    };
    int error = errors[kind][sim_random(sim, 4)];
    if (kind == IO_RECV || kind == IO_RECEIVE || kind == IO_SEND ||
        (kind == IO_SEND_FILE && error != -IOE_IO))
        sim_net_break_stream(sim, file);
    if (kind == IO_ACCEPT && error == -IOE_CONNABORTED && !io_list_empty(&file->queue)) {
        sim_file *connection = IO_CONTAINER(io_list_pop_front(&file->queue), sim_file, link);
        file->queued--;
        sim_net_leave_peer(sim, connection, true);
        sim_file_unref(sim, connection);
    }
    return error;
}

bool sim_accept_fails(sim_file *file, int64_t *result) {
    if (file->accept_failures == 0 || ++file->accept_attempts % file->accept_period != 0)
        return false;
    file->accept_failures--;
    *result = file->accept_error;
    return true;
}

int io_sim_fail_accepts(io_lane *lane, io_native native, int error, uint32_t times,
                        uint32_t period) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    sim_file *file = sim_file_of(sim, native);
    if (file != NULL) {
        file->accept_error = error;
        file->accept_failures = times;
        file->accept_period = period;
        file->accept_attempts = 0;
        sim_file_changed(sim, file);
    }
    io_mutex_unlock(&sim->lock);
    return file != NULL ? 0 : -IOE_BADF;
}

/* ---- files for tests ------------------------------------------------------------------------- */

/* Creates a file with a native and, if `bound`, a port. The table holds the only reference. */
static int sim_net_make(sim_kernel *sim, sim_type type, bool bound, sim_file **made) {
    sim_file *file = sim_net_file_new(sim, type);
    if (file == NULL)
        return -IOE_NOMEM;
    int error = sim_net_native_new(sim, file);
    if (error) {
        sim_file_unref(sim, file);
        return error;
    }
    file->refs--; /* the table holds its own */
    if (bound)
        file->port = sim_net_port_new(sim);
    *made = file;
    return 0;
}

static int sim_net_make_locked(io_lane *lane, sim_type type, io_native *native, uint16_t *port) {
    sim_kernel *sim = lane->state;
    sim_file *file = NULL;
    io_mutex_lock(&sim->lock);
    int error = sim_net_make(sim, type, port != NULL, &file);
    if (error == 0) {
        *native = file->native;
        if (port != NULL)
            *port = file->port;
    }
    io_mutex_unlock(&sim->lock);
    return error;
}

int io_sim_listener(io_lane *lane, io_native *native, uint16_t *port) {
    return sim_net_make_locked(lane, SIM_LISTENER, native, port);
}

int io_sim_socket(io_lane *lane, io_native *native) {
    return sim_net_make_locked(lane, SIM_STREAM, native, NULL);
}

int io_sim_datagram(io_lane *lane, io_native *native, uint16_t *port) {
    return sim_net_make_locked(lane, SIM_DATAGRAM, native, port);
}

int io_sim_pair(io_lane *lane, io_native natives[2]) {
    sim_kernel *sim = lane->state;
    sim_file *one = NULL, *other = NULL;
    io_mutex_lock(&sim->lock);
    int error = sim_net_make(sim, SIM_STREAM, true, &one);
    if (error == 0)
        error = sim_net_make(sim, SIM_STREAM, true, &other);
    if (error == 0) {
        sim_net_connect_files(one, other);
        natives[0] = one->native;
        natives[1] = other->native;
    } else if (one != NULL) {
        sim_native_close(sim, one);
    }
    io_mutex_unlock(&sim->lock);
    return error;
}

int io_sim_file(io_lane *lane, const void *data, size_t size, io_native *native) {
    sim_kernel *sim = lane->state;
    sim_file *file = NULL;
    if (size > SIM_FILE_MAX)
        return -IOE_FBIG;
    io_mutex_lock(&sim->lock);
    int error = sim_net_make(sim, SIM_FILE, false, &file);
    if (error == 0 && !sim_net_bytes_reserve(file, size)) {
        sim_native_close(sim, file);
        error = -IOE_NOMEM;
    }
    if (error == 0) {
        if (size > 0)
            memcpy(file->bytes, data, size);
        file->end = size;
        *native = file->native;
    }
    io_mutex_unlock(&sim->lock);
    return error;
}
