/* group_options.c: parses the keyword arguments of a connection group.
 *
 * The tables of group_options.h are expanded here into a table for the parser and into the text of
 * the signature. PyArg_ParseTupleAndKeywords would need a format string and a list of pointers,
 * both in the order of the names, with nothing to check that they agree. */
#include "py/server/server.h"

#include <stddef.h>

typedef enum group_option_kind {
    OPTION_CALLABLE,
    OPTION_FRAMING,
    OPTION_SIZE,
    OPTION_COUNT,
    OPTION_SECONDS,
    OPTION_FLAG
} group_option_kind;

typedef struct group_option {
    const char *name;
    group_option_kind kind;
    size_t offset; /* of its field in py_group_options */
    long long least, most;
} group_option;

#define CALLBACK_OPTION(enumerator, name) \
    {#name, OPTION_CALLABLE, offsetof(py_group_options, callbacks[enumerator]), 0, 0},
#define FACTORY_OPTION(kind, name) {#name, OPTION_##kind, offsetof(py_group_options, name), 0, 0},
#define LIMIT_OPTION(kind, name, least, most) \
    {#name, OPTION_##kind, offsetof(py_group_options, name), least, most},

// clang-format off
static const group_option group_options_table[] = {
    PY_CONNECTION_CALLBACKS(CALLBACK_OPTION)
    PY_GROUP_CALLBACKS(CALLBACK_OPTION)
    PY_GROUP_FACTORIES(FACTORY_OPTION)
    PY_GROUP_LIMITS(LIMIT_OPTION)
};

#define CALLBACK_PARAMETER(enumerator, name) ", " #name "=None"
#define FACTORY_PARAMETER(kind, name) ", " #name "=None"
#define LIMIT_PARAMETER(kind, name, least, most) ", " #name

const char py_group_doc[] =
    "ConnectionGroup(port, /, *"
    PY_CONNECTION_CALLBACKS(CALLBACK_PARAMETER)
    PY_GROUP_CALLBACKS(CALLBACK_PARAMETER)
    PY_GROUP_FACTORIES(FACTORY_PARAMETER)
    PY_GROUP_LIMITS(LIMIT_PARAMETER)
    ")\n--\n\n"
    "What the connections of one server, or of one kind of client, have in common. Private: see "
    "Server and connect().";
// clang-format on

enum { OPTIONS = sizeof group_options_table / sizeof group_options_table[0] };

/* The index of the option, or -1. */
static int group_options_find(PyObject *keyword) {
    for (int i = 0; i < OPTIONS; i++)
        if (PyUnicode_CompareWithASCIIString(keyword, group_options_table[i].name) == 0)
            return i;
    return -1;
}

/* Stores each argument, borrowed, at the index of its option. */
/* Borrowed references suffice: the dict belongs to this call, and lives until the group has its
 * own. */
static bool group_options_sort(PyObject *keywords, PyObject **values) {
    PyObject *keyword, *value;
    Py_ssize_t position = 0;
    while (keywords != NULL && PyDict_Next(keywords, &position, &keyword, &value)) {
        int index = group_options_find(keyword);
        if (index < 0) {
            PyErr_Format(PyExc_TypeError,
                         "ConnectionGroup() got an unexpected keyword argument '%U'", keyword);
            return false;
        }
        values[index] = value;
    }
    return true;
}

/* Reads a callable. FRAMING also accepts a framing in C, which is not callable. */
static bool group_options_read_function(const group_option *option, const py_state *state,
                                        PyObject *value, PyObject **field) {
    if (value == NULL || value == Py_None)
        return true;
    bool fits = PyCallable_Check(value) ||
                (option->kind == OPTION_FRAMING && py_framing_of(state, value) != NULL);
    if (fits)
        *field = value;
    else
        PyErr_Format(PyExc_TypeError, "%s must be callable, not %.200s", option->name,
                     Py_TYPE(value)->tp_name);
    return fits;
}

/* Reads a limit. All limits must be given: their defaults are in _options.py. */
static bool group_options_read_limit(const group_option *option, PyObject *value, uint64_t *field) {
    long long number = 0;
    if (value == NULL) {
        PyErr_Format(PyExc_TypeError, "ConnectionGroup() missing required argument '%s'",
                     option->name);
        return false;
    }
    if (option->kind == OPTION_SECONDS)
        return py_arg_timeout(value, option->name, field);
    bool unlimited = option->kind == OPTION_COUNT && value == Py_None; /* 0 then */
    if (!unlimited && !py_arg_integer(value, option->name, option->least, option->most, &number))
        return false;
    *field = (uint64_t)number;
    return true;
}

/* The defaults must be NULL before the first option is read: functions that are not given are left
 * alone. */
bool py_group_options_parse(const py_state *state, PyObject *keywords, py_group_options *options) {
    PyObject *values[OPTIONS] = {NULL};
    *options = (py_group_options){{NULL}};
    if (!group_options_sort(keywords, values))
        return false;
    for (int i = 0; i < OPTIONS; i++) {
        const group_option *option = &group_options_table[i];
        void *field = (char *)options + option->offset;
        bool is_function = option->kind == OPTION_CALLABLE || option->kind == OPTION_FRAMING;
        if (is_function ? !group_options_read_function(option, state, values[i], field)
                        : !group_options_read_limit(option, values[i], field))
            return false;
    }
    return true;
}
