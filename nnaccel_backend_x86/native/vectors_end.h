// Takes back the macros of vectors.h.
#undef VECTORS_SSE2
#undef VECTORS_AVX2
#undef VECTORS_AVX512
#undef TARGET
#undef VEC
#undef WIDTH
#undef LOAD
#undef STORE
#undef SET
#undef ADD
#undef SUBTRACT
#undef MULTIPLY
#undef MULTIPLY_ADD
#undef MINUS_PRODUCT
#undef ANY_NAN
