/* group_options.h: the options of a connection group, each of them written once.
 *
 * The tables below generate the enum of callbacks, the fields, the parser and the signature that
 * Python shows. The limits' defaults are in python/iocpcore/_options.py only. */
#ifndef IOCPCORE_PY_SERVER_GROUP_OPTIONS_H
#define IOCPCORE_PY_SERVER_GROUP_OPTIONS_H

#include "py/base/py.h"

/* X(enumerator, name): the user's functions, called on a connection's strand. */
#define PY_CONNECTION_CALLBACKS(X) \
    X(PY_ON_CONNECT, on_connect)   \
    X(PY_ON_DATA, on_data)         \
    X(PY_ON_MESSAGE, on_message)   \
    X(PY_ON_EOF, on_eof)           \
    X(PY_ON_DRAIN, on_drain)       \
    X(PY_ON_CLOSE, on_close)       \
    X(PY_ON_ERROR, on_error)

/* X(enumerator, name): functions of the package itself. */
#define PY_GROUP_CALLBACKS(X)              \
    X(PY_ON_FAILED, on_failed)             \
    X(PY_ON_EMPTY, on_empty)               \
    X(PY_ON_ACCEPT_ERROR, on_accept_error) \
    X(PY_ON_REFUSED, on_refused)           \
    X(PY_ON_LOST, on_lost)

/* X(kind, name): callables that return something for a connection. FRAMING may also be a framing in
 * C. */
#define PY_GROUP_FACTORIES(X) \
    X(FRAMING, framing)       \
    X(CALLABLE, stage)        \
    X(CALLABLE, executor)

/* X(kind, name, least, most): limits, all required. The kinds are
 *
 *   SIZE     an integer
 *   COUNT    an integer, or None for no limit, which is 0 here
 *   SECONDS  a time, here in nanoseconds, or None for no limit, which is IO_NEVER here
 *   FLAG     True or False */
#define PY_GROUP_LIMITS(X)                              \
    X(SECONDS, idle_timeout, 0, 0)                      \
    X(SECONDS, handshake_timeout, 0, 0)                 \
    X(SIZE, write_high, 0, INT64_MAX)                   \
    X(SIZE, write_low, 0, INT64_MAX)                    \
    X(SIZE, max_write_buffer, 1, INT64_MAX)             \
    X(COUNT, max_connections, 1, INT64_MAX)             \
    X(COUNT, max_connections_per_address, 1, INT64_MAX) \
    X(SIZE, read_size, 1, IO_BUFFER_POOLED_MAX)         \
    X(FLAG, reads_on, 0, 1)

#define PY_CALLBACK_ENUMERATOR(enumerator, name) enumerator,
typedef enum py_callback {
    PY_CONNECTION_CALLBACKS(PY_CALLBACK_ENUMERATOR) PY_GROUP_CALLBACKS(PY_CALLBACK_ENUMERATOR)
        PY_CALLBACKS
} py_callback;
#undef PY_CALLBACK_ENUMERATOR

/* The parsed arguments. References are borrowed; NULL: not given, or None. */
#define PY_FACTORY_FIELD(kind, name) PyObject *name;
#define PY_LIMIT_FIELD(kind, name, least, most) uint64_t name;
typedef struct py_group_options {
    PyObject *callbacks[PY_CALLBACKS];
    PY_GROUP_FACTORIES(PY_FACTORY_FIELD)
    PY_GROUP_LIMITS(PY_LIMIT_FIELD)
} py_group_options;
#undef PY_FACTORY_FIELD
#undef PY_LIMIT_FIELD

/* The docstring of the type, which begins with the constructor's signature. */
extern const char py_group_doc[];

/* Parses the keyword arguments. On failure, the exception names the faulty one. */
bool py_group_options_parse(const py_state *state, PyObject *keywords, py_group_options *options);

#endif
