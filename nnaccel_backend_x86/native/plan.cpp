#include "plan.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "threads.h"

namespace nnx {
namespace {

constexpr int64_t CONVOLUTION = 1, DATA_GRADIENT = 5;

void check(dnnl_status_t status, const Step &step, const char *what) {
    if (status == dnnl_success) return;
    if (status == dnnl_out_of_memory) throw std::bad_alloc();
    throw std::runtime_error(step.origin + ": oneDNN could not " + what + ": " + dnnl_status2str(status));
}

// Neighboring threads' tile memory must not share a cache line, nor sit at equal offsets of a page (4K aliasing).
size_t tile_stride(size_t bytes) { return bytes == 0 ? 0 : align_up(bytes, 4096) + 128; }

bool is_reference(const nnx_info &info) { return std::string(info.impl).find("ref") != std::string::npos; }

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Context::~Context() {
    for (auto *lists : {&arguments, &copies})
        for (auto &list : *lists)
            for (auto &a : list) dnnl_memory_destroy(a.memory);
    if (stream) dnnl_stream_destroy(stream);
}

void Plan::add(Step step, size_t scratch) {
    tile_bytes_ = std::max(tile_bytes_, scratch);
    most_refs_ = std::max(most_refs_, step.refs.size());
    steps_.push_back(std::move(step));
}

const Variant &Plan::prepare(int threads) {
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        auto found = variants_.find(threads);
        if (found != variants_.end()) return *found->second;
    }
    auto made = make_variant(threads);
    std::lock_guard<std::mutex> lock(state_mutex());
    return *variants_.emplace(threads, std::move(made)).first->second;  // another thread may have been first
}

std::unique_ptr<Variant> Plan::make_variant(int threads) const {
    auto variant = std::make_unique<Variant>();
    variant->threads = threads;
    variant->primitives.resize(steps_.size());
    run_parallel(int64_t(steps_.size()), omp_get_num_procs(), [&](int64_t i) {
        const Step &step = steps_[size_t(i)];
        if (step.kernel) return;
        auto &slot = variant->primitives[size_t(i)];
        Spec spec = step.spec;
        spec[1] = threads;
        slot.descriptor = descriptor(spec);
        if (spec != step.spec && (!slot.descriptor->info().ok || is_reference(slot.descriptor->info()))) {
            // Packed weights may only fit the team size they were chosen for. A convolution's threads work
            // independently, so that fewer of them are correct; other primitives keep their own team size.
            slot.descriptor = descriptor(step.spec);
            slot.limit = threads < step.spec[1] && (step.spec[0] == CONVOLUTION || step.spec[0] == DATA_GRADIENT);
        }
        const nnx_info &info = slot.descriptor->info();
        if (!info.ok) throw std::runtime_error(step.origin + ": oneDNN refused the primitive: " + info.message);
        try {
            slot.descriptor->primitive();
        } catch (const dnnl::error &e) {
            if (e.status == dnnl_out_of_memory) throw std::bad_alloc();
            throw std::runtime_error(step.origin + ": oneDNN could not create the primitive " + info.impl + ": " +
                                     dnnl_status2str(e.status) + " (" + e.what() + ")");
        }
    });
    for (const auto &p : variant->primitives)
        if (p.descriptor) variant->onednn_scratch = std::max(variant->onednn_scratch, p.descriptor->scratch_bytes());
    return variant;
}

size_t Plan::call_bytes(const Variant &variant) const {
    // oneDNN's scratch and tile memory are never needed by one step together.
    size_t tiles = tile_stride(tile_bytes_) * size_t(variant.threads);
    return align_up(arena_) + std::max(align_up(variant.onednn_scratch), tiles);
}

std::unique_ptr<Context> Plan::acquire(const Variant &variant) {
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        auto same = [&](const std::unique_ptr<Context> &c) { return c->variant == &variant; };
        auto found = std::find_if(idle_.begin(), idle_.end(), same);
        if (found != idle_.end()) {
            auto context = std::move(*found);
            idle_.erase(found);
            return context;
        }
    }
    auto context = std::make_unique<Context>();
    context->variant = &variant;
    context->pointers.resize(most_refs_);
    context->arguments.resize(steps_.size());
    context->copies.resize(steps_.size());
    dnnl_engine_t engine = cpu_engine().get();
    if (dnnl_stream_create(&context->stream, engine, dnnl_stream_default_flags) != dnnl_success) throw std::bad_alloc();
    for (size_t i = 0; i < steps_.size(); ++i) {
        const Step &step = steps_[i];
        if (step.kernel) continue;
        Descriptor &d = *variant.primitives[i].descriptor;
        auto add_to = [&](std::vector<dnnl_exec_arg_t> &list, int arg, const dnnl::memory::desc &md) {
            dnnl_memory_t memory = nullptr;
            check(dnnl_memory_create(&memory, md.get(), engine, DNNL_MEMORY_NONE), step, "describe an argument");
            list.push_back({arg, memory});
        };
        auto add = [&](int arg, const dnnl::memory::desc &md) { add_to(context->arguments[i], arg, md); };
        for (const auto &wanted : step.arguments) {
            auto known = std::find_if(d.arguments().begin(), d.arguments().end(),
                                      [&](const auto &a) { return a.first == int(wanted.arg); });
            if (known == d.arguments().end())
                throw std::runtime_error(step.origin + ": the primitive has no argument " + std::to_string(wanted.arg));
            add(known->first, known->second);
        }
        const dnnl::memory::desc bytes({int64_t(d.scratch_bytes())}, dnnl::memory::data_type::u8, dnnl::memory::format_tag::a);
        add(DNNL_ARG_SCRATCHPAD, bytes);
        if (const Copy &copy = d.copy(); copy.arg) {
            auto &list = context->copies[i];
            add_to(list, copy.before ? DNNL_ARG_FROM : DNNL_ARG_TO, copy.given);
            add_to(list, copy.before ? DNNL_ARG_TO : DNNL_ARG_FROM, copy.own);
            add_to(list, DNNL_ARG_SCRATCHPAD, bytes);
        }
    }
    return context;
}

void Plan::release(std::unique_ptr<Context> context) noexcept {
    std::lock_guard<std::mutex> lock(state_mutex());
    try {
        idle_.push_back(std::move(context));
    } catch (const std::bad_alloc &) {
        // Not kept: the next call makes its own.
    }
}

void Plan::run(Context &context, uint8_t *arena, size_t begin, size_t end, void *const *inputs, void *const *prepared,
               void *const *outputs, double *seconds) const {
    const Variant &variant = *context.variant;
    const Bases bases{{inputs, outputs, prepared, constants_.data()}, arena};
    uint8_t *scratch = arena + align_up(arena_);
    TeamSize team(variant.threads);
    for (size_t i = begin; i < end; ++i) {
        const Step &step = steps_[i];
        double started = seconds ? now() : 0;
        if (step.kernel) {
            for (size_t k = 0; k < step.refs.size(); ++k) context.pointers[k] = bases.resolve(step.refs[k]);
            run_tasks(step.kernel, context.pointers.data(), step.dims.data(), scratch, tile_stride(tile_bytes_), step.tasks,
                      step.serial ? 1 : variant.threads);
        } else {
            run_primitive(step, variant.primitives[i], context, i, bases, scratch);
        }
        if (seconds) seconds[i] = now() - started;
    }
}

void Plan::run_primitive(const Step &step, const Variant::Primitive &primitive, Context &context, size_t index,
                         const Bases &bases, uint8_t *scratch) const {
    auto &arguments = context.arguments[index], &copied = context.copies[index];
    Descriptor &descriptor = *primitive.descriptor;
    const_dnnl_primitive_t handle = descriptor.primitive().get();
    const Copy &copy = descriptor.copy();
    auto place = [&](const dnnl_exec_arg_t &argument, void *address) {
        check(dnnl_memory_set_data_handle(argument.memory, address), step, "take an argument's address");
    };
    auto run_copy = [&] {
        dnnl_status_t status = dnnl_primitive_execute(copy.primitive.get(), context.stream, int(copied.size()), copied.data());
        check(status, step, "bring an argument into another form");
    };
    place(arguments.back(), scratch);
    if (copy.arg) place(copied[1], scratch + copy.offset), place(copied[2], scratch);
    for (int64_t r = 0; r < step.repeat; ++r) {
        for (size_t k = 0; k < step.arguments.size(); ++k) {
            const nnx_argument &a = step.arguments[k];
            auto *address = static_cast<uint8_t *>(bases.resolve(a.ref)) + r * a.stride;
            const bool elsewhere = copy.arg && a.arg == copy.arg;
            if (elsewhere) place(copied[0], address);
            place(arguments[k], elsewhere ? scratch + copy.offset : address);
        }
        if (copy.arg && copy.before && r == 0) run_copy();
        dnnl_status_t status = dnnl_success;
        int threads = context.variant->threads;
        if (primitive.limit) {
#pragma omp teams num_teams(1) thread_limit(threads)
            status = dnnl_primitive_execute(handle, context.stream, int(arguments.size()), arguments.data());
        } else {
            status = dnnl_primitive_execute(handle, context.stream, int(arguments.size()), arguments.data());
        }
        check(status, step, "run the primitive");
        if (copy.arg && !copy.before) run_copy();
    }
}

}  // namespace nnx
