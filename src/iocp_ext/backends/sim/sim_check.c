/* sim_check.c: checks that the core keeps the rules of backend.h.
 *
 * With a real kernel a broken rule causes memory corruption, much later. The simulator ends the
 * process immediately and prints the seed, with which the run can be repeated. With IO_SIM_CHECK
 * the body of an operation is moved elsewhere while the simulated kernel owns it, and a pattern
 * takes its place, so that any use or change of it is detected. In the head only the link, the
 * state and the flags may change meanwhile; they belong to the handle queue. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "backends/sim/sim_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIM_POISON 0xDB

_Noreturn void sim_fail(const sim_kernel *sim, const char *what, const io_op *op) {
    fprintf(stderr, "sim: seed=%llu faults=0x%x at %llu ns: %s (%s)\n",
            (unsigned long long)sim->seed, (unsigned)sim->faults,
            (unsigned long long)(sim->now_ns - SIM_START_NS), what,
            op == NULL ? "no operation" : io_kind_name((io_kind)op->kind));
    fflush(stderr);
    abort();
}

bool sim_sends(uint8_t kind) {
    return kind == IO_SEND || kind == IO_CONNECT || kind == IO_SEND_TO || kind == IO_SEND_FILE;
}

bool sim_receives(uint8_t kind) {
    return kind == IO_RECV || kind == IO_RECEIVE || kind == IO_ACCEPT || kind == IO_RECV_FROM;
}

size_t sim_op_size(uint8_t kind) {
    switch ((io_kind)kind) {
    case IO_RECV:
    case IO_SEND:
    case IO_READ:
    case IO_WRITE:
    case IO_SYNC:
        return sizeof(io_transfer);
    case IO_RECV_FROM:
    case IO_SEND_TO:
        return sizeof(io_datagram);
    case IO_RECEIVE:
        return sizeof(io_receive);
    case IO_ACCEPT:
        return sizeof(io_accept);
    case IO_CONNECT:
        return sizeof(io_connect);
    case IO_SEND_FILE:
        return sizeof(io_send_file);
    case IO_POLL:
        return sizeof(io_poll);
    case IO_POST:
    case IO_TIMER:
    case IO_KINDS:
        break;
    }
    return sizeof(io_op);
}

/* Reads from the buffers, so that a sanitizer or guard mode detects one freed too early. */
static void sim_check_touch_buffers(const io_transfer *transfer) {
    for (uint32_t i = 0; i < transfer->vec_count; i++) {
        volatile const char *base = io_vec_base(&transfer->vecs[i]);
        size_t length = io_vec_length(&transfer->vecs[i]);
        if (base != NULL && length > 0)
            (void)(base[0] + base[length - 1]);
    }
}

void sim_poison(sim_kernel *sim, sim_work *work) {
    if (!(sim->faults & IO_SIM_CHECK) || work->poisoned)
        return;
    io_op *op = work->op;
    work->head.lane = op->lane;
    work->head.handle = op->handle;
    work->head.owner = op->owner;
    work->head.generation = op->generation;
    work->head.kind = op->kind;
    work->head.result = op->result;
    work->head.os_error = op->os_error;
    work->poisoned = true;
    memcpy(work->body, op + 1, work->body_size);
    memset(op + 1, SIM_POISON, work->body_size);
}

void sim_unpoison(sim_kernel *sim, sim_work *work) {
    if (!work->poisoned)
        return;
    io_op *op = work->op;
    const io_op *head = &work->head;
    const unsigned char *bytes = (const unsigned char *)(op + 1);
    if (head->lane != op->lane || head->handle != op->handle || head->owner != op->owner ||
        head->generation != op->generation || head->kind != op->kind)
        sim_fail(sim, "the head of an operation in flight was changed", head);
    if (head->result != op->result || head->os_error != op->os_error)
        sim_fail(sim, "an operation in flight was given a result", op);
    for (size_t i = 0; i < work->body_size; i++) {
        if (bytes[i] != SIM_POISON)
            sim_fail(sim, "an operation in flight was written to", op);
    }
    memcpy(op + 1, work->body, work->body_size);
    work->poisoned = false;
    if (sim_op_size(op->kind) >= sizeof(io_transfer) && op->kind != IO_ACCEPT &&
        op->kind != IO_CONNECT && op->kind != IO_SEND_FILE && op->kind != IO_POLL)
        sim_check_touch_buffers((const io_transfer *)op);
}

/* Checks what the core must guarantee about an operation that it submits. */
void sim_check_submit(const sim_kernel *sim, const sim_file *file, const io_op *op) {
    const io_handle *handle = op->handle;
    if (!handle->open || handle->lane != sim->lane)
        sim_fail(sim, "submit on a handle that is not open", op);
    for (const io_link *link = file->works.next; link != &file->works; link = link->next) {
        const sim_work *work = IO_CONTAINER(link, const sim_work, link);
        if (work->op->handle != handle)
            continue; /* belongs to an earlier handle whose native other code has closed */
        if (sim_sends(work->kind) && sim_sends(op->kind))
            sim_fail(sim, "two sends at once on one socket", op);
        if (sim_receives(work->kind) && sim_receives(op->kind))
            sim_fail(sim, "two receives at once on one socket", op);
    }
}
