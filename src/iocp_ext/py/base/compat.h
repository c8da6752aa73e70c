/* compat.h: functions of newer CPython versions, for 3.11 and 3.12.
 *
 * The sources use the newest names only. Each block below is for versions before the one in its
 * condition; the replacements do what the originals do, as far as this package needs it. */
#ifndef IOCPCORE_PY_BASE_COMPAT_H
#define IOCPCORE_PY_BASE_COMPAT_H

#include <Python.h>
#include <structmember.h> /* before 3.12: T_PYSSIZET, READONLY */

#if PY_VERSION_HEX < 0x030C0000

#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY

static inline PyObject *PyErr_GetRaisedException(void) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static inline void PyErr_SetRaisedException(PyObject *exception) {
    if (exception == NULL)
        PyErr_Clear();
    else
        PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception,
                      PyException_GetTraceback(exception));
}

#endif

#if PY_VERSION_HEX < 0x030D0000

/* Before 3.13 every build has a GIL, which does what a critical section would. */
#define Py_BEGIN_CRITICAL_SECTION(object) \
    {                                     \
        (void)(object);
#define Py_END_CRITICAL_SECTION() }

/* 1: *target is a new reference; 0: the object is dead; -1: an exception is set. */
static inline int PyWeakref_GetRef(PyObject *reference, PyObject **target) {
    PyObject *object = PyWeakref_GetObject(reference);
    *target = object == NULL || object == Py_None ? NULL : Py_NewRef(object);
    return object == NULL ? -1 : *target != NULL;
}

static inline int PyObject_GetOptionalAttr(PyObject *object, PyObject *name, PyObject **value) {
    return _PyObject_LookupAttr(object, name, value);
}

#endif

#endif
