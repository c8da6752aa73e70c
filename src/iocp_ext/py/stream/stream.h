/* stream.h: what every Python object with an io_connection in it needs, whatever its callbacks are:
 * its stage, what it is given to send, and the exceptions that say why it ended. */
#ifndef IOCPCORE_PY_STREAM_STREAM_H
#define IOCPCORE_PY_STREAM_STREAM_H

#include "py/base/py.h"
#include "net/connection.h"

/* ---- the stage between a stream and its user (stage.c) --------------------------------------- */

/* Whether the stage has closed its own layer, such as TLS. */
typedef enum py_stage_end {
    PY_STAGE_OPEN,
    PY_STAGE_ENDED,            /* it has written its last */
    PY_STAGE_CLOSES_AFTER,     /* it still has to write; then the connection is closed */
    PY_STAGE_SHUTS_DOWN_AFTER, /* or only our stream ended */
} py_stage_end;

/* All zero at first: there is none. The runner of the connection may use `object` directly; it
 * changes under the critical section of the owner, the Python object that this is a part of. */
typedef struct py_stage {
    PyObject *object;    /* python/iocpcore/_stage.py; NULL: none */
    _Atomic bool sends;  /* what is sent goes through it */
    bool ready;          /* its handshake is complete, or there is none */
    _Atomic uint8_t end; /* py_stage_end */
} py_stage;

/* A new reference, or NULL. */
PyObject *py_stage_get(const py_stage *self, PyObject *owner);
/* Takes a reference of its own. NULL: none from now on, which does not fail. False: there is an
 * exception, and the stage is as it was. */
bool py_stage_set(py_stage *self, PyObject *owner, const py_state *state, PyObject *object);

/* For the runner only: */
bool py_stage_start(py_stage *self, const py_state *state); /* false: an exception */
/* What it makes of raw bytes, as bytes; NULL with an exception. */
PyObject *py_stage_receive(const py_stage *self, const py_state *state, const char *data,
                           size_t length);
bool py_stage_peer_ended(const py_stage *self, const py_state *state);
/* The raw stream has ended. 1: the user is told later; 0: now; -1: an exception. */
int py_stage_eof(const py_stage *self, const py_state *state);
bool py_stage_room(const py_stage *self, const py_state *state); /* false: an exception */

/* What its send() and send_file() return. False if there is none any more; NULL: an exception. */
PyObject *py_stage_send(const py_stage *self, PyObject *owner, const py_state *state,
                        PyObject *data);
PyObject *py_stage_send_file(const py_stage *self, PyObject *owner, PyObject *file, uint64_t offset,
                             PyObject *count);
/* Has it begin its closing handshake, once; with `whole` the connection is closed after that, or
 * else only our stream ends. True: it calls py_stage_finish later. */
bool py_stage_close(py_stage *self, PyObject *owner, const py_state *state, bool whole);
/* What was waiting for it: PY_STAGE_CLOSES_AFTER, PY_STAGE_SHUTS_DOWN_AFTER, or anything else for
 * nothing. */
py_stage_end py_stage_finish(py_stage *self);
/* Whether it still has to write what came before the end. */
bool py_stage_pending(const py_stage *self);

/* ---- what is sent (pieces.c) ----------------------------------------------------------------- */

/* Raises TypeError for what is no buffer. */
bool py_is_bytes_like(PyObject *data, const char *name);
/* A list or a tuple, to be sent as one. */
bool py_is_pieces(PyObject *data);
/* Bytes objects may be kept; other buffers are copied, since they may change. The caller releases
 * the buffer. */
bool py_piece_view(PyObject *data, const char *name, io_piece *piece, Py_buffer *buffer);
/* True, or False if nothing is taken any more; NULL: an exception. */
PyObject *py_pieces_send(io_connection *connection, io_piece *pieces, size_t count);
/* The same for a buffer, or a list or tuple of such. */
PyObject *py_pieces_send_data(io_connection *connection, PyObject *data);
/* Lets go of what has been sent. */
void py_pieces_release_spent(io_connection *connection);
bool py_stream_check_fork(const io_connection *connection); /* false: an exception */

/* ---- why it ended (reason.c) ----------------------------------------------------------------- */

/* "receive from 127.0.0.1:80", or "receive" where the peer has no address. */
void py_reason_what(const io_address *peer, const char *verb, const char *preposition, char *text,
                    size_t size);
/* A new reference: the exception for the connection's reason. None if there is nothing to say, or
 * if the embedder knows what it is. */
PyObject *py_reason_object(const io_connection *connection, const py_state *state,
                           const io_address *peer);

#endif
