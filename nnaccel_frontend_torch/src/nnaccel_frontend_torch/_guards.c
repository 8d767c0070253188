/* Checks in one call that a network's modules and tensors are what they were.
 *
 * Watched containers (dicts, lists, sets) are compared item by item by identity; equal plain numbers and strings
 * count as the same. Where the interpreter keeps a version tag in dicts (found out at run time), an unchanged tag
 * skips the comparison.
 *
 * Watched tensors are compared by implementation, storage, address, offset, sizes, strides, version counter, and by
 * a copy of samples of their memory. The offsets of these fields inside torch's objects are found and checked at run
 * time by guards.py and given to configure(): no torch header is needed, and no release of torch is assumed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#endif

#if defined(__GNUC__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)(p))
#endif

#define MAX_RANK 5 /* torch stores this many sizes and strides in place */
#define SAMPLES 16
#define CHUNK 8
#define WHOLE 256 /* bytes: smaller tensors are compared whole */

enum { DICT, LIST, COPY };
enum { VALUES_CHANGED = 1, STATE_CHANGED = 2 };

static struct {
    int ready;
    Py_ssize_t impl;    /* in the Python object */
    Py_ssize_t storage; /* in the tensor implementation, as are the next ones */
    Py_ssize_t counter;
    Py_ssize_t offset;
    Py_ssize_t sizes;
    Py_ssize_t strides;
    Py_ssize_t data;    /* in the storage implementation */
    Py_ssize_t version; /* in the version counter */
    Py_ssize_t tag;     /* of a dict; -1 without one */
} at = {0, 0, 0, 0, 0, 0, 0, 0, 0, -1};

typedef struct {
    PyObject *object;
    int kind;
    uint64_t tag;
    Py_ssize_t n;
    PyObject **items; /* keys and values alternate in dicts; one copy in COPY */
} Container;

typedef struct {
    PyObject *object;
    char *impl, *storage, *counter, *data;
    int64_t offset;
    uint32_t version;
    int rank;
    int64_t dims[2 * MAX_RANK];
    Py_ssize_t span; /* bytes from the first element to the end of the last; 0: not sampled */
    Py_ssize_t itemsize;
    char *samples;
} Tensor;

typedef struct {
    PyObject_HEAD
    Py_ssize_t n_containers, n_tensors;
    Container *containers;
    Tensor *tensors;
} Guard;

static inline char *pointer(char *base, Py_ssize_t offset) { return *(char **)(base + offset); }
static inline uint64_t word(const void *base, Py_ssize_t offset) { uint64_t v; memcpy(&v, (const char *)base + offset, 8); return v; }
static inline uint32_t half(const void *base, Py_ssize_t offset) { uint32_t v; memcpy(&v, (const char *)base + offset, 4); return v; }

/* --- containers ------------------------------------------------------------------------------------------------ */

static int plain(PyObject *o) {
    PyTypeObject *t = Py_TYPE(o);
    return t == &PyLong_Type || t == &PyFloat_Type || t == &PyUnicode_Type || t == &PyBytes_Type || t == &PyBool_Type;
}

/* 1 same, 0 different, -1 error */
static int same(PyObject *a, PyObject *b) {
    if (a == b) return 1;
    if (Py_TYPE(a) != Py_TYPE(b) || !plain(a)) return 0;
    return PyObject_RichCompareBool(a, b, Py_EQ);
}

static int container_take(Container *c, PyObject *object) {
    c->object = object;
    Py_INCREF(object);
    c->tag = 0;
    c->items = NULL;
    c->n = 0;
    if (PyDict_Check(object)) {
        PyObject *k, *v;
        Py_ssize_t pos = 0, i = 0;
        c->kind = DICT;
        if (at.tag >= 0) c->tag = word(object, at.tag);
        c->n = PyDict_Size(object);
        c->items = calloc((size_t)(2 * c->n + 1), sizeof(PyObject *));
        if (!c->items) { PyErr_NoMemory(); return -1; }
        while (i < c->n && PyDict_Next(object, &pos, &k, &v)) {
            Py_INCREF(k); Py_INCREF(v);
            c->items[2 * i] = k; c->items[2 * i + 1] = v;
            i++;
        }
        return 0;
    }
    if (PyList_Check(object)) {
        c->kind = LIST;
        c->n = PyList_Size(object);
        c->items = calloc((size_t)(c->n + 1), sizeof(PyObject *));
        if (!c->items) { PyErr_NoMemory(); return -1; }
        for (Py_ssize_t i = 0; i < c->n; i++) {
            c->items[i] = PyList_GetItem(object, i);
            Py_INCREF(c->items[i]);
        }
        return 0;
    }
    c->kind = COPY;
    c->items = calloc(1, sizeof(PyObject *));
    if (!c->items) { PyErr_NoMemory(); return -1; }
    c->items[0] = PyObject_CallMethod(object, "copy", NULL);
    if (!c->items[0]) return -1;
    c->n = 1;
    return 0;
}

static Py_ssize_t container_refs(const Container *c) { return c->kind == DICT ? 2 * c->n : c->n; }

/* 1 same, 0 different, -1 error */
static int container_same(Container *c) {
    PyObject *o = c->object;
    if (c->kind == DICT) {
        PyObject *k, *v;
        Py_ssize_t pos = 0, i = 0;
        uint64_t tag = 0;
        if (at.tag >= 0) {
            tag = word(o, at.tag);
            if (tag == c->tag) return 1;
        }
        if (PyDict_Size(o) != c->n) return 0;
        while (PyDict_Next(o, &pos, &k, &v)) {
            int s;
            if (i >= c->n) return 0;
            if ((s = same(k, c->items[2 * i])) != 1) return s;
            if ((s = same(v, c->items[2 * i + 1])) != 1) return s;
            i++;
        }
        c->tag = tag;
        return 1;
    }
    if (c->kind == LIST) {
        if (PyList_Size(o) != c->n) return 0;
        for (Py_ssize_t i = 0; i < c->n; i++) {
            int s = same(PyList_GetItem(o, i), c->items[i]);
            if (s != 1) return s;
        }
        return 1;
    }
    return PyObject_RichCompareBool(o, c->items[0], Py_EQ);
}

/* --- tensors --------------------------------------------------------------------------------------------------- */

static void sample(const Tensor *t, char *out) {
    if (t->span <= WHOLE) { memcpy(out, t->data + t->offset * t->itemsize, (size_t)t->span); return; }
    const char *base = t->data + t->offset * t->itemsize;
    for (int i = 0; i < SAMPLES; i++) memcpy(out + i * CHUNK, base + (t->span - CHUNK) * i / (SAMPLES - 1), CHUNK);
}

static int samples_same(const Tensor *t) {
    const char *base = t->data + t->offset * t->itemsize;
    if (t->span <= WHOLE) return memcmp(t->samples, base, (size_t)t->span) == 0;
    uint64_t differ = 0;
    for (int i = 0; i < SAMPLES; i++)
        differ |= word(t->samples, i * CHUNK) ^ word(base, (t->span - CHUNK) * i / (SAMPLES - 1));
    return differ == 0;
}

/* The fields are found through four objects: asked for early, their cache misses overlap. */
static void tensor_prefetch_fields(const Tensor *t) {
    PREFETCH((char *)t->object + at.impl);
    PREFETCH(t->impl + at.storage);
    PREFETCH(t->impl + at.sizes);
    PREFETCH(t->impl + at.offset);
    PREFETCH(t->storage + at.data);
    PREFETCH(t->counter + at.version);
    PREFETCH(t->samples);
}

static void tensor_prefetch(const Tensor *t) {
    const char *base = t->data + t->offset * t->itemsize;
    if (!t->span) return;
    if (t->span <= WHOLE) { for (Py_ssize_t i = 0; i < t->span; i += 64) PREFETCH(base + i); return; }
    for (int i = 0; i < SAMPLES; i++) PREFETCH(base + (t->span - CHUNK) * i / (SAMPLES - 1));
}

static void tensor_read(Tensor *t) {
    t->impl = pointer((char *)t->object, at.impl);
    t->storage = pointer(t->impl, at.storage);
    t->data = t->storage ? pointer(t->storage, at.data) : NULL;
    t->counter = pointer(t->impl, at.counter);
    t->version = t->counter ? half(t->counter, at.version) : 0;
    t->offset = (int64_t)word(t->impl, at.offset);
    if (t->rank <= MAX_RANK) {
        memcpy(t->dims, t->impl + at.sizes, (size_t)t->rank * 8);
        memcpy(t->dims + MAX_RANK, t->impl + at.strides, (size_t)t->rank * 8);
    }
    if (!t->data) t->span = 0;
    if (t->span) sample(t, t->samples);
}

static int tensor_same(const Tensor *t) {
    char *impl = pointer((char *)t->object, at.impl);
    if (impl != t->impl || pointer(impl, at.storage) != t->storage || pointer(impl, at.counter) != t->counter) return 0;
    if ((int64_t)word(impl, at.offset) != t->offset) return 0;
    if (t->storage && pointer(t->storage, at.data) != t->data) return 0;
    if (t->counter && half(t->counter, at.version) != t->version) return 0;
    if (t->rank <= MAX_RANK) {
        if (memcmp(t->dims, impl + at.sizes, (size_t)t->rank * 8)) return 0;
        if (memcmp(t->dims + MAX_RANK, impl + at.strides, (size_t)t->rank * 8)) return 0;
    }
    return !t->span || samples_same(t);
}

/* --- the Python type ------------------------------------------------------------------------------------------- */

static int guard_clear(PyObject *op) {
    Guard *self = (Guard *)op;
    Container *containers = self->containers;
    Tensor *tensors = self->tensors;
    Py_ssize_t nc = self->n_containers, nt = self->n_tensors;
    self->containers = NULL; self->tensors = NULL;
    self->n_containers = self->n_tensors = 0;
    for (Py_ssize_t i = 0; i < nc; i++) {
        Py_ssize_t n = containers[i].items ? container_refs(&containers[i]) : 0;
        for (Py_ssize_t k = 0; k < n; k++) Py_XDECREF(containers[i].items[k]);
        free(containers[i].items);
        Py_XDECREF(containers[i].object);
    }
    for (Py_ssize_t i = 0; i < nt; i++) { free(tensors[i].samples); Py_XDECREF(tensors[i].object); }
    free(containers);
    free(tensors);
    return 0;
}

static int guard_traverse(PyObject *op, visitproc visit, void *arg) {
    Guard *self = (Guard *)op;
    for (Py_ssize_t i = 0; i < self->n_containers; i++) {
        Py_VISIT(self->containers[i].object);
        Py_ssize_t n = self->containers[i].items ? container_refs(&self->containers[i]) : 0;
        for (Py_ssize_t k = 0; k < n; k++) Py_VISIT(self->containers[i].items[k]);
    }
    for (Py_ssize_t i = 0; i < self->n_tensors; i++) Py_VISIT(self->tensors[i].object);
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void guard_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    guard_clear(op);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

/* Guard(containers, tensors): tensors are (tensor, rank, span in bytes, itemsize) */
static PyObject *guard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *containers, *tensors;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &containers, &PyList_Type, &tensors)) return NULL;
    if (!at.ready && PyList_Size(tensors)) {
        PyErr_SetString(PyExc_RuntimeError, "configure() has not been called");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Guard *self = (Guard *)allocate(type, 0);
    if (!self) return NULL;
    Py_ssize_t nc = PyList_Size(containers), nt = PyList_Size(tensors);
    self->containers = calloc((size_t)nc + 1, sizeof(Container));
    self->tensors = calloc((size_t)nt + 1, sizeof(Tensor));
    if (!self->containers || !self->tensors) { Py_DECREF(self); return PyErr_NoMemory(); }
    for (Py_ssize_t i = 0; i < nc; i++) {
        self->n_containers = i + 1;
        if (container_take(&self->containers[i], PyList_GetItem(containers, i))) { Py_DECREF(self); return NULL; }
    }
    for (Py_ssize_t i = 0; i < nt; i++) {
        Tensor *t = &self->tensors[i];
        PyObject *object;
        if (!PyArg_ParseTuple(PyList_GetItem(tensors, i), "Oinn", &object, &t->rank, &t->span, &t->itemsize)) { Py_DECREF(self); return NULL; }
        t->object = object;
        Py_INCREF(object);
        self->n_tensors = i + 1;
        t->samples = malloc(t->span <= WHOLE ? WHOLE : SAMPLES * CHUNK);
        if (!t->samples) { Py_DECREF(self); return PyErr_NoMemory(); }
        tensor_read(t);
    }
    return (PyObject *)self;
}

static int state_same(Guard *self) {
    for (Py_ssize_t i = 0; i < self->n_containers; i++) {
        if (at.tag >= 0 && i + 8 < self->n_containers) PREFETCH(self->containers[i + 8].object);
        int s = container_same(&self->containers[i]);
        if (s != 1) return s;
    }
    return 1;
}

static int values_same(Guard *self) {
    const Py_ssize_t ahead = 6, fields_ahead = 12;
    for (Py_ssize_t i = 0; i < self->n_tensors && i < fields_ahead; i++) tensor_prefetch_fields(&self->tensors[i]);
    for (Py_ssize_t i = 0; i < self->n_tensors && i < ahead; i++) tensor_prefetch(&self->tensors[i]);
    for (Py_ssize_t i = 0; i < self->n_tensors; i++) {
        if (i + fields_ahead < self->n_tensors) tensor_prefetch_fields(&self->tensors[i + fields_ahead]);
        if (i + ahead < self->n_tensors) tensor_prefetch(&self->tensors[i + ahead]);
        if (!tensor_same(&self->tensors[i])) return 0;
    }
    return 1;
}

static PyObject *guard_check(PyObject *op, PyObject *unused) {
    Guard *self = (Guard *)op;
    int state = state_same(self);
    if (state < 0) return NULL;
    if (!state) return PyLong_FromLong(STATE_CHANGED);
    return PyLong_FromLong(values_same(self) ? 0 : VALUES_CHANGED);
}

static PyObject *guard_state_changed(PyObject *op, PyObject *unused) {
    int state = state_same((Guard *)op);
    if (state < 0) return NULL;
    return PyBool_FromLong(!state);
}

static PyObject *guard_changed_container(PyObject *op, PyObject *unused) {
    Guard *self = (Guard *)op;
    for (Py_ssize_t i = 0; i < self->n_containers; i++) {
        int s = container_same(&self->containers[i]);
        if (s < 0) return NULL;
        if (!s) return PyLong_FromSsize_t(i);
    }
    return PyLong_FromLong(-1);
}

static PyObject *guard_resample(PyObject *op, PyObject *unused) {
    Guard *self = (Guard *)op;
    for (Py_ssize_t i = 0; i < self->n_tensors; i++) tensor_read(&self->tensors[i]);
    Py_RETURN_NONE;
}

static PyMethodDef guard_methods[] = {
    {"check", guard_check, METH_NOARGS, "0: as before; 1: tensor values or memory changed; 2: a container changed."},
    {"state_changed", guard_state_changed, METH_NOARGS, "Whether a container changed."},
    {"changed_container", guard_changed_container, METH_NOARGS, "Index of the first container that changed, or -1."},
    {"resample", guard_resample, METH_NOARGS, "Take the tensors as they are now as the state to compare with; their shapes are unchanged."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_new, (void *)guard_new},
    {Py_tp_dealloc, (void *)guard_dealloc},
    {Py_tp_traverse, (void *)guard_traverse},
    {Py_tp_clear, (void *)guard_clear},
    {Py_tp_methods, guard_methods},
    {Py_tp_doc, "Guard(containers, tensors): a snapshot that can be compared with the present."},
    {0, NULL},
};

static PyType_Spec guard_spec = {
    "nnaccel_frontend_torch._guards.Guard", sizeof(Guard), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, guard_slots,
};

/* --- finding the offsets ---------------------------------------------------------------------------------------- */

/* read(address, n) -> bytes, or None when that memory can't be read. The kernel does the reading, into a pipe, so a bad
 * address is an error code and no crash. */
static PyObject *safe_read(PyObject *module, PyObject *args) {
    unsigned long long address;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "Kn", &address, &n)) return NULL;
    if (n < 0 || n > 4096) { PyErr_SetString(PyExc_ValueError, "0 to 4096 bytes"); return NULL; }
#ifdef _WIN32
    Py_RETURN_NONE;
#else
    int ends[2];
    char buffer[4096];
    if (pipe(ends)) Py_RETURN_NONE;
    ssize_t wrote = write(ends[1], (const void *)(uintptr_t)address, (size_t)n);
    ssize_t got = wrote == (ssize_t)n ? read(ends[0], buffer, (size_t)n) : -1;
    close(ends[0]);
    close(ends[1]);
    if (got != (ssize_t)n) Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(buffer, n);
#endif
}

/* configure(impl, storage, counter, offset, sizes, strides, data, version) */
static PyObject *configure(PyObject *module, PyObject *args) {
    if (!PyArg_ParseTuple(args, "nnnnnnnn", &at.impl, &at.storage, &at.counter, &at.offset, &at.sizes, &at.strides, &at.data, &at.version))
        return NULL;
    at.ready = 1;
    Py_RETURN_NONE;
}

static PyObject *use_dict_tag(PyObject *module, PyObject *args) {
    if (!PyArg_ParseTuple(args, "n", &at.tag)) return NULL;
    Py_RETURN_NONE;
}

/* dict_tag(d, offset) -> int */
static PyObject *dict_tag(PyObject *module, PyObject *args) {
    PyObject *d;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "O!n", &PyDict_Type, &d, &offset)) return NULL;
    return PyLong_FromUnsignedLongLong(word(d, offset));
}

static PyMethodDef module_methods[] = {
    {"read", safe_read, METH_VARARGS, "read(address, n) -> bytes or None"},
    {"configure", configure, METH_VARARGS, "Set the offsets of the fields of torch's objects."},
    {"use_dict_tag", use_dict_tag, METH_VARARGS, "Set the offset of a dict's version tag; -1 uses none."},
    {"dict_tag", dict_tag, METH_VARARGS, "The word at an offset of a dict."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_guards", "Native checks that modules and tensors are unchanged.", -1, module_methods,
};

PyMODINIT_FUNC PyInit__guards(void) {
    PyObject *module = PyModule_Create(&module_def);
    if (!module) return NULL;
    PyObject *type = PyType_FromSpec(&guard_spec);
    if (!type || PyModule_AddObject(module, "Guard", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
