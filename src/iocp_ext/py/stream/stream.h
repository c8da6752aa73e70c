/* stream.h: what every Python object around an io_connection needs, whatever its callbacks are: a
 * stage, data to send, and the exception that says why it ended.
 *
 * "The runner" is the thread that runs the connection (net/connection.h), one at a time. */
#ifndef IOCPCORE_PY_STREAM_STREAM_H
#define IOCPCORE_PY_STREAM_STREAM_H

#include "py/base/py.h"
#include "net/connection.h"

/* ---- the stage between a stream and its user (stage.c) --------------------------------------- */

/* How far the stage is with closing its own layer, such as TLS. */
typedef enum py_stage_end {
    PY_STAGE_OPEN,
    PY_STAGE_ENDED,            /* has nothing left to write */
    PY_STAGE_CLOSES_AFTER,     /* still writes its closing handshake; then the connection closes */
    PY_STAGE_SHUTS_DOWN_AFTER, /* the same, but then only our stream ends */
} py_stage_end;

/* Zero-initialised: no stage. `object` changes inside the critical section of the owner, the Python
 * object that contains this struct. Only the runner changes it, so the runner may read it
 * directly. */
typedef struct py_stage {
    PyObject *object;    /* python/iocpcore/_stage.py; NULL: none */
    _Atomic bool sends;  /* it has send(): all sent data goes through it */
    bool ready;          /* its handshake is complete, or there is none; for the runner */
    _Atomic uint8_t end; /* py_stage_end */
} py_stage;

/* A new reference, or NULL without an exception if there is no stage. For any thread. */
PyObject *py_stage_get(const py_stage *self, PyObject *owner);
/* Replaces the stage, taking a new reference. NULL removes it, which cannot fail. On failure the
 * old stage stays. */
bool py_stage_set(py_stage *self, PyObject *owner, const py_state *state, PyObject *object);

/* For the runner only. Each calls the method of the stage that has its name. */

/* Begins the handshake. Without a stage, the connection is ready at once. */
bool py_stage_start(py_stage *self, const py_state *state);
/* Passes raw bytes to the stage. Returns the application bytes, perhaps none. */
PyObject *py_stage_receive(const py_stage *self, const py_state *state, const char *data,
                           size_t length);
/* Whether the peer has ended its application stream. Sets no exception. */
bool py_stage_peer_ended(const py_stage *self, const py_state *state);
/* Reports the end of the raw stream. Returns 1 if the stage will end the connection itself, 0 if
 * this is the proper end, -1 with an exception. */
int py_stage_eof(const py_stage *self, const py_state *state);
/* Reports that the write queue has room again. */
bool py_stage_room(const py_stage *self, const py_state *state);

/* For any thread. Return what the stage's send() or send_file() returns, or False if the stage is
 * gone. */
PyObject *py_stage_send(const py_stage *self, PyObject *owner, const py_state *state,
                        PyObject *data);
PyObject *py_stage_send_file(const py_stage *self, PyObject *owner, PyObject *file, uint64_t offset,
                             PyObject *count);
/* Starts the closing handshake, once. Afterwards the connection closes if `whole`, else only our
 * stream ends. Returns true if the stage still has to write: the caller must wait for
 * py_stage_finish. Returns false if the caller can close now. Exceptions go to
 * sys.unraisablehook. */
bool py_stage_close(py_stage *self, PyObject *owner, const py_state *state, bool whole);
/* Marks the closing handshake as written. Returns what was waiting for that:
 * PY_STAGE_CLOSES_AFTER, PY_STAGE_SHUTS_DOWN_AFTER, or another value for nothing. */
py_stage_end py_stage_finish(py_stage *self);
/* Whether the stage still has data to write before the stream can end. */
bool py_stage_pending(const py_stage *self);

/* ---- what is sent (pieces.c) ----------------------------------------------------------------- */

/* Returns false with TypeError if the object exports no buffer. */
bool py_is_bytes_like(PyObject *data, const char *name);
/* Whether this is a list or a tuple, whose items are sent as one. */
bool py_is_pieces(PyObject *data);
/* Views a bytes-like object as a piece. The caller must release the buffer after sending. Exact
 * bytes become the piece's owner (borrowed), so that they can be kept instead of copied. */
bool py_piece_view(PyObject *data, const char *name, io_piece *piece, Py_buffer *buffer);
/* Queues the pieces as one and sends what can be sent. Returns True, or False if the connection
 * takes no more data. */
PyObject *py_pieces_send(io_connection *connection, io_piece *pieces, size_t count);
/* Does that for a bytes-like object, or for a list or tuple of them. */
PyObject *py_pieces_send_data(io_connection *connection, PyObject *data);
/* Drops the references to data that has been sent, which can run Python code. */
void py_pieces_release_spent(io_connection *connection);
/* Returns false with RuntimeError in a forked child, whose port is the parent's. */
bool py_stream_check_fork(const io_connection *connection);

/* ---- why it ended (reason.c) ----------------------------------------------------------------- */

/* Writes "receive from 127.0.0.1:80", or only "receive" if the peer has no address. */
void py_reason_what(const io_address *peer, const char *verb, const char *preposition, char *text,
                    size_t size);
/* A new reference: the exception for the connection's reason. None if there is nothing to say, or
 * if the embedder knows what it is. */
PyObject *py_reason_object(const io_connection *connection, const py_state *state,
                           const io_address *peer);

#endif
