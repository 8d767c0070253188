// The C ABI: turns exceptions into codes and texts.
#include "nnaccel_x86.h"

#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "builtin.h"
#include "descriptor.h"
#include "finite.h"
#include "memory.h"
#include "plan.h"
#include "threads.h"

struct nnx_plan : nnx::Plan {
    using nnx::Plan::Plan;
};

struct nnx_call {
    nnx_plan *plan = nullptr;
    std::unique_ptr<nnx::Context> context;
    nnx::Block arena;
    ~nnx_call() {
        nnx::release_arena(arena);
        if (context) plan->release(std::move(context));
    }
};

namespace {

thread_local std::string last_error;

int guarded(const std::function<void()> &work) {
    try {
        work();
        return NNX_OK;
    } catch (const nnx::OutOfMemory &e) {
        last_error = e.what();
        return NNX_OUT_OF_MEMORY;
    } catch (const std::bad_alloc &) {
        last_error = "";
        return NNX_OUT_OF_MEMORY;
    } catch (const std::exception &e) {
        last_error = e.what();
        return NNX_ERROR;
    }
}

void begin(nnx_call &call, nnx_plan *plan, int32_t threads) {
    const nnx::Variant &variant = plan->prepare(threads);
    call.plan = plan;
    call.context = plan->acquire(variant);
    call.arena = nnx::acquire_arena(plan->call_bytes(variant));
}

}  // namespace

int nnx_abi(void) { return NNX_ABI; }

const char *nnx_last_error(void) { return last_error.c_str(); }

void nnx_onednn_version(int32_t version[3]) {
    const dnnl_version_t *v = dnnl_version();
    version[0] = v->major, version[1] = v->minor, version[2] = v->patch;
}

int nnx_describe(int64_t n, const int64_t *const *specs, const int64_t *lengths, int32_t threads, nnx_info *infos) {
    return guarded([&] {
        nnx::run_parallel(n, threads, [&](int64_t i) {
            infos[i] = nnx::descriptor(nnx::Spec(specs[i], specs[i] + lengths[i]))->info();
        });
    });
}

nnx_kernel nnx_builtin(const char *name) { return nnx::builtin(name); }

int32_t nnx_tag(const char *name) { return nnx::tag_by_name(name); }

nnx_plan *nnx_plan_new(int64_t arena_bytes, int64_t constants, void *const *addresses) {
    nnx_plan *plan = nullptr;
    guarded([&] { plan = new nnx_plan(arena_bytes, std::vector<void *>(addresses, addresses + constants)); });
    return plan;
}

void nnx_plan_free(nnx_plan *plan) { delete plan; }

int nnx_plan_add_kernel(nnx_plan *plan, nnx_kernel kernel, int64_t buffers, const nnx_ref *refs, int64_t dims,
                        const int64_t *values, int64_t tasks, int64_t scratch_bytes, int32_t serial, const char *origin) {
    return guarded([&] {
        nnx::Step step;
        step.origin = origin;
        step.kernel = kernel;
        step.refs.assign(refs, refs + buffers);
        step.dims.assign(values, values + dims);
        step.tasks = tasks;
        step.serial = serial != 0;
        plan->add(std::move(step), size_t(scratch_bytes));
    });
}

int nnx_plan_add_primitive(nnx_plan *plan, const int64_t *spec, int64_t length, int64_t arguments, const nnx_argument *values,
                           int64_t repeat, const char *origin) {
    return guarded([&] {
        nnx::Step step;
        step.origin = origin;
        step.spec.assign(spec, spec + length);
        step.arguments.assign(values, values + arguments);
        step.repeat = repeat;
        plan->add(std::move(step), 0);
    });
}

int nnx_plan_prepare(nnx_plan *plan, int32_t threads) {
    return guarded([&] { plan->prepare(threads); });
}

int64_t nnx_plan_call_bytes(nnx_plan *plan, int32_t threads) {
    int64_t bytes = -1;
    guarded([&] { bytes = int64_t(plan->call_bytes(plan->prepare(threads))); });
    return bytes;
}

int nnx_plan_run(nnx_plan *plan, void *const *inputs, void *const *prepared, void *const *outputs, int32_t threads,
                 double *seconds) {
    return guarded([&] {
        nnx_call call;
        begin(call, plan, threads);
        nnx::run_here_or_on_helper(
            [&] { plan->run(*call.context, call.arena.address, 0, plan->size(), inputs, prepared, outputs, seconds); });
    });
}

int nnx_all_finite(int64_t n, void *const *addresses, const nnx_floats *arrays, int32_t threads) {
    int finite = -1;
    guarded([&] { finite = nnx::all_finite(n, addresses, arrays, threads); });
    return finite;
}

int nnx_call_begin(nnx_plan *plan, int32_t threads, nnx_call **call) {
    return guarded([&] {
        auto made = std::make_unique<nnx_call>();
        begin(*made, plan, threads);
        *call = made.release();
    });
}

void *nnx_call_arena(nnx_call *call) { return call->arena.address; }

int nnx_call_steps(nnx_call *call, int64_t begin, int64_t end, void *const *inputs, void *const *prepared,
                   void *const *outputs, double *seconds) {
    return guarded([&] {
        nnx::run_here_or_on_helper([&] {
            call->plan->run(*call->context, call->arena.address, size_t(begin), size_t(end), inputs, prepared, outputs, seconds);
        });
    });
}

void nnx_call_end(nnx_call *call) { delete call; }

void *nnx_memory_new(int64_t bytes) {
    nnx::Block block;
    guarded([&] { block = nnx::map_block(size_t(bytes)); });
    return block.address;
}

void nnx_memory_free(void *address, int64_t bytes) {
    nnx::unmap_block({static_cast<uint8_t *>(address), nnx::block_size(size_t(bytes))});
}

void *nnx_memory_take(int64_t bytes) {
    nnx::Block block;
    guarded([&] { block = nnx::take_block(size_t(bytes)); });
    return block.address;
}

void nnx_memory_give(void *address, int64_t bytes) {
    nnx::give_block({static_cast<uint8_t *>(address), nnx::block_size(size_t(bytes))});
}

int64_t nnx_memory_spare_bytes(void) { return int64_t(nnx::spare_bytes()); }

int64_t nnx_arena_idle_bytes(void) { return int64_t(nnx::idle_arena_bytes()); }

void nnx_arena_trim(void) { nnx::trim_arenas(); }
