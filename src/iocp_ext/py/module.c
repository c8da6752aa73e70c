/* module.c: the module iocpcore._core: its state, its types, its functions. Wiring only.
 *
 * The tables in base/py.h say what the state consists of. Each is expanded here to fill the
 * state, to visit it and to clear it, so a new entry cannot be forgotten in one of the places.
 *
 * Every interpreter that imports the module gets a state of its own. No object is kept in a static
 * variable, so interpreters share none. */
#include "py/server/server.h"

static py_state *module_state_of(PyObject *module) {
    return PyModule_GetState(module);
}

/* Stores an attribute of a module in *place, which then owns the reference. */
static bool module_import_name(const char *module, const char *name, PyObject **place) {
    PyObject *imported = PyImport_ImportModule(module);
    if (imported == NULL)
        return false;
    *place = PyObject_GetAttrString(imported, name);
    Py_DECREF(imported);
    return *place != NULL;
}

static bool module_intern(const char *text, PyObject **place) {
    *place = PyUnicode_InternFromString(text);
    return *place != NULL;
}

/* Creates a heap type that belongs to this module. A private type is not an attribute of the
 * module, but objects of it are created all the same. */
static bool module_make_type(PyObject *module, PyType_Spec *spec, bool is_public,
                             PyTypeObject **place) {
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place != NULL && (!is_public || PyModule_AddType(module, *place) == 0);
}

/* The imported modules must not import iocpcore._core at their top level: it is being imported
 * now. */
static bool module_import_names(py_state *state) {
#define X(field, module, name)                            \
    if (!module_import_name(module, name, &state->field)) \
        return false;
    PY_IMPORTS(X)
#undef X
#define X(name)                                    \
    if (!module_intern(#name, &state->str_##name)) \
        return false;
    PY_STRINGS(X)
#undef X
    state->open_ports = PyDict_New();
    return state->open_ports != NULL;
}

/* Only waits of the main thread are interrupted by signals (port/waiting.c). Asks threading,
 * because any thread may be the first to import the module. A forked child calls _set_main_thread
 * instead. */
static bool module_find_main_thread(py_state *state) {
    PyObject *get_main_thread = NULL;
    if (!module_import_name("threading", "main_thread", &get_main_thread))
        return false;
    PyObject *thread = PyObject_CallNoArgs(get_main_thread);
    PyObject *ident = thread == NULL ? NULL : PyObject_GetAttrString(thread, "ident");
    if (ident != NULL)
        state->main_thread = PyLong_AsUnsignedLong(ident);
    Py_XDECREF(ident);
    Py_XDECREF(thread);
    Py_DECREF(get_main_thread);
    return PyErr_Occurred() == NULL;
}

/* If this fails halfway, the module is freed: module_clear accepts a state that is partly filled,
 * because it is all zero at first. */
static int module_exec(PyObject *module) {
    py_state *state = module_state_of(module);
    if (!module_import_names(state) || !module_find_main_thread(state))
        return -1;
#define X(name, is_public)                                                            \
    if (!module_make_type(module, &py_##name##_spec, is_public, &state->name##_type)) \
        return -1;
    PY_TYPES(X)
#undef X
    if (PyModule_AddFunctions(module, py_pipe_methods) < 0)
        return -1;
    return PyModule_AddFunctions(module, py_sim_methods);
}

/* The interned strings are not visited: they refer to nothing, so they are never part of a
 * cycle. */
static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    py_state *state = module_state_of(module);
#define X(name, ...) Py_VISIT(state->name##_type);
    PY_TYPES(X)
#undef X
#define X(field, ...) Py_VISIT(state->field);
    PY_IMPORTS(X)
#undef X
    Py_VISIT(state->open_ports);
    return 0;
}

/* Ports may still exist when the collector clears the module: see port_type_unlist. */
static int module_clear(PyObject *module) {
    py_state *state = module_state_of(module);
#define X(name, ...) Py_CLEAR(state->name##_type);
    PY_TYPES(X)
#undef X
#define X(field, ...) Py_CLEAR(state->field);
    PY_IMPORTS(X)
#undef X
#define X(name) Py_CLEAR(state->str_##name);
    PY_STRINGS(X)
#undef X
    Py_CLEAR(state->open_ports);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
}

/* ---- functions ------------------------------------------------------------------------------- */

PyDoc_STRVAR(module_open_ports_doc,
             "_open_ports()\n--\n\n"
             "The ports of this interpreter that are not closed, as a list.");

static PyObject *module_open_ports(PyObject *module, PyObject *Py_UNUSED(unused)) {
    return py_open_ports(module_state_of(module));
}

PyDoc_STRVAR(module_set_main_thread_doc,
             "_set_main_thread()\n--\n\n"
             "The calling thread is the one whose waits are ended by signals.");

/* Called in a forked child, where the thread that called fork() is the only one and becomes the
 * main thread, whatever it was in the parent. */
static PyObject *module_set_main_thread(PyObject *module, PyObject *Py_UNUSED(unused)) {
    module_state_of(module)->main_thread = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(module_begin_end_doc,
             "_begin_end()\n--\n\n"
             "The interpreter ends: run() of a closed port returns from now on.");

/* _process_exit.py calls this before it stops and closes the ports. Without it, a worker that is
 * late to see the stop would find its port closed and raise ValueError. */
static PyObject *module_begin_end(PyObject *module, PyObject *Py_UNUSED(unused)) {
    module_state_of(module)->ending = true;
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"backends", py_backends, METH_NOARGS, py_backends_doc},
    {"_open_ports", module_open_ports, METH_NOARGS, module_open_ports_doc},
    {"_set_main_thread", module_set_main_thread, METH_NOARGS, module_set_main_thread_doc},
    {"_begin_end", module_begin_end, METH_NOARGS, module_begin_end_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
/* Both promises rest on the rules of base/py.h: no shared objects, nothing relies on the GIL. */
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef module_definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "iocpcore._core",
    .m_doc = "Completion ports: the native part of iocpcore.",
    .m_size = sizeof(py_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

/* PyType_GetModuleState fails for a subclass that is written in Python, such as Datagram, which
 * belongs to no module definition. So this searches the bases. */
py_state *py_state_of(PyObject *object) {
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(object), &module_definition);
    return module == NULL ? NULL : module_state_of(module);
}

PyMODINIT_FUNC PyInit__core(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_definition);
}
