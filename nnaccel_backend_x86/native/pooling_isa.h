// Included once per instruction set by pooling.cpp, inside a namespace of its own, after vectors.h.

using Floats = float __attribute__((vector_size(4 * WIDTH)));
using Bits = int32_t __attribute__((vector_size(4 * WIDTH)));

TARGET inline __attribute__((always_inline)) Floats load(const float *from) {
    Floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

// One window of all channels: `g` goes to the first element that equals the maximum.
TARGET void window(const Tap *taps, int64_t count, int64_t channels, const float *top, const float *g) {
    int64_t c = 0;
    for (; c + WIDTH <= channels; c += WIDTH) {
        const Floats most = load(top + c), given = load(g + c);
        if (__builtin_expect(ANY_NAN(LOAD(top + c)), false)) {
            elements(taps, count, c, c + WIDTH, top, g);
            continue;
        }
        Bits open = most == most;
        for (const Tap *t = taps; t < taps + count; ++t) {
            const Bits here = (load(t->x + c) == most) & open;
            open &= ~here;
            if (t->dx == nullptr) continue;
            const Floats sum = load(t->dx + c) + (Floats)((Bits)given & here);
            std::memcpy(t->dx + c, &sum, sizeof sum);
        }
    }
    elements(taps, count, c, channels, top, g);
}
