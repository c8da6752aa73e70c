/* connection_pair.c: see connection_pair.h. */
#include "connection_pair.h"

#ifndef _WIN32
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#endif

_Atomic int pair_owned;

static char pattern[2 * PAIR_PERIOD];

typedef struct owned {
    _Atomic int references;
    size_t length;
    char data[];
} owned;

/* ---- making ---------------------------------------------------------------------------------- */

static void begin(connection_pair *self, const char *backend, uint64_t seed, uint32_t concurrency) {
    memset(self, 0, sizeof(*self));
    if (pattern[1] == 0)
        for (size_t i = 0; i < PAIR_PERIOD; i++)
            pattern[i] = pattern[i + PAIR_PERIOD] = (char)((i * 2654435761u >> 13) | 1);
    atomic_store(&pair_owned, 0);
    world_open(&self->world, backend, concurrency);
    world_misbehave(&self->world, seed);
    self->limits = (io_connection_limits){
        .write_high = 65536, .write_low = 16384, .max_write_buffer = 1 << 20, .read_size = 8192};
    self->file = world_file(&self->world, pattern, sizeof(pattern));
}

void pair_begin(connection_pair *self, const char *backend, uint64_t seed) {
    begin(self, backend, seed, 1);
}

void pair_begin_threads(connection_pair *self, const char *backend, uint64_t seed,
                        uint32_t concurrency) {
    begin(self, backend, seed, concurrency);
    self->threads = true;
}

static void set_nonblocking(const connection_pair *self, io_native native) {
#ifdef _WIN32
    u_long on = 1;
    CHECK(self->world.sim || ioctlsocket((SOCKET)native, (long)FIONBIO, &on) == 0);
#else
    CHECK(self->world.sim || fcntl((int)native, F_SETFL, O_NONBLOCK) == 0);
#endif
}

static void set_option(const pair_end *end, int level, int option, int value) {
#ifdef _WIN32
    CHECK_INT(setsockopt((SOCKET)end->native, level, option, (const char *)&value, sizeof(value)),
              0);
#else
    CHECK_INT(setsockopt((int)end->native, level, option, &value, sizeof(value)), 0);
#endif
}

static pair_end *end_new(connection_pair *self, io_native native) {
    CHECK(self->count < PAIR_ENDS);
    pair_end *end = &self->ends[self->count++];
    end->pair = self;
    end->native = native;
    CHECK_INT(io_mutex_init(&end->sending), 0);
    set_nonblocking(self, native);
    if (!self->world.sim)
        set_option(end, IPPROTO_TCP, TCP_NODELAY, 1);
    return end;
}

static void end_open(pair_end *end) {
    uint32_t os_error = 0;
    end->open = true;
    CHECK_INT(io_connection_open(&end->io, end->pair->world.lane, end->native, AF_INET,
                                 &end->pair->limits, NULL, &os_error),
              0);
    io_post_submit(&end->io.wakeup);
}

pair_end *pair_add(connection_pair *self) {
    io_native natives[2];
    world_pair(&self->world, natives);
    pair_end *one = end_new(self, natives[0]), *other = end_new(self, natives[1]);
    one->peer = other;
    other->peer = one;
    end_open(one);
    end_open(other);
    return one;
}

pair_end *pair_adopt(connection_pair *self, io_native native) {
    pair_end *end = end_new(self, native);
    end_open(end);
    return end;
}

void pair_open(connection_pair *self, const char *backend, uint64_t seed) {
    pair_begin(self, backend, seed);
    pair_add(self);
}

/* Not less: a window below the size of a segment makes TCP wait for timers. */
void pair_narrow(pair_end *end) {
    if (end->pair->world.sim)
        return;
    set_option(end, SOL_SOCKET, SO_SNDBUF, 32768);
    set_option(end, SOL_SOCKET, SO_RCVBUF, 65536);
}

pair_end *pair_open_narrow(connection_pair *self, const char *backend, uint64_t seed) {
    pair_open(self, backend, seed);
    pair_narrow(&self->ends[0]);
    pair_narrow(&self->ends[1]);
    return &self->ends[0];
}

/* ---- the embedder ---------------------------------------------------------------------------- */

static void owned_release(owned *piece) {
    CHECK_INT(atomic_fetch_sub(&piece->references, 1), 1);
    memset(piece->data, 0, piece->length);
    free(piece);
    atomic_fetch_sub(&pair_owned, 1);
}

void pair_release_spent(pair_end *end) {
    for (io_chunk *next, *chunk = io_connection_take_spent(&end->io); chunk != NULL; chunk = next) {
        next = chunk->next;
        CHECK(chunk->owner != NULL);
        owned_release(chunk->owner);
        io_chunk_free(&end->io, chunk);
    }
}

static void check_pattern(pair_end *end, const char *data, size_t length) {
    uint64_t place = end->in + end->kept;
    for (size_t done = 0; done < length;) {
        size_t part = length - done < PAIR_PERIOD ? length - done : PAIR_PERIOD;
        if (memcmp(data + done, pattern + (place + done) % PAIR_PERIOD, part) != 0)
            FAIL("%s: wrong bytes after %llu", end->pair->world.backend->name,
                 (unsigned long long)(place + done));
        done += part;
    }
}

static void on_input(pair_end *end) {
    CHECK_INT(end->came[IO_CONNECTION_EOF], 0);
    if (end->kept > 0) {
        end->in += end->kept;
        end->kept = 0;
        io_connection_keep_input(&end->io, false);
        return;
    }
    size_t length;
    const char *data = io_connection_input(&end->io, &length);
    CHECK(data != NULL && length > 0);
    if (end->most != 0 && length > end->most)
        length = end->most;
    check_pattern(end, data, length);
    if (end->keeps)
        end->kept = length;
    else
        end->in += length;
    io_connection_used(&end->io, length);
    if (end->keeps)
        io_connection_keep_input(&end->io, true);
}

/* The jobs of tests are of no use but to be counted: each is memory of its own. */
static void free_jobs(pair_end *end) {
    for (io_job *next, *job = io_connection_take_jobs(&end->io); job != NULL; job = next) {
        next = job->next;
        free(job);
    }
}

void pair_check_gone(pair_end *end) {
    const io_connection *io = &end->io;
    io_job job;
    io_piece piece = {"x", 1, NULL};
    CHECK_INT(io->phase, IO_CONNECTION_CLOSED);
    CHECK(io->handle == NULL && io->queue_head == NULL && io->queue_tail == NULL);
    CHECK(io->send == NULL && io->timer == NULL && io->receive.buffer == NULL);
    CHECK(!io->scheduled && !io->receiving && io->jobs_last == NULL);
    CHECK_INT(io->bytes_queued, 0);
    CHECK_INT(io_connection_send(&end->io, &piece, 1), 0);
    CHECK(!io_connection_post(&end->io, &job));
    CHECK(!io_connection_abort(&end->io));
}

/* With other threads it may be held just now. */
static void check_hold(const pair_end *end, io_connection_event event) {
    uint8_t hold = end->io.hold;
    if (event == IO_CONNECTION_INPUT || event == IO_CONNECTION_EOF)
        CHECK_INT(hold, 0);
    if (event == IO_CONNECTION_DRAINED) {
        CHECK_INT(hold & ~IO_HOLD_PAUSED, 0);
        CHECK(end->io.bytes_queued <= end->pair->limits.write_high);
    }
    if (event == IO_CONNECTION_ROOM)
        CHECK(end->io.bytes_queued <= end->pair->limits.write_low);
    if (event == IO_CONNECTION_JOBS || event == IO_CONNECTION_DRAINED)
        CHECK(io_connection_is_known(&end->io));
}

static void on_event(pair_end *end, io_connection_event event) {
    CHECK(event <= IO_CONNECTION_GONE && !atomic_load(&end->gone));
    if (!end->pair->threads)
        check_hold(end, event);
    CHECK((event == IO_CONNECTION_STARTED) == (end->came[IO_CONNECTION_STARTED] == 0) ||
          event == IO_CONNECTION_GONE);
    end->came[event]++;
    CHECK(end->came[IO_CONNECTION_STARTED] <= 1 && end->came[IO_CONNECTION_EOF] <= 1);
    if (end->on_event != NULL)
        end->on_event(end, event);
    switch (event) {
    case IO_CONNECTION_STARTED:
        if (!end->shakes_hands)
            io_connection_establish(&end->io);
        break;
    case IO_CONNECTION_JOBS:
        free_jobs(end);
        break;
    case IO_CONNECTION_INPUT:
        on_input(end);
        break;
    case IO_CONNECTION_EOF:
        if (end->answers)
            io_connection_close(&end->io, true);
        break;
    case IO_CONNECTION_GONE:
        free_jobs(end);
        atomic_store(&end->gone, true);
        break;
    default:
        break;
    }
}

static void run(pair_end *end, io_connection_event event) {
    for (; event != IO_CONNECTION_IDLE; event = io_connection_next(&end->io)) {
        CHECK_INT(atomic_fetch_add(&end->inside, 1), 0);
        on_event(end, event);
        pair_release_spent(end);
        CHECK_INT(atomic_fetch_sub(&end->inside, 1), 1);
    }
}

void pair_take(io_op *op) {
    pair_end *end = IO_CONTAINER((io_connection *)op->owner, pair_end, io);
    CHECK(!atomic_load(&end->gone)); /* it would have been freed */
    run(end, io_connection_taken(&end->io, op));
    pair_release_spent(end);
}

bool pair_step(connection_pair *self, unsigned ms) {
    io_op *op = world_get(&self->world, ms);
    if (op != NULL)
        pair_take(op);
    return op != NULL;
}

void pair_settle(connection_pair *self) {
    while (pair_step(self, self->world.sim ? 200 : 30))
        continue;
}

/* ---- sending --------------------------------------------------------------------------------- */

static void fill(char *data, uint64_t place, size_t length) {
    for (size_t done = 0; done < length;) {
        size_t part = length - done < PAIR_PERIOD ? length - done : PAIR_PERIOD;
        memcpy(data + done, pattern + (place + done) % PAIR_PERIOD, part);
        done += part;
    }
}

static owned *owned_new(uint64_t place, size_t length) {
    owned *piece = malloc(sizeof(*piece) + length);
    CHECK(piece != NULL);
    atomic_init(&piece->references, 1);
    piece->length = length;
    fill(piece->data, place, length);
    atomic_fetch_add(&pair_owned, 1);
    return piece;
}

static int send_file(pair_end *end, size_t length) {
    uint32_t os_error = 0;
    CHECK(length <= PAIR_PERIOD);
    return io_connection_send_file(&end->io, end->pair->file, end->out % PAIR_PERIOD, length,
                                   &os_error);
}

int pair_send(pair_end *end, size_t length, pair_how how) {
    io_mutex_lock(&end->sending);
    int answer;
    if (how == PAIR_FILE) {
        answer = send_file(end, length);
    } else {
        owned *memory = owned_new(end->out, length);
        io_piece piece = {memory->data, length, how == PAIR_OWNED ? memory : NULL};
        answer = io_connection_send(&end->io, &piece, 1);
        if (how != PAIR_OWNED || piece.owner != NULL)
            owned_release(memory);
    }
    CHECK(answer == 0 || answer == 1);
    if (answer == 1)
        end->out += length;
    io_mutex_unlock(&end->sending);
    pair_release_spent(end);
    return answer;
}

int pair_send_pieces(pair_end *end, size_t length, int count, test_random *random) {
    owned *memory[16];
    io_piece pieces[16];
    CHECK(count <= 16);
    io_mutex_lock(&end->sending);
    uint64_t place = end->out;
    for (int i = 0; i < count; i++) {
        size_t part = (size_t)test_below(random, length + 1);
        memory[i] = owned_new(place, part);
        pieces[i] =
            (io_piece){memory[i]->data, part, test_below(random, 2) == 0 ? memory[i] : NULL};
        place += part;
    }
    bool is_owned[16];
    for (int i = 0; i < count; i++)
        is_owned[i] = pieces[i].owner != NULL;
    int answer = io_connection_send(&end->io, pieces, (size_t)count);
    CHECK(answer == 0 || answer == 1);
    if (answer == 1)
        end->out = place;
    for (int i = 0; i < count; i++)
        if (!is_owned[i] || pieces[i].owner != NULL)
            owned_release(memory[i]);
    io_mutex_unlock(&end->sending);
    pair_release_spent(end);
    return answer;
}

void pair_resume_step(pair_end *end) {
    if (end->io.hold & IO_HOLD_PAUSED)
        pair_pause(end, false);
    (void)pair_step(end->pair, 10);
}

uint64_t pair_seeds(const char *backend, uint64_t count) {
    return strcmp(backend, "sim") == 0 ? test_scaled(count) : 1;
}

uint64_t pair_queued(pair_end *end) {
    uint64_t received, sent;
    return io_connection_pending(&end->io, &received, &sent);
}

void pair_fill(pair_end *end, uint64_t queued) {
    while (pair_queued(end) < queued)
        CHECK_INT(pair_send(end, 10000, PAIR_OWNED), 1);
}

/* The system's buffers take the rest, sooner or later; see pair_narrow. */
void pair_block(pair_end *end) {
    pair_fill(end, 600000);
    pair_settle(end->pair);
    CHECK(pair_queued(end) > end->pair->limits.write_high);
}

void pair_pause(pair_end *end, bool paused) {
    io_connection_hold(&end->io, IO_HOLD_PAUSED, paused);
}

bool pair_post_job(pair_end *end) {
    io_job *job = calloc(1, sizeof(*job));
    CHECK(job != NULL);
    bool posted = io_connection_post(&end->io, job);
    if (!posted)
        free(job);
    return posted;
}

void pair_end_somehow(pair_end *end, test_random *random) {
    switch (test_below(random, 10)) {
    case 0:
        (void)io_connection_abort(&end->io);
        break;
    case 1:
        (void)io_connection_fail(&end->io, IO_REASON_EMBEDDER, -5);
        break;
    case 2:
        io_connection_begin_end(&end->io, test_below(random, 3) != 0, test_below(random, 3) != 0);
        break;
    case 3:
        io_connection_shutdown(&end->io);
        break;
    case 4:
        (void)io_connection_give_up(&end->io, test_below(random, 2) == 0);
        break;
    default:
        io_connection_close(&end->io, test_below(random, 3) != 0);
        break;
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

void pair_check_all_gone(connection_pair *self) {
    for (int i = 0; i < self->count; i++) {
        pair_end *end = &self->ends[i];
        CHECK_INT(end->came[IO_CONNECTION_GONE], 1);
        pair_check_gone(end);
        CHECK(end->peer == NULL || end->in <= end->peer->out);
        if (end->peer != NULL && end->came[IO_CONNECTION_EOF] > 0)
            CHECK_INT(end->in, end->peer->out); /* an orderly end: nothing is missing */
        io_mutex_destroy(&end->sending);
    }
    CHECK_INT(atomic_load(&pair_owned), 0);
}

void pair_close(connection_pair *self) {
    for (int i = 0; i < self->count; i++)
        PAIR_UNTIL(self, atomic_load(&self->ends[i].gone));
    pair_check_all_gone(self);
    world_native_close(&self->world, self->file, true);
    world_close(&self->world);
}

static void collect(io_op *op, bool leaked, void *context) {
    (void)context;
    if (!leaked)
        io_connection_collected(op->owner, op);
}

size_t pair_close_port(connection_pair *self, uint64_t timeout_ns) {
    CHECK(io_port_begin_close(self->world.port));
    size_t leaked = io_port_drain(self->world.port, timeout_ns);
    io_port_take_remaining(self->world.port, collect, NULL);
    for (int i = 0; i < self->count; i++) {
        if (io_connection_orphaned(&self->ends[i].io, leaked > 0))
            run(&self->ends[i], io_connection_next(&self->ends[i].io));
        pair_release_spent(&self->ends[i]);
    }
    world_native_close(&self->world, self->file, true);
    io_port_finish_close(self->world.port, leaked);
    return leaked;
}
