// oneDNN primitives made from flat descriptions, shared by all plans.
//
// A description is a list of int64:
//   kind (1 convolution, 2 matmul, 3 inner product, 4 reorder, 5 gradient of a convolution's source, 6 of its weights), threads,
//   source, weights, bias, destination          memory descriptors; a rank of 0 means there is none. Of a gradient: those of the
//                                               convolution; weights given by strides are brought into the form that oneDNN
//                                               chooses (5), or from it (6), in scratch memory, when it chooses another
//   convolutions only: n, then n strides, n dilations (1 = dense), n paddings before, n paddings after
//   p post-ops, each 1 + algorithm, alpha, beta  (eltwise; the bits of two doubles)
//               or   2 + memory descriptor       (binary add)
//               or   3                           (sum into the destination)
//   gradients have none: p = 0
// Memory descriptor: rank, dims..., mode, then by mode 0: rank strides in elements; 1: nothing (oneDNN chooses);
// 2: a dnnl_format_tag_t.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <utility>
#include <vector>

#include "nnaccel_x86.h"

namespace nnx {

using Spec = std::vector<int64_t>;

// Never destroyed: oneDNN's own statics may go first when the process ends.
const dnnl::engine &cpu_engine();

// A primitive's argument that lies elsewhere in another form: a copy before the primitive runs, or after it.
struct Copy {
    int arg = 0;  // DNNL_ARG_* of the primitive, or 0: there is no copy
    bool before = false;
    dnnl::memory::desc given, own;  // the caller's form, and the primitive's, in scratch memory at `offset`
    size_t offset = 0;
    dnnl::reorder::primitive_desc pd;
    dnnl::primitive primitive;  // created with the other one
};

class Descriptor {
public:
    explicit Descriptor(const Spec &spec);

    // Of the description; info().ok is 0 and info().message the reason when oneDNN has no implementation.
    const nnx_info &info() const { return info_; }
    // Creates the primitive on first use. Throws dnnl::error.
    const dnnl::primitive &primitive();
    // (DNNL_ARG_*, memory descriptor) of every argument but the scratch memory.
    const std::vector<std::pair<int, dnnl::memory::desc>> &arguments() const { return arguments_; }
    const Copy &copy() const { return copy_; }
    size_t scratch_bytes() const { return size_t(info_.scratch_bytes); }

private:
    void describe(const Spec &spec);
    void describe_gradient(int64_t kind, const dnnl::memory::desc &src, const dnnl::memory::desc &weights,
                           const dnnl::memory::desc &dst, const dnnl::memory::dims (&window)[4]);
    void add_copy(int arg, bool before, const dnnl::memory::desc &given, const dnnl::memory::desc &own);
    void fill_info(const dnnl::primitive_desc_base &pd, const dnnl::memory::desc &weights);

    nnx_info info_{};
    int threads_;
    std::vector<std::pair<int, dnnl::memory::desc>> arguments_;
    std::mutex mutex_;
    dnnl::primitive (*create_)(const std::shared_ptr<void> &) = nullptr;
    std::shared_ptr<void> pd_;
    dnnl::primitive primitive_;
    Copy copy_;
};

// The cached descriptor. Descriptions that oneDNN refuses are cached too.
std::shared_ptr<Descriptor> descriptor(const Spec &spec);

// The tag that describes a format exactly, or 0; its name; and the tag of a name.
int format_tag(const dnnl::memory::desc &md);
const char *tag_name(int tag);
int tag_by_name(const std::string &name);

}  // namespace nnx
