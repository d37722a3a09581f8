/* CPython inside Envoy: an HTTP filter whose hooks are methods of a Python object (sidecar/embedded.py).
 *
 *   Envoy ── hook ──► run ── GIL ──► handler.request_headers(...) ──► None, HOLD, BLOCK or the body's new bytes
 *                      └─ GIL given back ─► what Python asked for that calls other filters: reply, calls, going on
 *
 * Two rules keep it from locking up or crashing. Whatever can make Envoy call one of our hooks again is done after the
 * GIL was given back. And every pointer to a request that Python can keep leads through a Stream, which forgets the
 * request when Envoy destroys it, and refuses threads other than the request's own.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "envoy_abi.h"

#ifndef HEADGATE_PYTHON
#error "HEADGATE_PYTHON: the interpreter whose packages are to be used"
#endif

enum { REQUEST, RESPONSE };
enum Wants { WANTS_HEADERS = 1, WANTS_BODY = 2, WANTS_TRAILERS = 4, WANTS_END = 64 }; /* RESPONSE: shifted by 3 */
enum Outcome { GO = 0, HOLD = 1, BLOCK = 2, REPLACED = 3, ENDED = 4 };

typedef struct { /* of a plugin that looks at headers only: sidecar/lean.py */
  Py_ssize_t index;
  PyObject *name, *make, *plugin, *places[2];
  double budget;
} Hook;

typedef struct {
  PyObject *fired, *go_on, *init; /* of the watch; CONTINUE; HttpContext.__init__ */
  PyObject* healths;
  Py_buffer requests; /* one number: how many went this way */
  Py_ssize_t plugins, count[2];
  Hook* hooks[2];
} Lane;

typedef struct {
  PyObject* application; /* what sidecar.embedded.load returned */
  PyTypeObject* handler;
  PyObject* spoken; /* what `lane` points into */
  Lane* lane;
  int wants;
  int users; /* the configuration itself, and requests that began with it: routes can go while requests are under way */
  uint64_t limit[2];
} App;

typedef struct Call {
  struct Call* next;
  long long token;
  uint64_t id;
  uint64_t milliseconds;
  char* memory; /* the texts below */
  Text cluster, body;
  size_t count;
  Pair pairs[];
} Call;

typedef struct {
  uint32_t status;
  char* memory;
  Text body;
  size_t count;
  Pair pairs[];
} Reply;

typedef struct Filter Filter;

typedef struct {
  PyObject_HEAD
  Filter* filter; /* NULL: the request is over */
  unsigned long thread;
  PyObject* chain; /* the handler's own */
  PyObject* contexts; /* without a chain */
  PyObject* seen[2];
  double began;
  void* scheduler;
  bool woken;
} Stream;

struct Filter {
  App* app;
  void* envoy;
  Stream* stream; /* made by the first hook that calls Python */
  Reply* reply;
  Call* asked;   /* calls to be made */
  Call* waiting; /* calls under way */
  bool ended;    /* nothing more for Python: a reply was sent, or the handler failed */
  bool abort;
  bool touched;    /* request headers were changed: the route may be another */
  bool stopped[2]; /* this direction waits for Python */
  bool go[2];
  bool placed[2];  /* Envoy's buffer holds what Python has, or had */
  volatile bool* destroyed; /* set by the end of the filter, while it goes on */
};

typedef struct {
  PyObject_HEAD
  Stream* stream;
  int kind;
} Headers;

static PyInterpreterState* interpreter;
static PyTypeObject Stream_type, Headers_type;
static PyObject *name_of[6], *name_resumed, *name_completed, *name_over, *name_took, *name_failed;
static PyObject *name_chain, *name_step, *name_root, *name_init, *name_until;

/* ---------------------------------------------------------------- threads and the GIL */

#define TRASH 64

static __thread PyThreadState* own_state;
static __thread PyObject* trash[TRASH]; /* requests that are over, to be given up when we have the GIL again */
static __thread int trashed;

static void enter(void) {
  if (own_state == NULL) own_state = PyThreadState_New(interpreter);
  PyEval_RestoreThread(own_state);
  while (trashed) {
    PyObject* one = trash[--trashed];
    if (((Stream*)one)->chain != NULL) {
      PyObject* done = PyObject_VectorcallMethod(name_over, &one, 1, NULL);
      if (done == NULL) PyErr_Clear();
      Py_XDECREF(done);
    }
    Py_CLEAR(((Stream*)one)->contexts); /* the circle of a request without a chain: it, its contexts, it */
    Py_DECREF(one);
  }
}

static void leave(void) { own_state = PyEval_SaveThread(); }

static void say(int level, const char* message) {
  CALL(log)(level, (Text){message, strlen(message)});
}

/* Say what Python raised. Needs the GIL. */
static void say_error(const char* where) {
  PyObject *kind, *value, *trace;
  PyErr_Fetch(&kind, &value, &trace);
  PyErr_NormalizeException(&kind, &value, &trace);
  PyObject* told = value ? PyObject_Str(value) : NULL;
  const char* text = told ? PyUnicode_AsUTF8(told) : NULL;
  char line[1024];
  snprintf(line, sizeof line, "headgate: %s: %s: %s", where, kind ? ((PyTypeObject*)kind)->tp_name : "error",
           text ? text : "?");
  PyErr_Clear();
  say(LOG_ERROR, line);
  Py_XDECREF(told);
  Py_XDECREF(kind);
  Py_XDECREF(value);
  Py_XDECREF(trace);
}

/* ---------------------------------------------------------------- texts */

static PyObject* to_str(const char* text, size_t length) {
  return PyUnicode_DecodeUTF8(text ? text : "", (Py_ssize_t)length, "surrogateescape");
}

/* The bytes of a str; `keep` is to be given up afterwards, if it is not NULL. */
static bool from_str(PyObject* str, Text* text, PyObject** keep) {
  Py_ssize_t length;
  *keep = NULL;
  text->ptr = PyUnicode_AsUTF8AndSize(str, &length);
  if (text->ptr == NULL) {
    PyErr_Clear();
    *keep = PyUnicode_AsEncodedString(str, "utf-8", "surrogateescape");
    if (*keep == NULL) return false;
    text->ptr = PyBytes_AS_STRING(*keep);
    length = PyBytes_GET_SIZE(*keep);
  }
  text->length = (size_t)length;
  return true;
}

static bool is_token(const char* name, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)name[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
          (c && strchr("!#$%&'*+.^_`|~-", c))))
      return false;
  }
  return length > 0;
}

static bool is_pseudo(Text name) {
  static const char* known[] = {":method", ":path", ":authority", ":scheme", ":status"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strlen(known[i]) == name.length && strncasecmp(known[i], name.ptr, name.length) == 0) return true;
  return false;
}

/* ---------------------------------------------------------------- Headers: sidecar.headers.Headers on a live map */

/* The request behind it, or NULL with an exception. */
static Filter* filter_of(Stream* stream) {
  if (stream->thread != PyThread_get_thread_ident()) {
    PyErr_SetString(PyExc_RuntimeError, "a request belongs to the thread that runs its hooks");
    return NULL;
  }
  if (stream->filter == NULL) PyErr_SetString(PyExc_RuntimeError, "this request is over");
  return stream->filter;
}

static void headers_dealloc(Headers* self) {
  Py_XDECREF(self->stream);
  PyObject_Free(self);
}

static PyObject* headers_new(Stream* stream, int kind) {
  Headers* self = PyObject_New(Headers, &Headers_type);
  if (self == NULL) return NULL;
  self->stream = (Stream*)Py_NewRef(stream);
  self->kind = kind;
  return (PyObject*)self;
}

static bool name_text(PyObject* name, Text* text, PyObject** keep) {
  if (!PyUnicode_Check(name)) {
    PyErr_Format(PyExc_TypeError, "a header's name is a str, not %s", Py_TYPE(name)->tp_name);
    return false;
  }
  return from_str(name, text, keep);
}

static PyObject* headers_get(Headers* self, PyObject* const* args, Py_ssize_t count) {
  if (count < 1 || count > 2) {
    PyErr_SetString(PyExc_TypeError, "get takes a name and a default");
    return NULL;
  }
  Filter* filter = filter_of(self->stream);
  Text name, value = {NULL, 0};
  PyObject* keep;
  if (filter == NULL || !name_text(args[0], &name, &keep)) return NULL;
  bool found = CALL(http_get_header)(filter->envoy, self->kind, name, &value, 0, NULL);
  Py_XDECREF(keep);
  if (found && value.ptr != NULL) return to_str(value.ptr, value.length);
  return count == 2 ? Py_NewRef(args[1]) : PyUnicode_FromStringAndSize(NULL, 0);
}

static PyObject* headers_get_all(Headers* self, PyObject* wanted) {
  Filter* filter = filter_of(self->stream);
  Text name, value = {NULL, 0};
  PyObject* keep;
  if (filter == NULL || !name_text(wanted, &name, &keep)) return NULL;
  size_t count = 0;
  CALL(http_get_header)(filter->envoy, self->kind, name, &value, 0, &count);
  PyObject* all = PyTuple_New((Py_ssize_t)count);
  for (size_t i = 0; all != NULL && i < count; i++) {
    CALL(http_get_header)(filter->envoy, self->kind, name, &value, i, NULL);
    PyObject* one = to_str(value.ptr, value.length);
    if (one == NULL)
      Py_CLEAR(all);
    else
      PyTuple_SET_ITEM(all, (Py_ssize_t)i, one);
  }
  Py_XDECREF(keep);
  return all;
}

static int headers_contains(Headers* self, PyObject* wanted) {
  Filter* filter;
  Text name, value = {NULL, 0};
  PyObject* keep;
  if (!PyUnicode_Check(wanted)) return 0;
  if ((filter = filter_of(self->stream)) == NULL || !from_str(wanted, &name, &keep)) return -1;
  size_t count = 0;
  CALL(http_get_header)(filter->envoy, self->kind, name, &value, 0, &count);
  Py_XDECREF(keep);
  return count > 0;
}

static PyObject* headers_items(Headers* self, PyObject* none) {
  Filter* filter = filter_of(self->stream);
  if (filter == NULL) return NULL;
  size_t count = CALL(http_get_headers_size)(filter->envoy, self->kind);
  Pair few[64], *pairs = count <= 64 ? few : malloc(count * sizeof(Pair));
  if (pairs == NULL) return PyErr_NoMemory();
  if (!CALL(http_get_headers)(filter->envoy, self->kind, pairs)) count = 0;
  PyObject* all = PyTuple_New((Py_ssize_t)count);
  for (size_t i = 0; all != NULL && i < count; i++) {
    PyObject* key = to_str(pairs[i].key, pairs[i].key_length);
    PyObject* value = key ? to_str(pairs[i].value, pairs[i].value_length) : NULL;
    PyObject* pair = value ? PyTuple_Pack(2, key, value) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(value);
    if (pair == NULL)
      Py_CLEAR(all);
    else
      PyTuple_SET_ITEM(all, (Py_ssize_t)i, pair);
  }
  if (pairs != few) free(pairs);
  return all;
}

static PyObject* headers_iter(Headers* self) {
  PyObject* all = headers_items(self, NULL);
  PyObject* iterator = all ? PyObject_GetIter(all) : NULL;
  Py_XDECREF(all);
  return iterator;
}

enum Change { SET, ADD, REMOVE };

static PyObject* headers_change(Headers* self, enum Change what, PyObject* name, PyObject* value) {
  Filter* filter = filter_of(self->stream);
  Text key, text = {NULL, 0};
  PyObject *keep, *keep_value = NULL;
  if (filter == NULL || !name_text(name, &key, &keep)) return NULL;
  bool pseudo = key.length > 0 && key.ptr[0] == ':';
  if (pseudo ? !is_pseudo(key) : !is_token(key.ptr, key.length))
    PyErr_Format(PyExc_ValueError, "%R cannot be the name of a header", name);
  else if (pseudo && what == ADD)
    PyErr_Format(PyExc_ValueError, "%R can have one value only: use set", name);
  else if (pseudo && what == REMOVE)
    PyErr_Format(PyExc_ValueError, "%R cannot be removed", name);
  else if (value != NULL && !PyUnicode_Check(value))
    PyErr_Format(PyExc_TypeError, "header %R: a value is a str, not %s", name, Py_TYPE(value)->tp_name);
  else if (value != NULL && !from_str(value, &text, &keep_value))
    ;
  else if (value != NULL && (memchr(text.ptr, '\r', text.length) || memchr(text.ptr, '\n', text.length) ||
                             memchr(text.ptr, '\0', text.length)))
    PyErr_Format(PyExc_ValueError, "header %R: a value holds no line break and no NUL", name);
  else {
    if (self->kind == REQUEST_HEADERS) filter->touched = true;
    if (what == ADD)
      CALL(http_add_header)(filter->envoy, self->kind, key, text);
    else
      CALL(http_set_header)(filter->envoy, self->kind, key, text); /* no value: it is removed */
  }
  Py_XDECREF(keep);
  Py_XDECREF(keep_value);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject* headers_set(Headers* self, PyObject* const* args, Py_ssize_t count) {
  if (count == 2) return headers_change(self, SET, args[0], args[1]);
  PyErr_SetString(PyExc_TypeError, "set takes a name and a value");
  return NULL;
}

static PyObject* headers_add(Headers* self, PyObject* const* args, Py_ssize_t count) {
  if (count == 2) return headers_change(self, ADD, args[0], args[1]);
  PyErr_SetString(PyExc_TypeError, "add takes a name and a value");
  return NULL;
}

static PyObject* headers_remove(Headers* self, PyObject* name) { return headers_change(self, REMOVE, name, NULL); }

static PyMethodDef headers_methods[] = {
    {"get", (PyCFunction)(void*)headers_get, METH_FASTCALL, "The first value, or the default."},
    {"get_all", (PyCFunction)headers_get_all, METH_O, "Every value."},
    {"items", (PyCFunction)headers_items, METH_NOARGS, "All headers."},
    {"set", (PyCFunction)(void*)headers_set, METH_FASTCALL, "Make this the header's only value."},
    {"add", (PyCFunction)(void*)headers_add, METH_FASTCALL, "Add a value."},
    {"remove", (PyCFunction)headers_remove, METH_O, "Remove every value."},
    {NULL, NULL, 0, NULL}};

static PySequenceMethods headers_sequence = {.sq_contains = (objobjproc)headers_contains};

static PyTypeObject Headers_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_headgate_envoy.Headers",
    .tp_basicsize = sizeof(Headers),
    .tp_dealloc = (destructor)headers_dealloc,
    .tp_iter = (getiterfunc)headers_iter,
    .tp_as_sequence = &headers_sequence,
    .tp_methods = headers_methods,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Headers or trailers as Envoy has them now.",
};

/* ---------------------------------------------------------------- Stream: one request, base of the handler's class */

static PyObject* stream_headers(Stream* self, PyObject* kind) {
  long which = PyLong_AsLong(kind);
  if (which < REQUEST_HEADERS || which > RESPONSE_TRAILERS) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "0 to 3");
    return NULL;
  }
  return headers_new(self, (int)which);
}

/* Copy pairs of str and a body into memory of ours. `room` is the size of what stands before the pairs. */
static void* copied(size_t room, size_t count, char** memory, Pair** pairs, PyObject* headers, Text* body, Text* more) {
  size_t size = body->length + more->length;
  for (size_t i = 0; i < count; i++)
    for (int side = 0; side < 2; side++) {
      PyObject *pair = PyTuple_GET_ITEM(headers, (Py_ssize_t)i), *keep;
      Text text;
      if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyUnicode_Check(PyTuple_GET_ITEM(pair, side))) {
        PyErr_SetString(PyExc_TypeError, "headers are pairs of str");
        return NULL;
      }
      if (!from_str(PyTuple_GET_ITEM(pair, side), &text, &keep)) return NULL;
      size += text.length;
      Py_XDECREF(keep);
    }
  char* place = calloc(1, room + count * sizeof(Pair));
  char* texts = malloc(size + 1);
  if (place == NULL || texts == NULL) {
    free(place);
    free(texts);
    PyErr_NoMemory();
    return NULL;
  }
  *memory = texts;
  *pairs = (Pair*)(place + room);
  for (size_t i = 0; i < count; i++)
    for (int side = 0; side < 2; side++) {
      PyObject* keep;
      Text text;
      from_str(PyTuple_GET_ITEM(PyTuple_GET_ITEM(headers, (Py_ssize_t)i), side), &text, &keep);
      memcpy(texts, text.ptr, text.length);
      if (side == 0) {
        (*pairs)[i].key = texts;
        (*pairs)[i].key_length = text.length;
      } else {
        (*pairs)[i].value = texts;
        (*pairs)[i].value_length = text.length;
      }
      texts += text.length;
      Py_XDECREF(keep);
    }
  memcpy(texts, body->ptr, body->length);
  body->ptr = texts;
  memcpy(texts + body->length, more->ptr, more->length);
  more->ptr = texts + body->length;
  return place;
}

static PyObject* stream_reply(Stream* self, PyObject* args) {
  Filter* filter = filter_of(self);
  unsigned int status;
  PyObject* headers;
  Text body, none = {"", 0};
  Py_ssize_t length;
  if (filter == NULL || !PyArg_ParseTuple(args, "IO!y#", &status, &PyTuple_Type, &headers, &body.ptr, &length))
    return NULL;
  body.length = (size_t)length;
  size_t count = (size_t)PyTuple_GET_SIZE(headers);
  char* memory;
  Pair* pairs;
  Reply* reply = copied(offsetof(Reply, pairs), count, &memory, &pairs, headers, &body, &none);
  if (reply == NULL) return NULL;
  if (filter->reply != NULL) {
    free(filter->reply->memory);
    free(filter->reply);
  }
  reply->status = status;
  reply->memory = memory;
  reply->body = body;
  reply->count = count;
  filter->reply = reply;
  Py_RETURN_NONE;
}

static PyObject* stream_abort(Stream* self, PyObject* none) {
  Filter* filter = filter_of(self);
  if (filter == NULL) return NULL;
  filter->abort = true;
  Py_RETURN_NONE;
}

static void set_body(Filter* filter, int kind, PyObject* data) {
  CALL(http_drain_body)(filter->envoy, kind, CALL(http_get_body_size)(filter->envoy, kind));
  if (PyBytes_GET_SIZE(data) > 0)
    CALL(http_append_body)(filter->envoy, kind, (Text){PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data)});
}

static PyObject* stream_go(Stream* self, PyObject* args) {
  Filter* filter = filter_of(self);
  int way;
  PyObject* data;
  if (filter == NULL || !PyArg_ParseTuple(args, "iO", &way, &data)) return NULL;
  if ((way != REQUEST && way != RESPONSE) || (data != Py_None && !PyBytes_Check(data))) {
    PyErr_SetString(PyExc_TypeError, "go takes 0 or 1, and bytes or None");
    return NULL;
  }
  if (data != Py_None && filter->placed[way]) {
    set_body(filter, way == REQUEST ? BUFFERED_REQUEST : BUFFERED_RESPONSE, data);
    filter->placed[way] = false;
  }
  filter->go[way] = true;
  Py_RETURN_NONE;
}

static PyObject* stream_string(Stream* self, PyObject* attribute) {
  Filter* filter = filter_of(self);
  if (filter == NULL) return NULL;
  int id = (int)PyLong_AsLong(attribute);
  Text value = {NULL, 0};
  if (PyErr_Occurred()) return NULL;
  if (!CALL(http_filter_get_attribute_string)(filter->envoy, id, &value) || value.ptr == NULL) Py_RETURN_NONE;
  return to_str(value.ptr, value.length);
}

static PyObject* stream_number(Stream* self, PyObject* attribute) {
  Filter* filter = filter_of(self);
  if (filter == NULL) return NULL;
  int id = (int)PyLong_AsLong(attribute);
  uint64_t value = 0;
  if (PyErr_Occurred()) return NULL;
  if (!CALL(http_filter_get_attribute_int)(filter->envoy, id, &value)) Py_RETURN_NONE;
  return PyLong_FromUnsignedLongLong(value);
}

static PyObject* stream_set_metadata(Stream* self, PyObject* args) {
  Filter* filter = filter_of(self);
  Text space, key, text;
  Py_ssize_t space_length, key_length;
  PyObject *value, *keep;
  if (filter == NULL || !PyArg_ParseTuple(args, "s#s#O", &space.ptr, &space_length, &key.ptr, &key_length, &value))
    return NULL;
  space.length = (size_t)space_length;
  key.length = (size_t)key_length;
  if (PyBool_Check(value))
    CALL(http_set_dynamic_metadata_bool)(filter->envoy, space, key, value == Py_True);
  else if (PyLong_Check(value) || PyFloat_Check(value)) {
    double number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred()) return NULL;
    CALL(http_set_dynamic_metadata_number)(filter->envoy, space, key, number);
  } else if (PyUnicode_Check(value)) {
    if (!from_str(value, &text, &keep)) return NULL;
    CALL(http_set_dynamic_metadata_string)(filter->envoy, space, key, text);
    Py_XDECREF(keep);
  } else {
    PyErr_Format(PyExc_TypeError, "metadata cannot be %s", Py_TYPE(value)->tp_name);
    return NULL;
  }
  Py_RETURN_NONE;
}

static PyObject* stream_call(Stream* self, PyObject* args) {
  Filter* filter = filter_of(self);
  long long token;
  PyObject* headers;
  Text cluster, body;
  Py_ssize_t cluster_length, body_length;
  unsigned long long milliseconds;
  if (filter == NULL || !PyArg_ParseTuple(args, "Ls#O!y#K", &token, &cluster.ptr, &cluster_length, &PyTuple_Type,
                                          &headers, &body.ptr, &body_length, &milliseconds))
    return NULL;
  cluster.length = (size_t)cluster_length;
  body.length = (size_t)body_length;
  size_t count = (size_t)PyTuple_GET_SIZE(headers);
  char* memory;
  Pair* pairs;
  Call* call = copied(offsetof(Call, pairs), count, &memory, &pairs, headers, &body, &cluster);
  if (call == NULL) return NULL;
  call->token = token;
  call->milliseconds = milliseconds;
  call->memory = memory;
  call->cluster = cluster;
  call->body = body;
  call->count = count;
  Call** last = &filter->asked;
  while (*last) last = &(*last)->next;
  *last = call;
  Py_RETURN_NONE;
}

/* From any thread: have the handler's `resumed` called soon, in the request's own. */
static PyObject* stream_wake(Stream* self, PyObject* none) {
  if (self->scheduler != NULL)
    CALL(http_filter_scheduler_commit)(self->scheduler, 0);
  else
    self->woken = true; /* told as soon as this hook is over */
  Py_RETURN_NONE;
}

static PyMethodDef stream_methods[] = {
    {"headers", (PyCFunction)stream_headers, METH_O, "One of the four header maps."},
    {"reply", (PyCFunction)stream_reply, METH_VARARGS, "Answer with a status, headers and a body."},
    {"abort", (PyCFunction)stream_abort, METH_NOARGS, "Reset the stream."},
    {"go", (PyCFunction)stream_go, METH_VARARGS, "Let a stopped direction go on, with this body."},
    {"string", (PyCFunction)stream_string, METH_O, "An attribute that is a text."},
    {"number", (PyCFunction)stream_number, METH_O, "An attribute that is a number."},
    {"write_metadata", (PyCFunction)stream_set_metadata, METH_VARARGS, "Set dynamic metadata."},
    {"make_call", (PyCFunction)stream_call, METH_VARARGS, "Call a cluster; `answer` is called with the outcome."},
    {"wake_up", (PyCFunction)stream_wake, METH_NOARGS, "Have `resumed` called."},
    {NULL, NULL, 0, NULL}};

static PyMemberDef stream_members[] = {
    {"chain", T_OBJECT, offsetof(Stream, chain), 0, "What the handler keeps."},
    {"contexts", T_OBJECT, offsetof(Stream, contexts), 0, "The plugins' contexts while there is no chain."},
    {"request_headers_seen", T_OBJECT, offsetof(Stream, seen), 0, "For contexts without a chain."},
    {"response_headers_seen", T_OBJECT, offsetof(Stream, seen) + sizeof(PyObject*), 0, "The same of the response."},
    {"began", T_DOUBLE, offsetof(Stream, began), 0, "When the request began, on the monotonic clock."},
    {NULL, 0, 0, 0, NULL}};

static int stream_traverse(Stream* self, visitproc visit, void* arg) {
  Py_VISIT(self->chain);
  Py_VISIT(self->contexts);
  Py_VISIT(self->seen[REQUEST]);
  Py_VISIT(self->seen[RESPONSE]);
  return 0;
}

static int stream_clear(Stream* self) {
  Py_CLEAR(self->chain);
  Py_CLEAR(self->contexts);
  Py_CLEAR(self->seen[REQUEST]);
  Py_CLEAR(self->seen[RESPONSE]);
  return 0;
}

static void stream_dealloc(Stream* self) {
  PyObject_GC_UnTrack(self);
  stream_clear(self);
  Py_TYPE(self)->tp_free(self);
}

static PyTypeObject Stream_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_headgate_envoy.Stream",
    .tp_basicsize = sizeof(Stream),
    .tp_dealloc = (destructor)stream_dealloc,
    .tp_traverse = (traverseproc)stream_traverse,
    .tp_clear = (inquiry)stream_clear,
    .tp_methods = stream_methods,
    .tp_members = stream_members,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_doc = "One request inside Envoy.",
};

/* ---------------------------------------------------------------- the module */

static PyObject* module_log(PyObject* module, PyObject* args) {
  int level;
  Text text;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(args, "is#", &level, &text.ptr, &length)) return NULL;
  text.length = (size_t)length;
  CALL(log)(level < LOG_TRACE ? LOG_TRACE : level > LOG_ERROR ? LOG_ERROR : level, text);
  Py_RETURN_NONE;
}

/* Hooks called from here, by thread: what sidecar/watch.py keeps in a dict for those that Python calls. Read and written
 * with the GIL only. */
#define THREADS 256

static struct {
  unsigned long thread;
  double until; /* on the monotonic clock; 0: no hook runs */
  unsigned long long turn;
} at_work[THREADS];
static int threads_known;
static __thread int own_work = -1;

static PyObject* module_at_work(PyObject* module, PyObject* none) {
  PyObject* all = PyList_New(0);
  for (int i = 0; all != NULL && i < threads_known; i++) {
    if (at_work[i].until == 0) continue;
    PyObject* one = Py_BuildValue("kdK", at_work[i].thread, at_work[i].until, at_work[i].turn);
    if (one == NULL || PyList_Append(all, one) < 0) Py_CLEAR(all);
    Py_XDECREF(one);
  }
  return all;
}

static PyObject* module_is_at_work(PyObject* module, PyObject* args) {
  unsigned long thread;
  unsigned long long turn;
  if (!PyArg_ParseTuple(args, "kK", &thread, &turn)) return NULL;
  for (int i = 0; i < threads_known; i++)
    if (at_work[i].thread == thread && at_work[i].turn == turn) return PyBool_FromLong(at_work[i].until != 0);
  Py_RETURN_FALSE;
}

static PyMethodDef module_methods[] = {
    {"log", module_log, METH_VARARGS, "Write into Envoy's log: level 0 to 4."},
    {"at_work", module_at_work, METH_NOARGS, "(thread, when it has to be over, number) of each hook called from C."},
    {"is_at_work", module_is_at_work, METH_VARARGS, "Whether the hook of that number still runs in the thread."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_headgate_envoy", .m_size = -1,
                                    .m_doc = "Envoy, from the inside.", .m_methods = module_methods};

static PyObject* make_module(void) {
  if (PyType_Ready(&Stream_type) < 0 || PyType_Ready(&Headers_type) < 0) return NULL;
  PyObject* made = PyModule_Create(&module);
  if (made == NULL || PyModule_AddObjectRef(made, "Stream", (PyObject*)&Stream_type) < 0 ||
      PyModule_AddObjectRef(made, "Headers", (PyObject*)&Headers_type) < 0 ||
      PyModule_AddStringConstant(made, "ABI", HEADGATE_ABI) < 0)
    return NULL;
  return made;
}

/* ---------------------------------------------------------------- start and end of Python */

static void finish_python(void) {
  if (interpreter == NULL) return;
  enter();
  PyObject* embedded = PyImport_ImportModule("sidecar.embedded");
  PyObject* done = embedded ? PyObject_CallMethod(embedded, "shut_down", NULL) : NULL;
  bool quiet = done == Py_True; /* no thread of a plugin is left that Py_Finalize would wait for */
  if (done == NULL) PyErr_Clear();
  Py_XDECREF(done);
  Py_XDECREF(embedded);
  if (quiet) Py_FinalizeEx();
}

static bool start_python(void) {
  if (interpreter != NULL) return true;
  PyPreConfig before;
  PyPreConfig_InitPythonConfig(&before);
  before.configure_locale = 0; /* the locale is Envoy's */
  before.coerce_c_locale = 0;
  before.utf8_mode = 1;
  PyConfig config;
  const char* python = getenv("HEADGATE_PYTHON");
  PyStatus status = Py_PreInitialize(&before);
  char line[512];
  if (!PyStatus_Exception(status)) {
    PyImport_AppendInittab("_headgate_envoy", make_module);
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    config.buffered_stdio = 0;
    status = PyConfig_SetBytesString(&config, &config.program_name, python && *python ? python : HEADGATE_PYTHON);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
  }
  if (PyStatus_Exception(status)) {
    snprintf(line, sizeof line, "headgate: Python did not start: %s (build the module again: headgate plugin build)",
             status.err_msg ? status.err_msg : "no reason given");
    say(LOG_ERROR, line);
    return false;
  }
  if (strncmp(Py_GetVersion(), PY_VERSION, strrchr(PY_VERSION, '.') - PY_VERSION + 1) != 0) {
    snprintf(line, sizeof line,
             "headgate: built for Python " PY_VERSION ", but this is %.20s: run headgate plugin build again",
             Py_GetVersion());
    say(LOG_ERROR, line);
    Py_FinalizeEx();
    return false;
  }
  static const char* names[] = {"request_headers", "request_body", "request_trailers",
                                "response_headers", "response_body", "response_trailers"};
  for (int i = 0; i < 6; i++) name_of[i] = PyUnicode_InternFromString(names[i]);
  name_resumed = PyUnicode_InternFromString("resumed");
  name_completed = PyUnicode_InternFromString("completed");
  name_over = PyUnicode_InternFromString("over");
  name_took = PyUnicode_InternFromString("took");
  name_failed = PyUnicode_InternFromString("failed");
  name_chain = PyUnicode_InternFromString("_chain");
  name_step = PyUnicode_InternFromString("_step");
  name_root = PyUnicode_InternFromString("root");
  name_init = PyUnicode_InternFromString("__init__");
  name_until = PyUnicode_InternFromString("suspended_until");
  interpreter = PyInterpreterState_Get();
  PyObject* ours = PyImport_ImportModule("_headgate_envoy");
  if (ours == NULL) say_error("cannot make the module");
  Py_XDECREF(ours);
  leave();
  atexit(finish_python);
  return ours != NULL;
}

/* ---------------------------------------------------------------- hooks of a request */

static bool make_stream(Filter* filter) {
  Stream* stream = (Stream*)filter->app->handler->tp_alloc(filter->app->handler, 0);
  if (stream == NULL) return false;
  stream->filter = filter;
  stream->thread = PyThread_get_thread_ident();
  filter->stream = stream;
  return true;
}

/* What the handler said. Its own failure must not stop a request: the rest of it goes by. */
static enum Outcome read_result(Filter* filter, PyObject* result, const char* where) {
  if (result == Py_None) return GO;
  if (result == NULL || !(PyLong_Check(result) || PyBytes_Check(result))) {
    if (result != NULL) PyErr_Format(PyExc_TypeError, "the handler returned %s", Py_TYPE(result)->tp_name);
    say_error(where);
    filter->ended = true;
    return GO;
  }
  return PyBytes_Check(result) ? REPLACED : PyLong_AsLong(result) == BLOCK ? BLOCK : HOLD;
}

/* Needs the GIL. */
static void prepare_waking(Stream* stream) {
  if (stream->filter == NULL) return;
  if (stream->scheduler == NULL) stream->scheduler = CALL(http_filter_scheduler_new)(stream->filter->envoy);
  if (stream->woken && stream->scheduler != NULL) {
    stream->woken = false;
    CALL(http_filter_scheduler_commit)(stream->scheduler, 0);
  }
}

/* A call could not be made. Told as an answer, but later: this hook's own outcome comes first. */
static void refuse(Filter* filter, long long token, const char* why) {
  enter();
  Stream* stream = filter->stream;
  PyObject* result = PyObject_CallMethod((PyObject*)stream, "refused", "Ls", token, why);
  read_result(filter, result, "a call that could not be made");
  Py_XDECREF(result);
  prepare_waking(stream);
  leave();
}

/* What Python asked for that may lead into other hooks of ours. Without the GIL; true: the request is ended by it. */
static bool act(Filter* filter) {
  while (filter->asked != NULL && !filter->ended) {
    Call* call = filter->asked;
    filter->asked = call->next;
    call->next = filter->waiting;
    filter->waiting = call;
    int result = CALL(http_filter_http_callout)(filter->envoy, &call->id, call->cluster, call->pairs, call->count,
                                                call->body, call->milliseconds);
    if (result != 0) {
      static const char* reasons[] = {"", "method, path or host is missing", "there is no such cluster",
                                      "a call of that number is under way", "no upstream can be reached"};
      long long token = call->token;
      Call** place = &filter->waiting;
      while (*place != NULL && *place != call) place = &(*place)->next;
      if (*place == call) {
        *place = call->next;
        free(call->memory);
        free(call);
        refuse(filter, token, reasons[result < 5 ? result : 4]);
      }
    }
  }
  if (filter->abort) {
    filter->abort = false;
    filter->ended = true;
    CALL(http_filter_reset_stream)(filter->envoy, 0, (Text){"headgate_plugin", 15});
    return true;
  }
  if (filter->reply != NULL) {
    Reply* reply = filter->reply;
    filter->reply = NULL;
    filter->ended = true;
    CALL(http_send_response)(filter->envoy, reply->status, reply->pairs, reply->count, reply->body,
                             (Text){"headgate_plugin", 15});
    free(reply->memory); /* the filter may be gone */
    free(reply);
    return true;
  }
  return false;
}

/* Let stopped directions go on. Without the GIL, last thing of a hook: the filter may be gone afterwards. */
static void go_on(Filter* filter) {
  volatile bool gone = false;
  filter->destroyed = &gone;
  for (int way = REQUEST; way <= RESPONSE && !gone; way++) {
    if (!filter->go[way]) continue;
    filter->go[way] = false;
    filter->stopped[way] = false;
    if (way == REQUEST) {
      if (filter->touched) CALL(http_clear_route_cache)(filter->envoy);
      filter->touched = false;
      CALL(http_filter_continue_decoding)(filter->envoy);
    } else
      CALL(http_filter_continue_encoding)(filter->envoy);
  }
  if (!gone) filter->destroyed = NULL;
}

/* ---------------------------------------------------------------- the short way: what sidecar/lean.py does, in C */

static double monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Count a request. False: a plugin is suspended, or an error; the long way finds out, and counts. */
static bool admitted(Lane* lane, double now) {
  for (Py_ssize_t i = 0; i < lane->plugins; i++) {
    PyObject* value = PyObject_GetAttr(PyTuple_GET_ITEM(lane->healths, i), name_until);
    bool good = value != NULL && PyFloat_AsDouble(value) <= now;
    Py_XDECREF(value);
    if (!good) {
      PyErr_Clear();
      return false;
    }
  }
  ++*(uint64_t*)lane->requests.buf;
  return true;
}

/* The number of this thread in `at_work`, or -1 when there is no room for it. */
static int own_place(unsigned long thread) {
  if (own_work < 0 && threads_known < THREADS) {
    own_work = threads_known++;
    at_work[own_work].thread = thread;
  }
  return own_work;
}

/* A plugin's context of this request, which has none yet. */
static PyObject* new_context(Hook* hook, Stream* stream, PyObject* plain) {
  PyTypeObject* kind = PyType_Check(hook->make) ? (PyTypeObject*)hook->make : NULL;
  PyObject *context, *init = PyObject_GetAttr(hook->make, name_init); /* each time: its bases can be changed */
  if (kind != NULL && kind->tp_new == PyBaseObject_Type.tp_new && init == plain) { /* then we do what it does */
    context = kind->tp_alloc(kind, 0);
    if (context != NULL && PyObject_SetAttr(context, name_root, hook->plugin) < 0) Py_CLEAR(context);
  } else {
    PyErr_Clear();
    context = PyObject_CallOneArg(hook->make, hook->plugin);
  }
  Py_XDECREF(init);
  if (context != NULL && PyObject_SetAttr(context, name_chain, (PyObject*)stream) < 0) Py_CLEAR(context);
  return context;
}

/* A hook did something else than let the headers go on: the handler makes a chain that takes over. */
static PyObject* long_way(Stream* stream, Hook* hook, PyObject* headers, bool end, PyObject* result) {
  PyObject* told = result;
  if (result == NULL) {
    PyObject *kind, *trace;
    PyErr_Fetch(&kind, &told, &trace);
    PyErr_NormalizeException(&kind, &told, &trace);
    if (trace != NULL && told != NULL) PyException_SetTraceback(told, trace);
    Py_XDECREF(kind);
    Py_XDECREF(trace);
    if (told == NULL) return PyErr_NoMemory();
  }
  PyObject* args[] = {(PyObject*)stream, hook->places[end], headers, told};
  PyObject* done = PyObject_VectorcallMethod(result == NULL ? name_failed : name_took, args, 4, NULL);
  Py_DECREF(told);
  return done;
}

/* Run the hooks of headers. What the handler would return; NULL without an exception: it is not for the short way. */
static PyObject* short_way(Filter* filter, Stream* stream, int way, PyObject* headers, bool end) {
  Lane* lane = filter->app->lane;
  double now = monotonic();
  if (lane == NULL || stream->chain != NULL) return NULL;
  int place = own_place(stream->thread);
  if (place < 0) return NULL;
  if (way == RESPONSE ? stream->contexts == NULL : !admitted(lane, now)) return NULL;
  if (way == REQUEST) {
    PyObject* contexts = PyList_New(lane->plugins);
    if (contexts == NULL) return NULL;
    for (Py_ssize_t i = 0; i < lane->plugins; i++) PyList_SET_ITEM(contexts, i, Py_NewRef(Py_None));
    stream->contexts = contexts;
    stream->began = now;
    Py_XSETREF(stream->seen[RESPONSE], headers_new(stream, RESPONSE_HEADERS));
  }
  Py_XSETREF(stream->seen[way], Py_NewRef(headers));
  PyObject* contexts = Py_NewRef(stream->contexts);
  PyObject* answer = NULL;
  for (Py_ssize_t i = 0; answer == NULL && i < lane->count[way]; i++) {
    Hook* hook = &lane->hooks[way][i];
    at_work[place].turn++;
    at_work[place].until = now + hook->budget;
    PyObject* result = NULL;
    PyObject* context = Py_NewRef(PyList_GET_ITEM(contexts, hook->index));
    if (context == Py_None) {
      Py_DECREF(context);
      context = new_context(hook, stream, lane->init);
      if (context != NULL) PyList_SetItem(contexts, hook->index, Py_NewRef(context));
    }
    if (context != NULL && PyObject_SetAttr(context, name_step, hook->places[end]) == 0) {
      PyObject* args[] = {context, headers};
      result = PyObject_VectorcallMethod(hook->name, args, 2, NULL);
    }
    Py_XDECREF(context);
    at_work[place].until = 0; /* before we look at `fired`: whoever fires does it the other way round */
    if (result == NULL) { /* `failed` leaves the watch */
      answer = long_way(stream, hook, headers, end, NULL);
      if (answer == NULL) break;
      continue;
    }
    bool fired = PySet_GET_SIZE(lane->fired) > 0;
    if ((result == Py_None || result == lane->go_on) && stream->chain == NULL && !fired)
      Py_DECREF(result);
    else
      answer = long_way(stream, hook, headers, end, result);
    if (answer == NULL && PyErr_Occurred()) break;
  }
  Py_DECREF(contexts);
  if (answer == NULL && !PyErr_Occurred()) answer = Py_NewRef(Py_None);
  return answer;
}

static void free_lane(Lane* lane) {
  if (lane == NULL) return;
  free(lane->hooks[REQUEST]);
  free(lane->hooks[RESPONSE]);
  if (lane->requests.obj != NULL) PyBuffer_Release(&lane->requests);
  free(lane);
}

/* Read what `spoken` says; it keeps alive what we point to. NULL: all go the long way. */
static Lane* make_lane(PyObject* spoken) {
  PyObject *ways[2], *requests;
  Lane* lane = calloc(1, sizeof(Lane));
  if (lane == NULL || !PyTuple_Check(spoken) ||
      !PyArg_ParseTuple(spoken, "OOOOO!O!O!", &lane->fired, &lane->go_on, &lane->init, &requests, &PyTuple_Type,
                        &lane->healths, &PyTuple_Type, &ways[REQUEST], &PyTuple_Type, &ways[RESPONSE]) ||
      PyObject_GetBuffer(requests, &lane->requests, PyBUF_WRITABLE) < 0) {
    PyErr_Clear();
    free(lane);
    return NULL;
  }
  if (lane->requests.len != sizeof(uint64_t)) {
    free_lane(lane);
    return NULL;
  }
  lane->plugins = PyTuple_GET_SIZE(lane->healths);
  for (int way = REQUEST; way <= RESPONSE; way++) {
    lane->count[way] = PyTuple_GET_SIZE(ways[way]);
    lane->hooks[way] = calloc((size_t)lane->count[way] + 1, sizeof(Hook));
    for (Py_ssize_t i = 0; lane->hooks[way] != NULL && i < lane->count[way]; i++) {
      Hook* hook = &lane->hooks[way][i];
      if (!PyArg_ParseTuple(PyTuple_GET_ITEM(ways[way], i), "nUdOO(OO)", &hook->index, &hook->name, &hook->budget,
                            &hook->make, &hook->plugin, &hook->places[0], &hook->places[1])) {
        PyErr_Clear();
        free_lane(lane);
        return NULL;
      }
    }
  }
  return lane;
}

/* Call a hook of the handler. `kind`: a header map, or -1 with a body. */
static enum Outcome run(Filter* filter, int way, int part, int kind, bool end) {
  enum Outcome outcome = GO;
  enter();
  PyObject* argument = NULL;
  if (filter->stream != NULL || make_stream(filter)) {
    if (kind == RESPONSE_HEADERS && filter->stream->seen[RESPONSE] != NULL)
      argument = Py_NewRef(filter->stream->seen[RESPONSE]);
    else if (kind >= 0)
      argument = headers_new(filter->stream, kind);
    else {
      int received = way == REQUEST ? RECEIVED_REQUEST : RECEIVED_RESPONSE;
      size_t size = CALL(http_get_body_size)(filter->envoy, received);
      size_t count = CALL(http_get_body_chunks_size)(filter->envoy, received);
      Text few[16], *chunks = count <= 16 ? few : malloc(count * sizeof(Text));
      argument = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
      if (argument != NULL && chunks != NULL && size > 0 &&
          CALL(http_get_body_chunks)(filter->envoy, received, chunks)) {
        char* to = PyBytes_AS_STRING(argument);
        for (size_t i = 0; i < count; to += chunks[i++].length) memcpy(to, chunks[i].ptr, chunks[i].length);
      }
      if (chunks != few) free(chunks);
    }
  }
  Stream* stream = filter->stream;
  if (argument == NULL) {
    say_error("no memory");
  } else {
    Py_INCREF(stream);
    PyObject* args[] = {(PyObject*)stream, argument, end ? Py_True : Py_False};
    PyObject* result = part == 0 ? short_way(filter, stream, way, argument, end) : NULL;
    if (result == NULL && !PyErr_Occurred())
      result = PyObject_VectorcallMethod(name_of[way * 3 + part], args, part == 2 ? 2 : 3, NULL);
    outcome = read_result(filter, result, "a hook of the handler");
    if (outcome == REPLACED) {
      if (part == 1 && filter->placed[way]) {
        PyObject* nothing = PyBytes_FromStringAndSize(NULL, 0);
        set_body(filter, way == REQUEST ? BUFFERED_REQUEST : BUFFERED_RESPONSE, nothing);
        Py_DECREF(nothing);
      }
      if (part == 1)
        set_body(filter, way == REQUEST ? RECEIVED_REQUEST : RECEIVED_RESPONSE, result);
      else if (part == 2)
        set_body(filter, way == REQUEST ? BUFFERED_REQUEST : BUFFERED_RESPONSE, result);
      filter->placed[way] = false;
      outcome = GO;
    }
    if (outcome == BLOCK || stream->woken || filter->asked != NULL) prepare_waking(stream);
    Py_XDECREF(result);
    Py_DECREF(argument);
    Py_DECREF(stream);
  }
  filter->stopped[way] = outcome != GO;
  if (part == 1 && outcome != GO) filter->placed[way] = true;
  bool reroute = way == REQUEST && filter->touched && outcome == GO;
  if (reroute) {
    filter->touched = false;
    CALL(http_clear_route_cache)(filter->envoy);
  }
  leave();
  if ((filter->reply != NULL || filter->abort || filter->asked != NULL) && act(filter)) return ENDED;
  return outcome;
}

static void answer(Filter* filter, long long token, unsigned int status, Pair* pairs, size_t count, Text* chunks,
                   size_t chunk_count, const char* error) {
  enter();
  Stream* stream = filter->stream;
  Py_INCREF(stream);
  PyObject* headers = PyTuple_New((Py_ssize_t)count);
  for (size_t i = 0; headers != NULL && i < count; i++) {
    PyObject* key = to_str(pairs[i].key, pairs[i].key_length);
    PyObject* value = key ? to_str(pairs[i].value, pairs[i].value_length) : NULL;
    PyObject* pair = value ? PyTuple_Pack(2, key, value) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(value);
    if (pair == NULL)
      Py_CLEAR(headers);
    else
      PyTuple_SET_ITEM(headers, (Py_ssize_t)i, pair);
  }
  size_t size = 0;
  for (size_t i = 0; i < chunk_count; i++) size += chunks[i].length;
  PyObject* body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
  if (body != NULL) {
    char* to = PyBytes_AS_STRING(body);
    for (size_t i = 0; i < chunk_count; to += chunks[i++].length) memcpy(to, chunks[i].ptr, chunks[i].length);
  }
  PyObject* result = NULL;
  if (headers != NULL && body != NULL)
    result = PyObject_CallMethod((PyObject*)stream, "answered", "LIOOs", token, status, headers, body, error);
  read_result(filter, result, "the answer of a call");
  Py_XDECREF(result);
  Py_XDECREF(headers);
  Py_XDECREF(body);
  if (stream->woken || filter->asked != NULL) prepare_waking(stream);
  Py_DECREF(stream);
  leave();
}

static bool wants(Filter* filter, int way, int part) {
  return !filter->ended && (filter->app->wants >> (way * 3) & part) != 0;
}

static int on_headers(Filter* filter, int way, bool end) {
  if (!wants(filter, way, WANTS_HEADERS)) return HEADERS_CONTINUE;
  uint64_t limit = filter->app->limit[way];
  if (limit && !end && CALL(http_get_buffer_limit)(filter->envoy) < limit)
    CALL(http_set_buffer_limit)(filter->envoy, limit);
  enum Outcome outcome = run(filter, way, 0, way == REQUEST ? REQUEST_HEADERS : RESPONSE_HEADERS, end);
  return outcome == GO ? HEADERS_CONTINUE : HEADERS_STOP;
}

static int on_body(Filter* filter, int way, bool end) {
  if (!wants(filter, way, WANTS_BODY)) return filter->stopped[way] ? BODY_WATERMARK : BODY_CONTINUE;
  switch (run(filter, way, 1, -1, end)) {
    case GO: return BODY_CONTINUE;
    case HOLD: return BODY_BUFFER;
    case BLOCK: return BODY_WATERMARK;
    default: return BODY_NO_BUFFER;
  }
}

static int on_trailers(Filter* filter, int way) {
  if (!wants(filter, way, WANTS_TRAILERS)) return filter->stopped[way] ? TRAILERS_STOP : TRAILERS_CONTINUE;
  enum Outcome outcome = run(filter, way, 2, way == REQUEST ? REQUEST_TRAILERS : RESPONSE_TRAILERS, true);
  return outcome == GO ? TRAILERS_CONTINUE : TRAILERS_STOP;
}

static void free_calls(Call* call) {
  while (call != NULL) {
    Call* next = call->next;
    free(call->memory);
    free(call);
    call = next;
  }
}

/* ---------------------------------------------------------------- what Envoy calls */

EXPORT const char* HOOK(program_init)(void) { return HEADGATE_ABI; }

static void release(App* app) {
  if (__atomic_sub_fetch(&app->users, 1, __ATOMIC_ACQ_REL) > 0) return;
  enter();
  Py_DECREF(app->application);
  Py_DECREF(app->handler);
  free_lane(app->lane);
  Py_XDECREF(app->spoken);
  leave();
  free(app);
}

static App* retained(const void* app) {
  __atomic_add_fetch(&((App*)app)->users, 1, __ATOMIC_RELAXED);
  return (App*)app;
}

static App* make_app(Text name, Text text) {
  if (!start_python()) return NULL;
  App* app = calloc(1, sizeof(App));
  if (app == NULL) return NULL;
  enter();
  PyObject* embedded = PyImport_ImportModule("sidecar.embedded");
  PyObject* application =
      embedded ? PyObject_CallMethod(embedded, "load", "s#s#", name.ptr, (Py_ssize_t)name.length,
                                     text.ptr ? text.ptr : "", (Py_ssize_t)text.length)
               : NULL;
  PyObject* handler = application ? PyObject_GetAttrString(application, "handler") : NULL;
  PyObject* rest = application ? PyObject_GetAttrString(application, "needs") : NULL;
  unsigned long long request = 0, response = 0;
  if (handler == NULL || rest == NULL || !PyArg_ParseTuple(rest, "iKK", &app->wants, &request, &response) ||
      !PyType_Check(handler) || !PyType_IsSubtype((PyTypeObject*)handler, &Stream_type)) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "the handler is not a Stream");
    say_error("the plugins were not loaded");
    Py_XDECREF(handler);
    Py_XDECREF(application);
    free(app);
    app = NULL;
  } else {
    app->users = 1;
    app->application = application;
    app->spoken = PyObject_GetAttrString(application, "lane");
    if (app->spoken == NULL) PyErr_Clear();
    app->lane = app->spoken != NULL ? make_lane(app->spoken) : NULL;
    app->handler = (PyTypeObject*)handler;
    app->limit[REQUEST] = request;
    app->limit[RESPONSE] = response;
  }
  Py_XDECREF(rest);
  Py_XDECREF(embedded);
  leave();
  return app;
}

static void close_app(App* app) {
  enter();
  PyObject* done = PyObject_CallMethod(app->application, "close", NULL);
  if (done == NULL) say_error("the plugins were not closed");
  Py_XDECREF(done);
  leave();
  release(app);
}

EXPORT const void* HOOK(http_filter_config_new)(void* config, Text name, Text text) { return make_app(name, text); }
EXPORT void HOOK(http_filter_config_destroy)(const void* config) { close_app((App*)config); }

/* A route's own plugins, instead of the filter's. */
EXPORT const void* HOOK(http_filter_per_route_config_new)(Text name, Text text) { return make_app(name, text); }
EXPORT void HOOK(http_filter_per_route_config_destroy)(const void* config) { close_app((App*)config); }

EXPORT const void* HOOK(http_filter_new)(const void* config, void* envoy) {
  Filter* filter = calloc(1, sizeof(Filter));
  if (filter != NULL) {
    filter->app = retained(config);
    filter->envoy = envoy;
  }
  return filter;
}

EXPORT int HOOK(http_filter_request_headers)(void* envoy, const void* ptr, bool end) {
  Filter* filter = (Filter*)ptr;
  const void* own = CALL(get_most_specific_route_config)(envoy);
  if (own != NULL && filter->stream == NULL) {
    App* general = filter->app;
    filter->app = retained(own);
    release(general);
  }
  return on_headers((Filter*)filter, REQUEST, end);
}
EXPORT int HOOK(http_filter_request_body)(void* envoy, const void* filter, bool end) {
  return on_body((Filter*)filter, REQUEST, end);
}
EXPORT int HOOK(http_filter_request_trailers)(void* envoy, const void* filter) {
  return on_trailers((Filter*)filter, REQUEST);
}
EXPORT int HOOK(http_filter_response_headers)(void* envoy, const void* filter, bool end) {
  return on_headers((Filter*)filter, RESPONSE, end);
}
EXPORT int HOOK(http_filter_response_body)(void* envoy, const void* filter, bool end) {
  return on_body((Filter*)filter, RESPONSE, end);
}
EXPORT int HOOK(http_filter_response_trailers)(void* envoy, const void* filter) {
  return on_trailers((Filter*)filter, RESPONSE);
}

EXPORT void HOOK(http_filter_stream_complete)(void* envoy, const void* ptr) {
  Filter* filter = (Filter*)ptr;
  bool busy = filter->waiting != NULL || filter->stopped[REQUEST] || filter->stopped[RESPONSE];
  if (!busy && !(filter->app->wants & WANTS_END)) return;
  enter();
  if (filter->stream != NULL || make_stream(filter)) {
    PyObject* args[] = {(PyObject*)filter->stream};
    PyObject* result = PyObject_VectorcallMethod(name_completed, args, 1, NULL);
    read_result(filter, result, "the end of a request");
    Py_XDECREF(result);
  }
  filter->ended = true;
  leave();
}

EXPORT void HOOK(http_filter_destroy)(const void* ptr) {
  Filter* filter = (Filter*)ptr;
  Stream* stream = filter->stream;
  if (stream != NULL) {
    bool now = stream->scheduler != NULL || trashed == TRASH;
    if (now) enter();
    stream->filter = NULL;
    if (stream->scheduler != NULL) CALL(http_filter_scheduler_delete)(stream->scheduler);
    stream->scheduler = NULL;
    trash[trashed++] = (PyObject*)stream;
    if (now) leave();
  }
  free_calls(filter->asked);
  free_calls(filter->waiting);
  if (filter->reply != NULL) {
    free(filter->reply->memory);
    free(filter->reply);
  }
  if (filter->destroyed != NULL) *filter->destroyed = true;
  release(filter->app);
  free(filter);
}

EXPORT void HOOK(http_filter_scheduled)(void* envoy, const void* ptr, uint64_t event) {
  Filter* filter = (Filter*)ptr;
  Stream* stream = filter->stream;
  if (stream == NULL || filter->ended) return;
  enter();
  Py_INCREF(stream);
  PyObject* args[] = {(PyObject*)stream};
  PyObject* result = PyObject_VectorcallMethod(name_resumed, args, 1, NULL);
  if (result == NULL) { /* the handler's own failure: let the request go by */
    filter->go[REQUEST] = filter->stopped[REQUEST];
    filter->go[RESPONSE] = filter->stopped[RESPONSE];
  }
  read_result(filter, result, "going on");
  Py_XDECREF(result);
  if (stream->woken || filter->asked != NULL) prepare_waking(stream);
  Py_DECREF(stream);
  leave();
  if (!act(filter)) go_on(filter);
}

EXPORT void HOOK(http_filter_http_callout_done)(void* envoy, const void* ptr, uint64_t id, int outcome, Pair* pairs,
                                                size_t count, Text* chunks, size_t chunk_count) {
  Filter* filter = (Filter*)ptr;
  Call** place = &filter->waiting;
  while (*place != NULL && (*place)->id != id) place = &(*place)->next;
  Call* call = *place;
  if (call == NULL || filter->ended) return;
  *place = call->next;
  long long token = call->token;
  free(call->memory);
  free(call);
  unsigned int status = 0;
  for (size_t i = 0; outcome == 0 && i < count; i++)
    if (pairs[i].key_length == 7 && memcmp(pairs[i].key, ":status", 7) == 0)
      for (size_t j = 0; j < pairs[i].value_length; j++) status = status * 10 + (unsigned)(pairs[i].value[j] - '0');
  answer(filter, token, status, pairs, outcome ? 0 : count, chunks, outcome ? 0 : chunk_count,
         outcome == 0 ? "" : outcome == 1 ? "the call was cut off or timed out" : "the answer is too long");
  if (!act(filter)) go_on(filter);
}

/* Hooks that have to be there. */
EXPORT int HOOK(http_filter_local_reply)(void* e, const void* f, uint32_t code, Text details, bool reset) { return 0; }
EXPORT void HOOK(http_filter_downstream_above_write_buffer_high_watermark)(void* envoy, const void* filter) {}
EXPORT void HOOK(http_filter_downstream_below_write_buffer_low_watermark)(void* envoy, const void* filter) {}
EXPORT void HOOK(http_filter_http_stream_headers)(void* e, const void* f, uint64_t i, Pair* h, size_t n, bool end) {}
EXPORT void HOOK(http_filter_http_stream_data)(void* e, const void* f, uint64_t i, const Text* d, size_t n, bool end) {}
EXPORT void HOOK(http_filter_http_stream_trailers)(void* e, const void* f, uint64_t i, Pair* h, size_t n) {}
EXPORT void HOOK(http_filter_http_stream_complete)(void* e, const void* f, uint64_t i) {}
EXPORT void HOOK(http_filter_http_stream_reset)(void* e, const void* f, uint64_t i, int reason) {}
EXPORT void HOOK(http_filter_config_scheduled)(void* e, const void* c, uint64_t event) {}
EXPORT void HOOK(http_filter_config_http_callout_done)(void* e, const void* c, uint64_t i, int r, Pair* h, size_t n,
                                                       Text* b, size_t m) {}
EXPORT void HOOK(http_filter_config_http_stream_headers)(void* e, const void* c, uint64_t i, Pair* h, size_t n,
                                                         bool end) {}
EXPORT void HOOK(http_filter_config_http_stream_data)(void* e, const void* c, uint64_t i, const Text* d, size_t n,
                                                      bool end) {}
EXPORT void HOOK(http_filter_config_http_stream_trailers)(void* e, const void* c, uint64_t i, Pair* h, size_t n) {}
EXPORT void HOOK(http_filter_config_http_stream_complete)(void* e, const void* c, uint64_t i) {}
EXPORT void HOOK(http_filter_config_http_stream_reset)(void* e, const void* c, uint64_t i, int reason) {}
