// Layers for which the x86 backend does not ask oneDNN, run by oneDNN: for benchmarks/families.py. All tensors are float32, images
// with channels last. C interface: `layer_new` (kind, integers, numbers) or null, `layer_run` seconds of one call, `layer_free`.

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

using namespace dnnl;
using Dims = memory::dims;

namespace {

const engine &cpu() {
    static const engine made(engine::kind::cpu, 0);
    return made;
}

memory::desc image(const int64_t *n) {
    return {{n[0], n[1], n[2], n[3]}, memory::data_type::f32, memory::format_tag::nhwc};
}

struct Layer {
    primitive run;
    std::unordered_map<int, memory> arguments;
    stream queue{cpu()};

    void take(int argument, const memory::desc &type, void *address) { arguments.emplace(argument, memory(type, cpu(), address)); }
};

constexpr prop_kind predict = prop_kind::forward_inference;

// kinds: 0 pooling: images, channels, height, width, output height and width, window, stride, padding before and after, average or
// not; 1 batch normalization and ReLU: shape; 2 sum of two and ReLU: shape; 3 hardswish: shape; 4 concat: images, height, width,
// channels of each part. Addresses: inputs, then the output.
void fill(Layer &layer, int kind, const int64_t *n, int count, void *const *at) {
    if (kind == 0) {
        const int64_t out[] = {n[0], n[1], n[4], n[5]};
        const auto way = n[10] ? algorithm::pooling_avg_exclude_padding : algorithm::pooling_max;
        const Dims window{n[6], n[6]}, stride{n[7], n[7]}, none{0, 0}, before{n[8], n[8]}, after{n[9], n[9]};
        layer.run = pooling_forward({cpu(), predict, way, image(n), image(out), stride, window, none, before, after});
        layer.take(DNNL_ARG_SRC, image(n), at[0]);
        layer.take(DNNL_ARG_DST, image(out), at[1]);
    } else if (kind == 1) {
        using flags = normalization_flags;
        const auto how = flags::use_global_stats | flags::use_scale | flags::use_shift | flags::fuse_norm_relu;
        const memory::desc channels({n[1]}, memory::data_type::f32, memory::format_tag::a);
        layer.run = batch_normalization_forward({cpu(), predict, image(n), image(n), 1e-5f, how});
        layer.take(DNNL_ARG_SRC, image(n), at[0]);
        int i = 1;
        for (int argument : {DNNL_ARG_SCALE, DNNL_ARG_SHIFT, DNNL_ARG_MEAN, DNNL_ARG_VARIANCE}) layer.take(argument, channels, at[i++]);
        layer.take(DNNL_ARG_DST, image(n), at[i]);
    } else if (kind == 2) {
        post_ops after;
        after.append_eltwise(algorithm::eltwise_relu, 0.0f, 0.0f);
        primitive_attr attributes;
        attributes.set_post_ops(after);
        layer.run = binary({cpu(), algorithm::binary_add, image(n), image(n), image(n), attributes});
        layer.take(DNNL_ARG_SRC_0, image(n), at[0]);
        layer.take(DNNL_ARG_SRC_1, image(n), at[1]);
        layer.take(DNNL_ARG_DST, image(n), at[2]);
    } else if (kind == 3) {
        layer.run = eltwise_forward({cpu(), predict, algorithm::eltwise_hardswish, image(n), image(n), 1.0f / 6, 0.5f});
        layer.take(DNNL_ARG_SRC, image(n), at[0]);
        layer.take(DNNL_ARG_DST, image(n), at[1]);
    } else {
        std::vector<memory::desc> parts;
        int64_t shape[] = {n[0], 0, n[1], n[2]};
        for (int i = 3; i < count; ++i) {
            const int64_t part[] = {n[0], n[i], n[1], n[2]};
            shape[1] += n[i];
            parts.push_back(image(part));
            layer.take(DNNL_ARG_MULTIPLE_SRC + i - 3, parts.back(), at[i - 3]);
        }
        layer.run = concat({cpu(), image(shape), 1, parts});
        layer.take(DNNL_ARG_DST, image(shape), at[count - 3]);
    }
}

}  // namespace

extern "C" void *layer_new(int kind, const int64_t *n, int count, void *const *at, int threads) {
    omp_set_num_threads(threads);
    auto *layer = new Layer;
    try {
        fill(*layer, kind, n, count, at);
        return layer;
    } catch (const error &) {
        delete layer;
        return nullptr;
    }
}

extern "C" double layer_run(void *which, int threads) {
    auto &layer = *static_cast<Layer *>(which);
    omp_set_num_threads(threads);
    const double started = omp_get_wtime();
    layer.run.execute(layer.queue, layer.arguments);
    return omp_get_wtime() - started;
}

extern "C" void layer_free(void *layer) { delete static_cast<Layer *>(layer); }
