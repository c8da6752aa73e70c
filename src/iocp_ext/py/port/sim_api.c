/* sim_api.c: functions of iocpcore._core that control the simulated backend, for tests.
 *
 * Each simulated port has a network and files of its own. Their handles are plain integers, which
 * the port's methods accept like descriptors; call dissociate() before sim_close(). Addresses look
 * like real ones ("127.0.0.1", port), but exist in that port only.
 *
 * Every function here has the same three steps. It parses its arguments, which can run Python code.
 * It enters the port for one call of the simulator, so the simulation is not closed meanwhile. And
 * it creates the result only after leaving, because that can start the garbage collector.
 *
 * A new handle belongs to the simulation: it is closed by sim_close(), by the port if it is given
 * to one of its objects, and at the latest with the port. A handle that cannot be returned for lack
 * of memory is therefore not lost.
 *
 * Errors are raised like those of the system, but without a system error code. */
#include "py/port/port.h"
#include "backends/sim/sim.h"

/* Checks that the object is an open port with the backend sim, and enters it; the caller leaves.
 * Returns a borrowed reference. The port is entered first: only in an entered port does io_sim_lane
 * give an answer that stays true. */
static py_port *sim_api_enter(PyObject *module, PyObject *object) {
    py_state *state = PyModule_GetState(module);
    if (!PyObject_TypeCheck(object, state->port_type)) {
        PyErr_Format(PyExc_TypeError, "port must be a CompletionPort, not %.200s",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    py_port *port = (py_port *)object;
    if (!py_port_enter(port))
        return NULL;
    if (!io_sim_lane(&port->port->lane)) {
        py_port_leave(port);
        PyErr_Format(PyExc_ValueError, "port must have the backend sim, not %s",
                     port->port->backend->name);
        return NULL;
    }
    return port;
}

/* The result for a bound handle: (handle, address). The simulation has one host only, so the port
 * number is the whole address. */
static PyObject *sim_api_bound(io_native native, uint16_t port) {
    return Py_BuildValue("(n(si))", (Py_ssize_t)native, "127.0.0.1", (int)port);
}

static PyObject *sim_api_pair(PyObject *module, PyObject *object) {
    io_native natives[2];
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int error = io_sim_pair(&port->port->lane, natives);
    py_port_leave(port);
    if (error)
        return py_error_raise(error, 0, "sim_pair");
    return Py_BuildValue("(nn)", (Py_ssize_t)natives[0], (Py_ssize_t)natives[1]);
}

static PyObject *sim_api_listener(PyObject *module, PyObject *object) {
    io_native native;
    uint16_t number;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int error = io_sim_listener(&port->port->lane, &native, &number);
    py_port_leave(port);
    return error ? py_error_raise(error, 0, "sim_listener") : sim_api_bound(native, number);
}

static PyObject *sim_api_datagram(PyObject *module, PyObject *object) {
    io_native native;
    uint16_t number;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int error = io_sim_datagram(&port->port->lane, &native, &number);
    py_port_leave(port);
    return error ? py_error_raise(error, 0, "sim_datagram") : sim_api_bound(native, number);
}

static PyObject *sim_api_socket(PyObject *module, PyObject *object) {
    io_native native;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int error = io_sim_socket(&port->port->lane, &native);
    py_port_leave(port);
    return error ? py_error_raise(error, 0, "sim_socket") : PyLong_FromSsize_t(native);
}

/* The simulator copies the data, so the buffer is released at once. */
static PyObject *sim_api_file(PyObject *module, PyObject *args) {
    PyObject *object;
    Py_buffer data;
    io_native native;
    if (!PyArg_ParseTuple(args, "Oy*:sim_file", &object, &data))
        return NULL;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL) {
        PyBuffer_Release(&data);
        return NULL;
    }
    int error = io_sim_file(&port->port->lane, data.buf, (size_t)data.len, &native);
    py_port_leave(port);
    PyBuffer_Release(&data);
    return error ? py_error_raise(error, 0, "sim_file") : PyLong_FromSsize_t(native);
}

/* Parses (port, handle) by the format and calls a function of the simulation with them. The format
 * also names the Python function, for error messages. */
static PyObject *sim_api_on_handle(PyObject *module, PyObject *args, const char *format,
                                   int (*act)(io_lane *lane, io_native native)) {
    PyObject *object;
    Py_ssize_t handle;
    if (!PyArg_ParseTuple(args, format, &object, &handle))
        return NULL;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int error = act(&port->port->lane, (io_native)handle);
    py_port_leave(port);
    return error ? py_error_raise(error, 0, "sim handle") : Py_NewRef(Py_None);
}

/* Like close(2): operations in flight on the handle do not end because of it. */
static PyObject *sim_api_close(PyObject *module, PyObject *args) {
    return sim_api_on_handle(module, args, "On:sim_close", io_sim_close_native);
}

/* Like shutdown(SHUT_WR): the handle can still receive. */
static PyObject *sim_api_shutdown(PyObject *module, PyObject *args) {
    return sim_api_on_handle(module, args, "On:sim_shutdown", io_sim_shutdown);
}

/* `error` is a positive errno of Linux, whatever the platform; the core wants it negative. A period
 * of 0 is refused because the simulator counts attempts modulo the period. */
static PyObject *sim_api_fail_accepts(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"port", "handle", "error", "times", "period", NULL};
    PyObject *object;
    Py_ssize_t handle;
    int error;
    unsigned int times = UINT32_MAX, period = 1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Oni|$II:sim_fail_accepts", names, &object,
                                     &handle, &error, &times, &period))
        return NULL;
    if (period == 0) {
        PyErr_SetString(PyExc_ValueError, "period must be at least 1");
        return NULL;
    }
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    int failed = io_sim_fail_accepts(&port->port->lane, (io_native)handle, -error, times, period);
    py_port_leave(port);
    return failed ? py_error_raise(failed, 0, "sim_fail_accepts") : Py_NewRef(Py_None);
}

/* Replaces the whole configuration: what is not given is switched off. Tests choose between all
 * faults and none; single faults are for the tests in C. */
static PyObject *sim_api_configure(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"port", "seed", "faults", "stuck", NULL};
    PyObject *object;
    unsigned long long seed = 0;
    int faults = 0, stuck = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$Kpp:sim_configure", names, &object, &seed,
                                     &faults, &stuck))
        return NULL;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    io_sim_configure(&port->port->lane, seed,
                     (faults ? (uint32_t)IO_SIM_FAULTS : 0u) |
                         (stuck ? (uint32_t)IO_SIM_STUCK : 0u));
    py_port_leave(port);
    Py_RETURN_NONE;
}

/* One consistent copy, taken with the simulator's lock held. */
static PyObject *sim_api_stats(PyObject *module, PyObject *object) {
    io_sim_stats stats;
    py_port *port = sim_api_enter(module, object);
    if (port == NULL)
        return NULL;
    io_sim_get_stats(&port->port->lane, &stats);
    py_port_leave(port);
    return Py_BuildValue("{sI sI sI sK sK sK sK sK sK sK}", "handles", stats.natives, "files",
                         stats.files, "in_flight", stats.in_flight, "reports", stats.reports,
                         "retries", stats.retries, "refusals", stats.refusals, "errors",
                         stats.errors, "at_once", stats.at_once, "cancels_won", stats.cancels_won,
                         "cancels_lost", stats.cancels_lost);
}

PyDoc_STRVAR(sim_api_pair_doc, "sim_pair(port, /)\n--\n\nTwo connected stream handles.");
PyDoc_STRVAR(sim_api_listener_doc, "sim_listener(port, /)\n--\n\nA listening handle, its address.");
PyDoc_STRVAR(sim_api_socket_doc, "sim_socket(port, /)\n--\n\nA stream handle to be connected.");
PyDoc_STRVAR(sim_api_datagram_doc, "sim_datagram(port, /)\n--\n\nA datagram handle, its address.");
PyDoc_STRVAR(sim_api_file_doc, "sim_file(port, data, /)\n--\n\nA file handle with this content.");
PyDoc_STRVAR(sim_api_close_doc, "sim_close(port, handle, /)\n--\n\nCloses a simulated handle.");
PyDoc_STRVAR(sim_api_shutdown_doc, "sim_shutdown(port, handle, /)\n--\n\n"
                                   "The peer of a stream sees the end of it.");
PyDoc_STRVAR(sim_api_fail_accepts_doc,
             "sim_fail_accepts(port, handle, error, *, times=4294967295, period=1)\n--\n\n"
             "Every period-th attempt to accept there fails with this errno of Linux.");
PyDoc_STRVAR(sim_api_configure_doc,
             "sim_configure(port, *, seed=0, faults=False, stuck=False)\n--\n\n"
             "Starts the sequence of chances anew, and switches faults on or off.\n\n"
             "stuck: operations that are submitted from now on never end, even if cancelled.");
PyDoc_STRVAR(sim_api_stats_doc, "sim_stats(port, /)\n--\n\nWhat the simulation has counted.");

PyMethodDef py_sim_methods[] = {
    {"sim_pair", sim_api_pair, METH_O, sim_api_pair_doc},
    {"sim_listener", sim_api_listener, METH_O, sim_api_listener_doc},
    {"sim_socket", sim_api_socket, METH_O, sim_api_socket_doc},
    {"sim_datagram", sim_api_datagram, METH_O, sim_api_datagram_doc},
    {"sim_file", sim_api_file, METH_VARARGS, sim_api_file_doc},
    {"sim_close", sim_api_close, METH_VARARGS, sim_api_close_doc},
    {"sim_shutdown", sim_api_shutdown, METH_VARARGS, sim_api_shutdown_doc},
    {"sim_fail_accepts", (PyCFunction)(void (*)(void))sim_api_fail_accepts,
     METH_VARARGS | METH_KEYWORDS, sim_api_fail_accepts_doc},
    {"sim_configure", (PyCFunction)(void (*)(void))sim_api_configure, METH_VARARGS | METH_KEYWORDS,
     sim_api_configure_doc},
    {"sim_stats", sim_api_stats, METH_O, sim_api_stats_doc},
    {NULL, NULL, 0, NULL},
};
