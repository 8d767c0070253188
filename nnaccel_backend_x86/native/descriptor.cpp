#include "descriptor.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <oneapi/dnnl/dnnl_debug.h>
#include <stdexcept>
#include <unordered_map>

#include "memory.h"
#include "threads.h"

namespace nnx {
namespace {

using dnnl::memory;
using Desc = dnnl::memory::desc;

enum { CONVOLUTION = 1, MATMUL = 2, INNER_PRODUCT = 3, REORDER = 4, DATA_GRADIENT = 5, WEIGHTS_GRADIENT = 6 };

class Reader {
public:
    explicit Reader(const Spec &spec) : spec_(spec) {}

    int64_t next() {
        if (at_ >= spec_.size()) throw std::invalid_argument("description ends too early");
        return spec_[at_++];
    }
    memory::dims list(int64_t n) {
        if (n < 0 || n > DNNL_MAX_NDIMS) throw std::invalid_argument("description has a rank of " + std::to_string(n));
        memory::dims out;
        for (int64_t i = 0; i < n; ++i) out.push_back(next());
        return out;
    }
    float real() {
        int64_t bits = next();
        double value;
        std::memcpy(&value, &bits, sizeof value);
        return float(value);
    }
    Desc desc() {
        int64_t rank = next();
        if (rank == 0) return Desc();
        memory::dims dims = list(rank);
        switch (next()) {
            case 0: return Desc(dims, memory::data_type::f32, list(rank));
            case 1: return Desc(dims, memory::data_type::f32, memory::format_tag::any);
            case 2: return Desc(dims, memory::data_type::f32, memory::format_tag(next()));
            default: throw std::invalid_argument("unknown mode of a memory descriptor");
        }
    }

private:
    const Spec &spec_;
    size_t at_ = 0;
};

struct Hash {
    size_t operator()(const Spec &spec) const {
        uint64_t h = 1469598103934665603ull;
        for (int64_t v : spec) h = (h ^ uint64_t(v)) * 1099511628211ull, h ^= h >> 29;
        return h;
    }
};

template <typename Primitive, typename PD>
dnnl::primitive create_from(const std::shared_ptr<void> &pd) {
    return Primitive(*static_cast<PD *>(pd.get()));
}

void copy_text(char *to, size_t room, const std::string &text) { std::snprintf(to, room, "%s", text.c_str()); }

}  // namespace

const dnnl::engine &cpu_engine() {
    static auto *engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
    return *engine;
}

Descriptor::Descriptor(const Spec &spec) : threads_(int(spec.size() > 1 ? spec[1] : 1)) {
    TeamSize team(threads_);  // oneDNN plans for the team size it finds
    try {
        describe(spec);
        info_.ok = 1;
    } catch (const dnnl::error &e) {
        copy_text(info_.message, sizeof info_.message, std::string(dnnl_status2str(e.status)) + ": " + e.what());
    } catch (const std::invalid_argument &e) {
        copy_text(info_.message, sizeof info_.message, e.what());
    }
}

void Descriptor::describe(const Spec &spec) {
    Reader in(spec);
    int64_t kind = in.next();
    in.next();  // threads
    Desc src = in.desc(), weights = in.desc(), bias = in.desc(), dst = in.desc();
    const auto &engine = cpu_engine();
    if (kind == REORDER) {
        dnnl::primitive_attr attr;
        attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        auto pd = std::make_shared<dnnl::reorder::primitive_desc>(engine, src, engine, dst, attr);
        fill_info(*pd, Desc());
        arguments_ = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
        create_ = create_from<dnnl::reorder, dnnl::reorder::primitive_desc>;
        pd_ = pd;
        return;
    }
    memory::dims strides, dilation, low, high;
    if (kind == CONVOLUTION || kind == DATA_GRADIENT || kind == WEIGHTS_GRADIENT) {
        int64_t n = in.next();
        strides = in.list(n), dilation = in.list(n), low = in.list(n), high = in.list(n);
        for (auto &d : dilation) d -= 1;
    }
    dnnl::post_ops post;
    std::vector<std::pair<int, Desc>> others;
    int64_t count = in.next();
    if (kind == DATA_GRADIENT || kind == WEIGHTS_GRADIENT) {
        if (count != 0) throw std::invalid_argument("a gradient takes no post-ops");
        describe_gradient(kind, src, weights, dst, {strides, dilation, low, high});
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        switch (in.next()) {
            case 1: {
                auto algorithm = dnnl::algorithm(in.next());
                float alpha = in.real(), beta = in.real();
                post.append_eltwise(algorithm, alpha, beta);
                break;
            }
            case 2: {
                Desc md = in.desc();
                post.append_binary(dnnl::algorithm::binary_add, md);
                others.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(int(i)) | DNNL_ARG_SRC_1, md});
                break;
            }
            case 3: post.append_sum(1.0f); break;
            default: throw std::invalid_argument("unknown post-op");
        }
    }
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attr.set_post_ops(post);
    if (kind == CONVOLUTION) {
        using PD = dnnl::convolution_forward::primitive_desc;
        auto pd = std::make_shared<PD>(engine, dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, src,
                                       weights, bias, dst, strides, dilation, low, high, attr);
        weights = pd->weights_desc();
        fill_info(*pd, weights);
        create_ = create_from<dnnl::convolution_forward, PD>;
        pd_ = pd;
    } else if (kind == INNER_PRODUCT) {
        using PD = dnnl::inner_product_forward::primitive_desc;
        auto pd = std::make_shared<PD>(engine, dnnl::prop_kind::forward_inference, src, weights, bias, dst, attr);
        weights = pd->weights_desc();
        fill_info(*pd, weights);
        create_ = create_from<dnnl::inner_product_forward, PD>;
        pd_ = pd;
    } else if (kind == MATMUL) {
        using PD = dnnl::matmul::primitive_desc;
        auto pd = std::make_shared<PD>(engine, src, weights, bias, dst, attr);
        weights = pd->weights_desc();
        fill_info(*pd, weights);
        create_ = create_from<dnnl::matmul, PD>;
        pd_ = pd;
    } else {
        throw std::invalid_argument("unknown kind of primitive");
    }
    arguments_ = {{DNNL_ARG_SRC, src}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, dst}};
    if (!bias.is_zero()) arguments_.push_back({DNNL_ARG_BIAS, bias});
    arguments_.insert(arguments_.end(), others.begin(), others.end());
}

void Descriptor::describe_gradient(int64_t kind, const Desc &src, const Desc &weights, const Desc &dst,
                                   const memory::dims (&window)[4]) {
    const auto &engine = cpu_engine();
    const auto &[strides, dilation, low, high] = window;
    constexpr auto direct = dnnl::algorithm::convolution_direct;
    const auto kind_of_format = weights.get_format_kind();
    const bool plain = kind_of_format == memory::format_kind::blocked && weights.get_inner_nblks() == 0;
    const Desc any(weights.get_dims(), memory::data_type::f32, memory::format_tag::any);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::convolution_forward::primitive_desc forward(engine, dnnl::prop_kind::forward_training, direct, src, any, dst, strides,
                                                      dilation, low, high);
    if (kind == DATA_GRADIENT) {
        using PD = dnnl::convolution_backward_data::primitive_desc;
        const Desc &wanted = plain ? any : weights;
        auto pd = std::make_shared<PD>(engine, direct, src, wanted, dst, strides, dilation, low, high, forward, attr);
        fill_info(*pd, pd->weights_desc());
        if (plain) add_copy(DNNL_ARG_WEIGHTS, true, weights, pd->weights_desc());
        arguments_ = {{DNNL_ARG_DIFF_SRC, src}, {DNNL_ARG_WEIGHTS, pd->weights_desc()}, {DNNL_ARG_DIFF_DST, dst}};
        create_ = create_from<dnnl::convolution_backward_data, PD>;
        pd_ = pd;
    } else {
        using PD = dnnl::convolution_backward_weights::primitive_desc;
        auto pd = std::make_shared<PD>(engine, direct, src, any, dst, strides, dilation, low, high, forward, attr);
        fill_info(*pd, pd->diff_weights_desc());
        add_copy(DNNL_ARG_DIFF_WEIGHTS, false, weights, pd->diff_weights_desc());
        arguments_ = {{DNNL_ARG_SRC, src}, {DNNL_ARG_DIFF_WEIGHTS, pd->diff_weights_desc()}, {DNNL_ARG_DIFF_DST, dst}};
        create_ = create_from<dnnl::convolution_backward_weights, PD>;
        pd_ = pd;
    }
}

void Descriptor::add_copy(int arg, bool before, const Desc &given, const Desc &own) {
    if (given == own) return;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    copy_.arg = arg;
    copy_.before = before;
    copy_.given = given;
    copy_.own = own;
    copy_.pd = dnnl::reorder::primitive_desc(cpu_engine(), before ? given : own, cpu_engine(), before ? own : given, attr);
    // Scratch: the primitive's or the copy's, which do not run at the same time; then the argument in its own form.
    const auto bytes = std::max(size_t(info_.scratch_bytes), copy_.pd.scratchpad_desc().get_size());
    copy_.offset = align_up(bytes);
    info_.scratch_bytes = int64_t(copy_.offset + own.get_size());
}

void Descriptor::fill_info(const dnnl::primitive_desc_base &pd, const Desc &weights) {
    copy_text(info_.impl, sizeof info_.impl, pd.impl_info_str());
    info_.scratch_bytes = int64_t(pd.scratchpad_desc().get_size());
    if (weights.is_zero()) return;
    info_.weights_bytes = int64_t(weights.get_size());
    info_.weights_tag = format_tag(weights);
    copy_text(info_.tag_name, sizeof info_.tag_name, info_.weights_tag ? tag_name(info_.weights_tag) : "");
}

const dnnl::primitive &Descriptor::primitive() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!primitive_) {
        if (!create_) throw std::invalid_argument(info_.message);
        TeamSize team(threads_);
        if (copy_.arg) copy_.primitive = dnnl::reorder(copy_.pd);
        primitive_ = create_(pd_);
    }
    return primitive_;
}

std::shared_ptr<Descriptor> descriptor(const Spec &spec) {
    static auto *cache = new std::unordered_map<Spec, std::shared_ptr<Descriptor>, Hash>;
    {
        std::lock_guard<std::mutex> lock(state_mutex());
        auto found = cache->find(spec);
        if (found != cache->end()) return found->second;
    }
    auto made = std::make_shared<Descriptor>(spec);
    std::lock_guard<std::mutex> lock(state_mutex());
    if (cache->size() >= 8192) cache->clear();  // plans keep what they use; the rest is described anew when asked for
    return cache->emplace(spec, made).first->second;
}

const char *tag_name(int tag) { return dnnl_fmt_tag2str(dnnl_format_tag_t(tag)); }

int format_tag(const Desc &md) {
    // A tag's letters name the axes, so one of another rank needs no descriptor to be ruled out.
    static const auto *by_rank = [] {
        auto *table = new std::vector<std::vector<int>>(DNNL_MAX_NDIMS + 1);
        for (int tag = dnnl_format_tag_any + 1; tag < dnnl_format_tag_last; ++tag) {
            int rank = 0;
            for (const char *c = tag_name(tag); *c; ++c)
                if (std::isalpha(static_cast<unsigned char>(*c))) rank = std::max(rank, std::tolower(*c) - 'a' + 1);
            if (rank <= DNNL_MAX_NDIMS) (*table)[size_t(rank)].push_back(tag);
        }
        return table;
    }();
    auto dims = md.get_dims(), strides = md.get_strides();
    auto blocks = md.get_inner_blks(), axes = md.get_inner_idxs();
    for (int tag : (*by_rank)[dims.size()]) {
        // Equal up to the strides of axes of extent 1 is not enough: oneDNN compares those too when it accepts weights.
        Desc other(dims, md.get_data_type(), memory::format_tag(tag), true);
        if (other && other == md && other.get_strides() == strides && other.get_inner_blks() == blocks &&
            other.get_inner_idxs() == axes)
            return tag;
    }
    return 0;
}

int tag_by_name(const std::string &name) {
    static const auto *tags = [] {
        auto *map = new std::unordered_map<std::string, int>;
        for (int tag = dnnl_format_tag_any + 1; tag < dnnl_format_tag_last; ++tag) map->emplace(tag_name(tag), tag);
        return map;
    }();
    auto found = tags->find(name);
    return found == tags->end() ? 0 : found->second;
}

}  // namespace nnx
