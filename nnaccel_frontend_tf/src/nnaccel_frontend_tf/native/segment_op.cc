/* The operations NnaccelSegment and NnaccelForward: one compiled segment in a graph of TensorFlow.

They give the Python callback the addresses of its inputs and take its outputs from TensorFlow's allocator, so that a network's
hundreds of variables cost no numpy array each. The callback runs on one thread (nnaccel_tf_serve), for OpenMP keeps a team of
threads for each thread that ever called it. NnaccelForward is the forward pass of training: one of its outputs stands for what
the backward pass needs, which Python keeps as long as that tensor exists; so TensorFlow must not compute it beforehand, nor twice.
Built against TensorFlow's C API only (tensorflow/c/kernels.h, ops.h). */

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace {

constexpr int kMessage = 2048;

struct Kernel {
  int64_t key = 0;   /* which segment */
  int64_t count = 0; /* inputs that are tensors of the call; variables' values follow */
};

}  // namespace

struct Call {
  TF_OpKernelContext* context;
  const Kernel* kernel;
  std::vector<TF_Tensor*> tensors;
  std::vector<void*> data;     /* of all inputs */
  std::vector<int64_t> header; /* rank and sizes of each of the first `count` inputs */
  int64_t code = 0;            /* TF_Code of the error */
  char message[kMessage];
};

namespace {

/* Fills in `code` and `message`. Arguments: the call, its key, data, how many, header, its words. */
using Callback = void (*)(Call*, int64_t, void* const*, int64_t, const int64_t*, int64_t);

Callback callback;
pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* held by the thread whose call is run */
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
pthread_cond_t posted = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
Call* job;
bool serving;

pthread_mutex_t dropping = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
std::vector<int64_t>& dropped = *new std::vector<int64_t>; /* numbers of what nobody needs any more; outlives all tensors */

/* Deallocator of a tensor made by nnaccel_tf_keep. It may run on any thread, so Python is told only when it asks. */
void drop(void* data, size_t, void*) {
  pthread_mutex_lock(&dropping);
  dropped.push_back(*static_cast<int64_t*>(data));
  pthread_mutex_unlock(&dropping);
  free(data);
}

void run(Call* call) {
  callback(call, call->kernel->key, call->data.data(), call->data.size(), call->header.data(), call->header.size());
}

}  // namespace

extern "C" {

void nnaccel_tf_set_callback(Callback function) { callback = function; }

/* Run all calls from now on, on the calling thread; never returns. */
void nnaccel_tf_serve(void) {
  pthread_mutex_lock(&lock);
  serving = true;
  for (;;) {
    while (job == nullptr) pthread_cond_wait(&posted, &lock);
    Call* call = job;
    pthread_mutex_unlock(&lock);
    run(call);
    pthread_mutex_lock(&lock);
    job = nullptr;
    pthread_cond_signal(&finished);
  }
}

/* In a forked child, where that thread is gone: until another serves, calls run on their own threads. */
void nnaccel_tf_forked(void) {
  pthread_mutex_init(&turn, nullptr);
  pthread_mutex_init(&lock, nullptr);
  pthread_cond_init(&posted, nullptr);
  pthread_cond_init(&finished, nullptr);
  pthread_mutex_init(&dropping, nullptr);
  job = nullptr;
  serving = false;
}

/* Memory of output `index`, of `bytes` bytes; nullptr where there is none. */
void* nnaccel_tf_allocate(Call* call, int index, int rank, const int64_t* dims, uint64_t bytes) {
  TF_Status* status = TF_NewStatus();
  TF_DataType type = TF_ExpectedOutputDataType(call->context, index);
  TF_Tensor* made = TF_AllocateOutput(call->context, index, type, dims, rank, bytes, status);
  void* data = TF_GetCode(status) == TF_OK ? TF_TensorData(made) : nullptr;
  if (made != nullptr) TF_DeleteTensor(made);
  TF_DeleteStatus(status);
  return data;
}

/* Input `index`, which the caller owns from now on and gives back with nnaccel_tf_release. */
void* nnaccel_tf_take(Call* call, int index) {
  TF_Tensor* taken = call->tensors[index];
  call->tensors[index] = nullptr;
  return taken;
}

void nnaccel_tf_release(void* tensor) { TF_DeleteTensor(static_cast<TF_Tensor*>(tensor)); }

/* Make output `index` a tensor that holds `number` and tells nnaccel_tf_dropped when it is gone; false where that fails. */
bool nnaccel_tf_keep(Call* call, int index, int64_t number) {
  /* Aligned as TensorFlow's tensors are: it would copy others, and drop this at once. */
  void* data = aligned_alloc(64, 64);
  if (data == nullptr) return false;
  *static_cast<int64_t*>(data) = number;
  TF_Tensor* made = TF_NewTensor(TF_INT64, nullptr, 0, data, sizeof number, &drop, nullptr);
  if (made == nullptr) return false;
  TF_Status* status = TF_NewStatus();
  TF_SetOutput(call->context, index, made, status);
  const bool ok = TF_GetCode(status) == TF_OK;
  TF_DeleteStatus(status);
  TF_DeleteTensor(made);
  return ok;
}

/* Up to `most` numbers whose tensors are gone; each is told once. Returns how many. */
int64_t nnaccel_tf_dropped(int64_t* numbers, int64_t most) {
  pthread_mutex_lock(&dropping);
  const int64_t count = std::min<int64_t>(most, dropped.size());
  std::copy_n(dropped.end() - count, count, numbers);
  dropped.resize(dropped.size() - count);
  pthread_mutex_unlock(&dropping);
  return count;
}

void nnaccel_tf_fail(Call* call, int64_t code, const char* message) {
  call->code = code;
  strncpy(call->message, message, kMessage - 1);
  call->message[kMessage - 1] = 0;
}

}  // extern "C"

namespace {

/* A status that goes with its scope. */
struct Status {
  TF_Status* status = TF_NewStatus();
  ~Status() { TF_DeleteStatus(status); }
  bool ok() const { return TF_GetCode(status) == TF_OK; }
};

void* create(TF_OpKernelConstruction* context) {
  Kernel* kernel = new Kernel;
  Status s;
  TF_OpKernelConstruction_GetAttrInt64(context, "key", &kernel->key, s.status);
  if (s.ok()) TF_OpKernelConstruction_GetAttrInt64(context, "count", &kernel->count, s.status);
  if (!s.ok()) TF_OpKernelConstruction_Failure(context, s.status);
  return kernel;
}

void destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

/* Read the inputs; false where TensorFlow refuses. */
bool read(Call& call, TF_Status* status) {
  const int inputs = TF_NumInputs(call.context);
  call.tensors.assign(inputs, nullptr);
  call.data.assign(inputs, nullptr);
  for (int k = 0; k < inputs; ++k) {
    TF_GetInput(call.context, k, &call.tensors[k], status);
    if (TF_GetCode(status) != TF_OK) return false;
    call.data[k] = TF_TensorData(call.tensors[k]);
    if (k >= call.kernel->count) continue;
    const int rank = TF_NumDims(call.tensors[k]);
    call.header.push_back(rank);
    for (int axis = 0; axis < rank; ++axis) call.header.push_back(TF_Dim(call.tensors[k], axis));
  }
  return true;
}

void compute(void* state, TF_OpKernelContext* context) {
  Call call;
  call.context = context;
  call.kernel = static_cast<const Kernel*>(state);
  Status s;
  if (read(call, s.status)) {
    pthread_mutex_lock(&turn);
    pthread_mutex_lock(&lock);
    if (serving) {
      job = &call;
      pthread_cond_signal(&posted);
      while (job != nullptr) pthread_cond_wait(&finished, &lock);
      pthread_mutex_unlock(&lock);
    } else {
      pthread_mutex_unlock(&lock);
      run(&call);
    }
    pthread_mutex_unlock(&turn);
    if (call.code != 0) TF_SetStatus(s.status, static_cast<TF_Code>(call.code), call.message);
  }
  if (!s.ok()) TF_OpKernelContext_Failure(context, s.status);
  for (TF_Tensor* t : call.tensors)
    if (t != nullptr) TF_DeleteTensor(t);
}

void infer(TF_ShapeInferenceContext* context, TF_Status* status) { TF_ShapeInferenceContextSetUnknownShape(context, status); }

void add(const char* name, bool stateful) {
  Status s;
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  TF_OpDefinitionBuilderAddInput(op, "given: Tin");
  TF_OpDefinitionBuilderAddOutput(op, "found: Tout");
  TF_OpDefinitionBuilderAddAttr(op, "key: int");
  TF_OpDefinitionBuilderAddAttr(op, "count: int");
  TF_OpDefinitionBuilderAddAttr(op, "Tin: list(type) >= 0");
  TF_OpDefinitionBuilderAddAttr(op, "Tout: list(type) >= 1");
  TF_OpDefinitionBuilderSetIsStateful(op, stateful);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, &infer);
  TF_RegisterOpDefinition(op, s.status);
  if (!s.ok()) return;
  TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", &create, &compute, &destroy);
  TF_RegisterKernelBuilder(name, kernel, s.status);
}

/* TensorFlow collects what is registered while it loads the library. */
__attribute__((constructor)) void register_operations() {
  add("NnaccelSegment", false);
  add("NnaccelForward", true);
}

}  // namespace
