/* module.c: the module iocpcore._core: its state, its types, its functions. Wiring only. */
#include "py/server/server.h"

static py_state *module_state_of(PyObject *module) {
    return PyModule_GetState(module);
}

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

static bool module_make_type(PyObject *module, PyType_Spec *spec, bool is_public,
                             PyTypeObject **place) {
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place != NULL && (!is_public || PyModule_AddType(module, *place) == 0);
}

/* What stages and framers are called by. */
static bool module_intern_stage_names(py_state *state) {
    return module_intern("feed", &state->str_feed) &&
           module_intern("receive", &state->str_receive) &&
           module_intern("peer_ended", &state->str_peer_ended) &&
           module_intern("eof", &state->str_eof) && module_intern("start", &state->str_start) &&
           module_intern("room", &state->str_room) && module_intern("send", &state->str_send) &&
           module_intern("close", &state->str_close) &&
           module_intern("encode", &state->str_encode) &&
           module_intern("ssl_object", &state->str_ssl_object);
}

static bool module_import_names(py_state *state) {
    if (!module_import_name("iocpcore.errors", "InvalidStateError", &state->invalid_state_error) ||
        !module_import_name("iocpcore.errors", "FramingError", &state->framing_error) ||
        !module_import_name("iocpcore.errors", "SlowReaderError", &state->slow_reader_error) ||
        !module_import_name("iocpcore._connection_tasks", "offload", &state->offload) ||
        !module_import_name("iocpcore._connection_tasks", "call_later", &state->call_later) ||
        !module_import_name("iocpcore._connection_tasks", "cancel_timers", &state->cancel_timers) ||
        !module_import_name("iocpcore._waits", "changed", &state->waits_changed) ||
        !module_import_name("io", "UnsupportedOperation", &state->unsupported_operation) ||
        !module_import_name("socket", "socket", &state->socket_class))
        return false;
    state->open_ports = PyDict_New();
#ifdef _WIN32
    if (!module_import_name("msvcrt", "get_osfhandle", &state->get_osfhandle))
        return false;
#endif
    return state->open_ports != NULL && module_intern_stage_names(state) &&
           module_intern("fileno", &state->str_fileno) &&
           module_intern("setblocking", &state->str_setblocking) &&
           module_intern("detach", &state->str_detach);
}

/* The main thread of the process at import; of a forked child: _set_main_thread. */
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

static int module_exec(PyObject *module) {
    py_state *state = module_state_of(module);
    if (!module_import_names(state) || !module_find_main_thread(state))
        return -1;
    if (!module_make_type(module, &py_operation_spec, true, &state->operation_type) ||
        !module_make_type(module, &py_association_spec, false, &state->association_type) ||
        !module_make_type(module, &py_length_prefixed_spec, true, &state->length_prefixed_type) ||
        !module_make_type(module, &py_delimited_spec, true, &state->delimited_type) ||
        !module_make_type(module, &py_fixed_size_spec, true, &state->fixed_size_type) ||
        !module_make_type(module, &py_group_spec, true, &state->group_type) ||
        !module_make_type(module, &py_listener_spec, true, &state->listener_type) ||
        !module_make_type(module, &py_connection_spec, true, &state->connection_type) ||
        !module_make_type(module, &py_datagram_socket_spec, true, &state->datagram_socket_type) ||
        !module_make_type(module, &py_port_spec, true, &state->port_type))
        return -1;
    if (PyModule_AddFunctions(module, py_pipe_methods) < 0)
        return -1;
    return PyModule_AddFunctions(module, py_sim_methods);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    py_state *state = module_state_of(module);
    Py_VISIT(state->port_type);
    Py_VISIT(state->operation_type);
    Py_VISIT(state->association_type);
    Py_VISIT(state->length_prefixed_type);
    Py_VISIT(state->delimited_type);
    Py_VISIT(state->fixed_size_type);
    Py_VISIT(state->invalid_state_error);
    Py_VISIT(state->group_type);
    Py_VISIT(state->listener_type);
    Py_VISIT(state->connection_type);
    Py_VISIT(state->datagram_socket_type);
    Py_VISIT(state->framing_error);
    Py_VISIT(state->slow_reader_error);
    Py_VISIT(state->offload);
    Py_VISIT(state->call_later);
    Py_VISIT(state->cancel_timers);
    Py_VISIT(state->waits_changed);
    Py_VISIT(state->unsupported_operation);
    Py_VISIT(state->socket_class);
    Py_VISIT(state->get_osfhandle);
    Py_VISIT(state->open_ports);
    return 0;
}

static int module_clear(PyObject *module) {
    py_state *state = module_state_of(module);
    Py_CLEAR(state->port_type);
    Py_CLEAR(state->operation_type);
    Py_CLEAR(state->association_type);
    Py_CLEAR(state->length_prefixed_type);
    Py_CLEAR(state->delimited_type);
    Py_CLEAR(state->fixed_size_type);
    Py_CLEAR(state->invalid_state_error);
    Py_CLEAR(state->group_type);
    Py_CLEAR(state->listener_type);
    Py_CLEAR(state->connection_type);
    Py_CLEAR(state->datagram_socket_type);
    Py_CLEAR(state->framing_error);
    Py_CLEAR(state->slow_reader_error);
    Py_CLEAR(state->offload);
    Py_CLEAR(state->call_later);
    Py_CLEAR(state->cancel_timers);
    Py_CLEAR(state->waits_changed);
    Py_CLEAR(state->unsupported_operation);
    Py_CLEAR(state->socket_class);
    Py_CLEAR(state->get_osfhandle);
    Py_CLEAR(state->open_ports);
    Py_CLEAR(state->str_fileno);
    Py_CLEAR(state->str_feed);
    Py_CLEAR(state->str_receive);
    Py_CLEAR(state->str_peer_ended);
    Py_CLEAR(state->str_eof);
    Py_CLEAR(state->str_start);
    Py_CLEAR(state->str_room);
    Py_CLEAR(state->str_send);
    Py_CLEAR(state->str_close);
    Py_CLEAR(state->str_encode);
    Py_CLEAR(state->str_ssl_object);
    Py_CLEAR(state->str_setblocking);
    Py_CLEAR(state->str_detach);
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

static PyObject *module_set_main_thread(PyObject *module, PyObject *Py_UNUSED(unused)) {
    module_state_of(module)->main_thread = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(module_begin_end_doc,
             "_begin_end()\n--\n\n"
             "The interpreter ends: run() of a closed port returns from now on.");

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

py_state *py_state_of(PyObject *object) {
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(object), &module_definition);
    return module == NULL ? NULL : module_state_of(module);
}

PyMODINIT_FUNC PyInit__core(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_definition);
}
