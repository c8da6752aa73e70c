/* test_parts.c: unit tests of the core that need no kernel: lists, the timer heap, operations and
 * their slabs, buffers, guard mode, addresses, errors. */
#include "world.h"

/* ---- lists ----------------------------------------------------------------------------------- */

typedef struct item {
    io_link link;
    int number;
} item;

static void check_list(const io_list *list, const char *should) {
    const io_link *link = list->next;
    for (; *should != '\0'; should++, link = link->next) {
        CHECK(link != list);
        CHECK_INT(IO_CONTAINER(link, const item, link)->number, *should - '0');
        CHECK(link->next->previous == link && link->previous->next == link);
    }
    CHECK(link == list);
}

static void list_operations(void) {
    item items[6];
    io_list list, other;
    io_list_init(&list);
    io_list_init(&other);
    CHECK(io_list_empty(&list) && io_list_pop_front(&list) == NULL);
    for (int i = 0; i < 6; i++)
        items[i].number = i;
    io_list_push_back(&list, &items[1].link);
    io_list_push_back(&list, &items[2].link);
    io_list_push_front(&list, &items[0].link);
    check_list(&list, "012");
    io_list_splice_back(&list, &other); /* nothing */
    check_list(&list, "012");
    for (int i = 3; i < 6; i++)
        io_list_push_back(&other, &items[i].link);
    io_list_splice_back(&list, &other);
    check_list(&list, "012345");
    check_list(&other, "");
    io_list_splice_back(&other, &list);
    check_list(&other, "012345");
    check_list(&list, "");
    io_list_remove(&items[0].link);
    io_list_remove(&items[5].link);
    io_list_remove(&items[2].link);
    check_list(&other, "134");
    io_list_remove(&items[2].link); /* in no list: harmless */
    check_list(&other, "134");
    CHECK(io_list_pop_front(&other) == &items[1].link);
    io_list_insert_before(&items[4].link, &items[2].link);
    check_list(&other, "324");
}

/* ---- the timer heap against a sorted array --------------------------------------------------- */

enum { TIMERS = 200 };

static bool earlier(const io_timer *a, const io_timer *b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void check_first(const io_timer_heap *heap, io_timer *timers, const bool *in) {
    io_timer *first = NULL;
    size_t count = 0;
    for (int i = 0; i < TIMERS; i++) {
        if (!in[i])
            continue;
        count++;
        CHECK(heap->items[timers[i].index] == &timers[i]);
        if (first == NULL || earlier(&timers[i], first))
            first = &timers[i];
    }
    CHECK_INT(heap->count, count);
    CHECK(io_timer_heap_first(heap) == first);
}

static void timer_heap_model(void) {
    for (uint64_t seed = 0; seed < test_scaled(100); seed++) {
        static io_timer timers[TIMERS];
        bool in[TIMERS] = {false};
        io_timer_heap heap = {NULL, 0, 0, 0};
        test_random random = {seed};
        uint64_t range = 1 + test_below(&random, 1000);
        for (int step = 0; step < 600; step++) {
            size_t i = test_below(&random, TIMERS);
            if (in[i]) {
                io_timer_heap_remove(&heap, &timers[i]);
            } else {
                timers[i].deadline_ns = test_below(&random, range);
                CHECK(io_timer_heap_push(&heap, &timers[i]));
            }
            in[i] = !in[i];
            check_first(&heap, timers, in);
        }
        const io_timer *last = NULL;
        for (io_timer *timer; (timer = io_timer_heap_first(&heap)) != NULL; last = timer) {
            CHECK(last == NULL || earlier(last, timer));
            io_timer_heap_remove(&heap, timer);
        }
        io_timer_heap_free(&heap);
    }
}

static void timer_heap_equal_deadlines(void) {
    static io_timer timers[TIMERS];
    io_timer_heap heap = {NULL, 0, 0, 0};
    for (int i = 0; i < TIMERS; i++) {
        timers[i].deadline_ns = 7;
        CHECK(io_timer_heap_push(&heap, &timers[i]));
    }
    for (int i = 0; i < TIMERS; i++) {
        CHECK(io_timer_heap_first(&heap) == &timers[i]);
        io_timer_heap_remove(&heap, &timers[i]);
    }
    io_timer_heap_free(&heap);
}

/* ---- operations ------------------------------------------------------------------------------ */

static void op_memory(void) {
    enum { MANY = 1000 };
    static io_op *ops[MANY];
    test_world world;
    world_open(&world, "sim", 1);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < MANY; i++) {
            ops[i] = io_op_new(world.lane, (io_kind)(i % IO_KINDS), NULL, &ops[i]);
            CHECK(ops[i] != NULL && ops[i]->owner == &ops[i] && ops[i]->lane == world.lane);
            CHECK_INT(ops[i]->kind, i % IO_KINDS);
            CHECK_INT(ops[i]->state, IO_OP_PREPARED);
            CHECK_INT(ops[i]->result, 0);
            CHECK(ops[i]->handle == NULL && ops[i]->flags == 0 && io_list_empty(&ops[i]->link));
            if (ops[i]->kind == IO_ACCEPT)
                CHECK(((io_accept *)ops[i])->accepted == IO_NATIVE_NONE);
            if (ops[i]->kind == IO_SEND)
                memset(((io_transfer *)ops[i])->inline_vecs, 0xff, sizeof(io_vec));
        }
        for (int i = 0; i < MANY; i++)
            io_op_release(ops[(i * 7) % MANY]);
    }
    world_close(&world);
}

static void op_tokens(void) {
    test_world world;
    world_open(&world, "sim", 1);
    if (io_guard_enabled()) {
        world_close(&world);
        test_skip("in guard mode a released operation cannot even be looked at");
    }
    io_op *op = io_op_new(world.lane, IO_RECV, NULL, NULL);
    uint64_t token = io_op_token(op);
    CHECK(io_op_from_token(token) == op);
    io_op_release(op);
    CHECK(io_op_from_token(token) == NULL);
    io_op *again = io_op_new(world.lane, IO_SEND, NULL, NULL);
    CHECK(again == op);                     /* the memory is used again, */
    CHECK(io_op_from_token(token) == NULL); /* but the old token is not for it */
    CHECK(io_op_from_token(io_op_token(again)) == again);
    io_op_release(again);
    world_close(&world);
}

static void op_vectors(void) {
    test_world world;
    world_open(&world, "sim", 1);
    io_transfer *transfer = (io_transfer *)io_op_new(world.lane, IO_SEND, NULL, NULL);
    CHECK(io_transfer_reserve(transfer, IO_INLINE_VECS));
    CHECK(transfer->vecs == transfer->inline_vecs && transfer->vecs_allocated == NULL);
    CHECK(io_transfer_reserve(transfer, IO_VECS_MAX));
    CHECK(transfer->vecs == transfer->vecs_allocated);
    memset(transfer->vecs, 0, IO_VECS_MAX * sizeof(io_vec));
    io_op_release(&transfer->op);
    transfer = (io_transfer *)io_op_new(world.lane, IO_RECV, NULL, NULL);
    io_vec_set(&transfer->vecs[0], NULL, 3000);
    transfer->vec_count = 1;
    CHECK(io_transfer_acquire(transfer));
    char *base = io_vec_base(&transfer->vecs[0]);
    CHECK(base != NULL && base == transfer->pooled);
    memset(base, 1, 3000);
    CHECK(io_transfer_acquire(transfer) && io_vec_base(&transfer->vecs[0]) == base);
    io_op_release(&transfer->op); /* gives the buffer back too */
    world_close(&world);
}

static void kind_names(void) {
    for (int kind = 0; kind < IO_KINDS; kind++)
        CHECK(io_kind_name((io_kind)kind) != NULL);
    CHECK(strcmp(io_kind_name(IO_SEND_FILE), "send_file") == 0);
    CHECK(strcmp(io_kind_name(IO_READ), "read") == 0);
}

/* ---- buffers --------------------------------------------------------------------------------- */

static void buffer_classes(void) {
    io_buffer_pool pool;
    memset(&pool, 0, sizeof pool);
    for (size_t size = 1; size <= IO_BUFFER_POOLED_MAX; size = size * 3 / 2 + 1) {
        void *one = io_buffer_acquire(&pool, size), *other = io_buffer_acquire(&pool, size);
        CHECK(one != NULL && other != NULL && one != other);
        CHECK((uintptr_t)one % 16 == 0);
        memset(one, 1, size);
        memset(other, 2, size);
        CHECK(((char *)one)[size - 1] == 1);
        io_buffer_release(&pool, one);
        io_buffer_release(&pool, other);
    }
    void *largest = io_buffer_acquire(&pool, IO_BUFFER_POOLED_MAX);
    memset(largest, 3, IO_BUFFER_POOLED_MAX);
    io_buffer_release(&pool, largest);
    io_buffer_pool_close(&pool);
}

static void buffer_random(void) {
    enum { HELD = 64 };
    io_buffer_pool pool;
    char *held[HELD] = {NULL};
    size_t sizes[HELD] = {0};
    test_random random = {5};
    memset(&pool, 0, sizeof pool);
    for (uint64_t step = 0; step < test_scaled(50000); step++) {
        size_t i = test_below(&random, HELD);
        if (held[i] != NULL) {
            CHECK(held[i][0] == (char)i && held[i][sizes[i] - 1] == (char)i);
            io_buffer_release(&pool, held[i]);
            held[i] = NULL;
        } else {
            sizes[i] = 1 + test_below(&random, UINT64_C(1) << test_below(&random, 17));
            held[i] = io_buffer_acquire(&pool, sizes[i]);
            CHECK(held[i] != NULL);
            held[i][0] = held[i][sizes[i] - 1] = (char)i;
        }
    }
    for (size_t i = 0; i < HELD; i++) {
        if (held[i] != NULL)
            io_buffer_release(&pool, held[i]);
    }
    io_buffer_pool_close(&pool);
}

/* ---- guard mode ------------------------------------------------------------------------------ */

static void set_guard(void) {
#ifdef _WIN32
    _putenv("IOCPCORE_GUARD=1");
#else
    setenv("IOCPCORE_GUARD", "1", 1);
#endif
}

/* In a process of its own: writes to what was released. Ends with 0 if that was possible. */
static int guard_child(const char *what) {
    test_world world;
    set_guard();
    world_open(&world, "sim", 1);
    volatile char *memory = NULL;
    if (strcmp(what, "guard-op") == 0) {
        io_op *op = io_op_new(world.lane, IO_RECV, NULL, NULL);
        memory = (volatile char *)op;
        *memory = 1; /* still allowed */
        op->generation = 0;
        io_op_release(op);
    } else if (strcmp(what, "guard-buffer") == 0) {
        void *buffer = io_buffer_acquire(&world.port->buffers, 512);
        memory = buffer;
        *memory = 1;
        io_buffer_release(&world.port->buffers, buffer);
    } else { /* guard-fine: nothing wrong */
        io_op_release(io_op_new(world.lane, IO_RECV, NULL, NULL));
        return 0;
    }
    *memory = 1;
    return 0;
}

static void guard_mode(void) {
    CHECK(!test_child_dies("guard-fine"));
    CHECK(test_child_dies("guard-op"));
    CHECK(test_child_dies("guard-buffer"));
}

/* ---- addresses ------------------------------------------------------------------------------- */

static void check_text(const io_address *address, const char *should) {
    char text[200];
    io_address_text(address, text, sizeof(text));
    if (strcmp(text, should) != 0)
        FAIL("the address is \"%s\", not \"%s\"", text, should);
    for (size_t size = 1; size <= 8; size++) {
        memset(text, 'x', sizeof(text));
        io_address_text(address, text, size); /* cut off, ended, and nothing behind it */
        CHECK(memchr(text, '\0', size) != NULL && text[size] == 'x');
    }
}

static void addresses(void) {
    io_address address;
    CHECK_INT(io_address_inet(&address, "127.0.0.1", 80, 0, 0, AF_INET), 0);
    check_text(&address, "127.0.0.1:80");
    CHECK_INT(io_address_inet(&address, "::1", 65535, 0, 0, AF_INET6), 0);
    check_text(&address, "[::1]:65535");
    static const char *const wrong[] = {"",           "localhost", "127.0.0.256", "1.2.3",
                                        "127.0.0.1 ", "[::1]",     "::1"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        CHECK(io_address_inet(&address, wrong[i], 1, 0, 0, AF_INET) != 0);
    CHECK(io_address_inet(&address, "127.0.0.1", 1, 0, 0, AF_INET6) != 0);
#ifndef _WIN32
    char path[300];
    memset(path, 'p', sizeof(path));
    CHECK_INT(io_address_unix(&address, "/tmp/sock", 9), 0);
    check_text(&address, "/tmp/sock");
    CHECK_INT(address.storage.ss_family, AF_UNIX);
    CHECK(io_address_unix(&address, path, sizeof(path)) != 0);
    CHECK_INT(io_address_unix(&address, "\0abstract", 9), 0);
#endif
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(list_operations), TEST(timer_heap_model), TEST(timer_heap_equal_deadlines),
        TEST(op_memory),       TEST(op_tokens),        TEST(op_vectors),
        TEST(kind_names),      TEST(buffer_classes),   TEST(buffer_random),
        TEST(guard_mode),      TEST(addresses),
    };
    if (argc == 2 && strncmp(argv[1], "guard-", 6) == 0)
        return guard_child(argv[1]);
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
