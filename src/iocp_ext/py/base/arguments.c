/* arguments.c: parses the arguments of METH_FASTCALL methods and converts them to C values.
 *
 * The submitting methods are called once per operation, so they use the vectorcall convention.
 * PyArg_ParseTupleAndKeywords cannot parse that, because it needs a tuple and a dict, and CPython's
 * parser for it is private.
 *
 * Messages have the wording of CPython's own, so that these methods look like any other function.
 * Values are borrowed: the caller of the method keeps its arguments during the call. */
#include "py/base/py.h"

#include <math.h>

/* The index of the parameter, or -1. A linear search: there are at most PY_ARGUMENTS_MAX. */
static int arguments_index_of(const py_signature *signature, PyObject *keyword) {
    for (int i = 0; signature->names[i] != NULL; i++)
        if (PyUnicode_CompareWithASCIIString(keyword, signature->names[i]) == 0)
            return i;
    return -1;
}

/* Stores the keyword arguments in `values`. Refuses unknown names and those given twice. */
static bool arguments_sort_keywords(const py_signature *signature,
                                    PyObject *const *values_of_keywords, PyObject *keywords,
                                    PyObject **values) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keywords); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        int index = arguments_index_of(signature, keyword);
        if (index < 0 || values[index] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         index < 0 ? "%s() got an unexpected keyword argument '%U'"
                                   : "%s() got multiple values for argument '%U'",
                         signature->method, keyword);
            return false;
        }
        values[index] = values_of_keywords[i];
    }
    return true;
}

/* The required parameters are checked last, when both ways of giving one have been seen. NULL in
 * `values` means not given, which is different from None. */
bool py_parse(const py_signature *signature, PyObject *const *args, Py_ssize_t count,
              PyObject *keywords, PyObject **values) {
    if (count > signature->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments (%zd given)",
                     signature->method, signature->positional, count);
        return false;
    }
    for (int i = 0; signature->names[i] != NULL; i++)
        values[i] = i < count ? args[i] : NULL;
    if (keywords != NULL && !arguments_sort_keywords(signature, args + count, keywords, values))
        return false;
    for (int i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", signature->method,
                         signature->names[i]);
            return false;
        }
    }
    return true;
}

/* Accepts what has __index__, which refuses floats. That method runs Python code, so nothing may be
 * entered or locked here. A number too large for a C integer is out of range like any other, so it
 * raises ValueError and not OverflowError. */
bool py_arg_integer(PyObject *value, const char *name, long long least, long long most,
                    long long *number) {
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an integer, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return false;
    }
    PyObject *index = PyNumber_Index(value);
    if (index == NULL)
        return false;
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow == 0 && *number >= least && *number <= most)
        return true;
    PyErr_Format(PyExc_ValueError, "%s must be %lld to %lld", name, least, most);
    return false;
}

bool py_arg_length(PyObject *value, const char *name, size_t *length) {
    long long number;
    if (!py_arg_integer(value, name, 1, IO_LENGTH_MAX, &number))
        return false;
    *length = (size_t)number;
    return true;
}

bool py_arg_offset(PyObject *value, const char *name, uint64_t *offset) {
    long long number;
    if (!py_arg_integer(value, name, 0, INT64_MAX, &number))
        return false;
    *offset = (uint64_t)number;
    return true;
}

/* A comparison with NaN is always false, so NaN needs a test of its own. Infinity is allowed: it
 * means no limit, like every other time that is too large for 64 bits. */
bool py_arg_seconds(PyObject *value, const char *name, uint64_t *ns) {
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s must be a number of seconds, not %.200s", name,
                         Py_TYPE(value)->tp_name);
        else if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Format(PyExc_ValueError, "%s must be a number of seconds that fits a float",
                         name);
        return false;
    }
    if (isnan(seconds) || seconds < 0) {
        PyErr_Format(PyExc_ValueError, "%s must be a number of seconds that is not negative", name);
        return false;
    }
    /* Rounded up, so that a timeout never ends early. */
    double exact = ceil(seconds * 1e9);
    *ns = exact < 9e18 ? (uint64_t)exact : IO_NEVER; /* 285 years */
    return true;
}

bool py_arg_timeout(PyObject *value, const char *name, uint64_t *ns) {
    *ns = IO_NEVER;
    return value == NULL || value == Py_None || py_arg_seconds(value, name, ns);
}
