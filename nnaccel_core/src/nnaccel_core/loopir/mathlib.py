"""Scalar helper functions of generated kernels, as templates that every C-like dialect instantiates.

In a template ``F``, ``I`` and ``D`` stand for the dialect's float, int32 and double types (ISPC instantiates each
helper twice, uniform and varying) and ``NN_BITS``, ``NN_FLOAT``, ``NN_ROUND``, ``NN_SQRT``, ``NN_FLOOR``, ``NN_INF``
and ``NN_NAN`` for its primitives. In ``any dtype`` templates ``T`` is the type and ``_S`` the dtype.

Methods. Argument reduction by a two-part constant: Cody and Waite, *Software Manual for the Elementary Functions*,
1980; the split of pi/2 is that of fdlibm
(beyond 1e8 the platform's own sine and cosine serve). Polynomials are our own least-maximum fits (Lawson's reweighting of
Chebyshev-node least squares, in float64, then rounded to float32). erf follows the split of W. J. Cody, *Rational
Chebyshev approximations for the error function*, Math. Comp. 23 (1969): an odd polynomial below 1, and above it
``1 - exp(log erfc)`` with a polynomial for ``log erfc``. ``tests/loopir/test_math.py`` holds each to its error bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Helper:
    """One helper function: its text and the helpers it calls."""

    text: str
    needs: tuple[str, ...] = ()


_EXP_P = "((((0.00139506f * r + 0.008368954f) * r + 0.041666206f) * r + 0.16666518f) * r + 0.5f)"

#: float32 functions, by helper name.
FLOAT_HELPERS: Mapping[str, Helper] = {
    "nn_exp_f32": Helper(f"""
static inline F nn_exp_f32(F x) {{
    F t = x < -104.0f ? -104.0f : x;
    t = t > 89.0f ? 89.0f : t;
    F n = NN_ROUND(t * 1.44269504f);
    F r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = (r + r * r * {_EXP_P}) + 1.0f;
    I i = (I)n;
    I h = i >> 1;
    F y = (p * NN_FLOAT((h + 127) << 23)) * NN_FLOAT((i - h + 127) << 23);
    return x != x ? x : y;
}}"""),
    "nn_expm1_f32": Helper(f"""
static inline F nn_expm1_f32(F x) {{
    F t = x < -40.0f ? -40.0f : x;
    t = t > 89.0f ? 89.0f : t;
    F n = NN_ROUND(t * 1.44269504f);
    F r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = r + r * r * {_EXP_P};
    F s = NN_FLOAT(((I)n + 126) << 23);
    F y = 2.0f * (s * p + (s - 0.5f));
    y = x > 88.8f ? NN_INF : y;
    return x != x ? x : y;
}}"""),
    "nn_log_f32": Helper("""
static inline F nn_log_f32(F x) {
    F y = x < 1.17549435e-38f ? x * 8388608.0f : x;
    F k = x < 1.17549435e-38f ? -23.0f : 0.0f;
    I b = NN_BITS(y);
    I e = (b - 0x3f3504f3) >> 23;
    F f = NN_FLOAT(b - (e << 23)) - 1.0f;
    F n = (F)e + k;
    F z = f * f;
    F q = ((((((((0.06747692f * f - 0.11677505f) * f + 0.11888709f) * f - 0.124053426f) * f + 0.14219451f) * f
        - 0.16668005f) * f + 0.20002124f) * f - 0.2500001f) * f + 0.33333313f);
    F r = f * z * q - n * 2.12194440e-4f;
    r = (r - 0.5f * z) + f;
    r = r + n * 0.693359375f;
    r = x > 3.40282347e+38f ? x : r;
    r = x == 0.0f ? -NN_INF : r;
    r = x < 0.0f ? NN_NAN : r;
    return x != x ? x : r;
}"""),
    "nn_log1p_f32": Helper(
        """
static inline F nn_log1p_f32(F x) {
    F u = 1.0f + x;
    F r = nn_log_f32(u);
    F d = u > 0.0f ? u : 1.0f;
    F c = (x - (u - 1.0f)) / d;
    c = u > 3.40282347e+38f ? 0.0f : c;
    c = u > 0.0f ? c : 0.0f;
    return r + c;
}""",
        ("nn_log_f32",),
    ),
    "nn_tanh_f32": Helper(
        """
static inline F nn_tanh_f32(F x) {
    F a = x < 0.0f ? -x : x;
    a = a > 10.0f ? 10.0f : a;
    F t = nn_expm1_f32(2.0f * a);
    F r = t / (t + 2.0f);
    return x < 0.0f ? -r : r;
}""",
        ("nn_expm1_f32",),
    ),
    "nn_erf_f32": Helper(
        """
static inline F nn_erf_f32(F x) {
    F a = x < 0.0f ? -x : x;
    a = a > 4.0f ? 4.0f : a;
    F z = a * a;
    F s = a + a * ((((((7.889119e-05f * z - 0.0008020841f) * z + 0.005189535f) * z - 0.026854444f) * z + 0.112836f) * z
        - 0.37612626f) * z + 0.12837917f);
    F p = ((((((2.1697639e-05f * a - 0.00044147292f) * a + 0.004205286f) * a - 0.025210341f) * a + 0.1084221f) * a
        + 0.6332164f) * a + 1.1295803f) * a - 0.00018846779f;
    F r = a < 1.0f ? s : 1.0f - nn_exp_f32(-p);
    r = x < 0.0f ? -r : r;
    return x != x ? x : r;
}""",
        ("nn_exp_f32",),
    ),
    "nn_sincos_f32": Helper("""
static inline F nn_sincos_f32(F x, I quarter) {
    D d = (D)x;
    D n = NN_FLOOR_F64(d * NN_F64(0.63661977236758134308) + NN_F64(0.5));
    F r = (F)((d - n * NN_F64(1.57079632673412561417)) - n * NN_F64(6.07710050650619224932e-11));
    I q = (I)(n - NN_F64(4.0) * NN_FLOOR_F64(n * NN_F64(0.25))) + quarter;
    F z = r * r;
    F s = r + r * z * ((-0.00019514083f * z + 0.008332155f) * z - 0.16666655f);
    F c = (1.0f - 0.5f * z) + z * z * ((2.4434845e-05f * z - 0.0013887337f) * z + 0.041666646f);
    F v = (q & 1) != 0 ? c : s;
    v = (q & 2) != 0 ? -v : v;
    if (x > 1.0e8f || x < -1.0e8f) {
        v = (F)(quarter == 0 ? sin(d) : cos(d));
    }
    return v;
}"""),
    "nn_sin_f32": Helper("\nstatic inline F nn_sin_f32(F x) { return nn_sincos_f32(x, 0); }", ("nn_sincos_f32",)),
    "nn_cos_f32": Helper("\nstatic inline F nn_cos_f32(F x) { return nn_sincos_f32(x, 1); }", ("nn_sincos_f32",)),
    "nn_from_bf16": Helper("\nstatic inline F nn_from_bf16(H x) { return NN_FLOAT((I)x << 16); }"),
    "nn_to_bf16": Helper("""
static inline H nn_to_bf16(F x) {
    I b = NN_BITS(x);
    I r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    r = x != x ? (b >> 16) | 0x40 : r;
    return (H)r;
}"""),
}

#: Functions of any arithmetic dtype: ``nn_max_T`` and ``nn_min_T`` hand on a NaN of either operand; in the ``_k``
#: forms ``k`` is known not to be NaN, which makes them one instruction. Integer division rounds down.
TYPED_HELPERS: Mapping[str, Helper] = {
    "nn_max": Helper("\nstatic inline T nn_max_S(T a, T b) { T t = a > b ? a : b; return a != a ? a : t; }"),
    "nn_min": Helper("\nstatic inline T nn_min_S(T a, T b) { T t = a < b ? a : b; return a != a ? a : t; }"),
    "nn_max_k": Helper("\nstatic inline T nn_max_k_S(T k, T x) { return k > x ? k : x; }"),
    "nn_min_k": Helper("\nstatic inline T nn_min_k_S(T k, T x) { return k < x ? k : x; }"),
    "nn_square": Helper("\nstatic inline T nn_square_S(T x) { return x * x; }"),
    "nn_abs": Helper("\nstatic inline T nn_abs_S(T x) { return x < 0 ? (T)-x : x; }"),
    "nn_floordiv": Helper("""
static inline T nn_floordiv_S(T a, T b) {
    T q = a / b;
    T r = a - q * b;
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}"""),
    "nn_floormod": Helper("""
static inline T nn_floormod_S(T a, T b) {
    T r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}"""),
    "nn_fmod": Helper("""
static inline T nn_fmod_S(T a, T b) {
    D q = NN_FLOOR_F64((D)a / (D)b);
    T r = (T)((D)a - q * (D)b);
    r = r == 0 ? b * 0 : r;
    r = b - b != 0 ? (a != 0 && (a < 0) != (b < 0) ? b : a) : r;
    return a - a != 0 || b == 0 || b != b ? (a - a) / b : r;
}"""),
    "nn_ipow": Helper("""
static inline T nn_ipow_S(T a, T b) {
    T r = 1;
    for (uniform_int bit = 0; bit < 63; ++bit) {
        r = (b & 1) != 0 ? (T)(r * a) : r;
        a = (T)(a * a);
        b = (T)(b >> 1);
    }
    return r;
}"""),
}


def closure(names: Iterable[str]) -> list[str]:
    """``names`` of float helpers with everything they call, callees first, in one fixed order."""
    wanted = set(names)
    while True:
        more = {n for w in wanted if w in FLOAT_HELPERS for n in FLOAT_HELPERS[w].needs} - wanted
        if not more:
            break
        wanted |= more
    order = {name: i for i, name in enumerate(FLOAT_HELPERS)}
    return sorted(wanted, key=lambda n: (order.get(n, len(order)), n))


def instantiate(template: str, types: Mapping[str, str], suffix: str) -> str:
    """``template`` with its type names replaced and ``_S`` completed to the dtype's suffix."""
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, types)) + r")\b")
    return re.sub(r"(nn_\w+)_S\b", rf"\1_{suffix}", pattern.sub(lambda m: types[m.group(1)], template))
