// C ABI of the x86 runtime. No function throws; those that return int give 0, or an NNX_ error whose text nnx_last_error has.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define NNX_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum { NNX_OK = 0, NNX_ERROR = 1, NNX_OUT_OF_MEMORY = 2 };

// Raised when a signature below changes, the encoding of a description (descriptor.h), or the buffers, dims or scratch of a kernel
// that comes with the library: whoever calls with the old meaning would corrupt memory. The loader refuses another number.
#define NNX_ABI 4

// Runs tasks begin..end-1 of a generated kernel; scratch is this thread's tile memory, 64-byte aligned.
typedef void (*nnx_kernel)(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

// Where a buffer lives; the same order as nnaccel_core.plan.SPACES.
enum { NNX_INPUT, NNX_OUTPUT, NNX_PREPARED, NNX_CONSTANT, NNX_ARENA, NNX_SPACES };

typedef struct {
    int64_t space, index, offset;  // offset in bytes
} nnx_ref;

typedef struct {
    int64_t arg;     // DNNL_ARG_*
    int64_t stride;  // bytes between two repetitions
    nnx_ref ref;
} nnx_argument;

// What oneDNN says about a primitive description (see descriptor.cpp for the encoding of a description).
typedef struct {
    int32_t ok;
    int32_t weights_tag;  // dnnl_format_tag_t, or 0 when there are no weights or no tag describes them
    int64_t weights_bytes;
    int64_t scratch_bytes;
    char impl[64];
    char tag_name[64];
    char message[256];
} nnx_info;

// Floating-point numbers of a list of arrays: the array, how many, bytes of each, bits of its exponent.
typedef struct {
    int64_t index, count, bytes;
    uint64_t exponent;
} nnx_floats;

typedef struct nnx_plan nnx_plan;
typedef struct nnx_call nnx_call;

NNX_API int nnx_abi(void);
NNX_API const char *nnx_last_error(void);
NNX_API void nnx_onednn_version(int32_t version[3]);

// Describes n primitives, in parallel on `threads` threads; a failure is in its info. Cached by description.
NNX_API int nnx_describe(int64_t n, const int64_t *const *specs, const int64_t *lengths, int32_t threads, nnx_info *infos);
// The tag of a format called `name` (as in nnx_info.tag_name), or 0.
NNX_API int32_t nnx_tag(const char *name);

// The kernel of this name that comes with the library, or null.
NNX_API nnx_kernel nnx_builtin(const char *name);

NNX_API nnx_plan *nnx_plan_new(int64_t arena_bytes, int64_t constants, void *const *addresses);
NNX_API void nnx_plan_free(nnx_plan *plan);
NNX_API int nnx_plan_add_kernel(nnx_plan *plan, nnx_kernel kernel, int64_t buffers, const nnx_ref *refs, int64_t dims,
                                const int64_t *values, int64_t tasks, int64_t scratch_bytes, int32_t serial, const char *origin);
NNX_API int nnx_plan_add_primitive(nnx_plan *plan, const int64_t *spec, int64_t length, int64_t arguments,
                                   const nnx_argument *values, int64_t repeat, const char *origin);
// Creates all primitives for runs on `threads` threads (a run does it too), in parallel.
NNX_API int nnx_plan_prepare(nnx_plan *plan, int32_t threads);
// Bytes of memory one call allocates: arena, oneDNN's scratch, tile memory of all threads.
NNX_API int64_t nnx_plan_call_bytes(nnx_plan *plan, int32_t threads);

// Runs the whole plan. `seconds`, when given, gets the time of each step. Thread-safe.
NNX_API int nnx_plan_run(nnx_plan *plan, void *const *inputs, void *const *prepared, void *const *outputs, int32_t threads,
                         double *seconds);

// 1 when the numbers of all `n` entries are finite, 0 when one is not, -1 for an error.
NNX_API int nnx_all_finite(int64_t n, void *const *addresses, const nnx_floats *arrays, int32_t threads);

// A call in pieces, for plans with host steps in between.
NNX_API int nnx_call_begin(nnx_plan *plan, int32_t threads, nnx_call **call);
NNX_API void *nnx_call_arena(nnx_call *call);
NNX_API int nnx_call_steps(nnx_call *call, int64_t begin, int64_t end, void *const *inputs, void *const *prepared,
                           void *const *outputs, double *seconds);
NNX_API void nnx_call_end(nnx_call *call);

// Memory of prepared parameters: 64-byte aligned, huge pages advised; null when there is none.
NNX_API void *nnx_memory_new(int64_t bytes);
NNX_API void nnx_memory_free(void *address, int64_t bytes);
// The same for packed parameters, which change often: what was given back is used again, with whatever it holds. And bytes kept so.
NNX_API void *nnx_memory_take(int64_t bytes);
NNX_API void nnx_memory_give(void *address, int64_t bytes);
NNX_API int64_t nnx_memory_spare_bytes(void);
// Bytes kept by idle arenas; and give them back to the system.
NNX_API int64_t nnx_arena_idle_bytes(void);
NNX_API void nnx_arena_trim(void);

#ifdef __cplusplus
}
#endif
