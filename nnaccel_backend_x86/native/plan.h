// A plan: steps built once, run many times, by several threads at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "descriptor.h"
#include "memory.h"
#include "nnaccel_x86.h"

namespace nnx {

// What a step is: a kernel (function set) or a oneDNN primitive (spec set).
struct Step {
    std::string origin;
    nnx_kernel kernel = nullptr;
    std::vector<nnx_ref> refs;
    std::vector<int64_t> dims;
    int64_t tasks = 0;
    bool serial = false;
    Spec spec;
    std::vector<nnx_argument> arguments;
    int64_t repeat = 1;
};

// The primitives of a plan for one team size.
struct Variant {
    struct Primitive {
        std::shared_ptr<Descriptor> descriptor;
        bool limit = false;  // made for a larger team: run under a thread limit
    };
    int threads = 1;
    std::vector<Primitive> primitives;  // one per step; empty for kernels
    size_t onednn_scratch = 0;
};

// What one call in flight owns besides its arena; reused by later calls.
struct Context {
    const Variant *variant = nullptr;
    dnnl_stream_t stream = nullptr;
    std::vector<std::vector<dnnl_exec_arg_t>> arguments;  // per step; the last one is the scratch memory
    std::vector<std::vector<dnnl_exec_arg_t>> copies;     // per step: of its copy, the caller's form first; mostly empty
    std::vector<void *> pointers;
    Context() = default;
    Context(const Context &) = delete;
    ~Context();
};

struct Bases {
    void *const *lists[4];
    uint8_t *arena;
    void *resolve(const nnx_ref &r) const {
        uint8_t *base = r.space == NNX_ARENA ? arena : static_cast<uint8_t *>(lists[r.space][r.index]);
        return base + r.offset;
    }
};

class Plan {
public:
    Plan(int64_t arena, std::vector<void *> constants) : arena_(size_t(arena)), constants_(std::move(constants)) {}

    void add(Step step, size_t scratch);
    // Primitives for this team size, all created. Throws std::runtime_error naming the step.
    const Variant &prepare(int threads);
    size_t call_bytes(const Variant &variant) const;
    size_t size() const { return steps_.size(); }

    std::unique_ptr<Context> acquire(const Variant &variant);
    void release(std::unique_ptr<Context> context) noexcept;
    void run(Context &context, uint8_t *arena, size_t begin, size_t end, void *const *inputs, void *const *prepared,
             void *const *outputs, double *seconds) const;

private:
    std::unique_ptr<Variant> make_variant(int threads) const;
    void run_primitive(const Step &step, const Variant::Primitive &primitive, Context &context, size_t index, const Bases &bases,
                       uint8_t *scratch) const;

    size_t arena_;
    std::vector<void *> constants_;
    std::vector<Step> steps_;
    size_t tile_bytes_ = 0;  // the largest kernel's, per thread
    size_t most_refs_ = 0;
    std::unordered_map<int, std::unique_ptr<Variant>> variants_;
    std::vector<std::unique_ptr<Context>> idle_;
};

}  // namespace nnx
