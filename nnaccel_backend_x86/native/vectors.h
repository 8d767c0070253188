// Vectors of floats as macros, for code that is compiled once per instruction set: define VECTORS_SSE2, VECTORS_AVX2 or
// VECTORS_AVX512 and include this file; include vectors_end.h before the next. TARGET goes in front of each function.
#if defined(VECTORS_AVX512)
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define VEC __m512
#define WIDTH 16
#define LOAD(address) _mm512_loadu_ps(address)
#define STORE(address, value) _mm512_storeu_ps(address, value)
#define SET(number) _mm512_set1_ps(float(number))
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUBTRACT(a, b) _mm512_sub_ps(a, b)
#define MULTIPLY(a, b) _mm512_mul_ps(a, b)
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MINUS_PRODUCT(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define ANY_NAN(a) (_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0)
#elif defined(VECTORS_AVX2)
#define TARGET __attribute__((target("avx2,fma")))
#define VEC __m256
#define WIDTH 8
#define LOAD(address) _mm256_loadu_ps(address)
#define STORE(address, value) _mm256_storeu_ps(address, value)
#define SET(number) _mm256_set1_ps(float(number))
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUBTRACT(a, b) _mm256_sub_ps(a, b)
#define MULTIPLY(a, b) _mm256_mul_ps(a, b)
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MINUS_PRODUCT(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define ANY_NAN(a) (_mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0)
#elif defined(VECTORS_SSE2)
#define TARGET
#define VEC __m128
#define WIDTH 4
#define LOAD(address) _mm_loadu_ps(address)
#define STORE(address, value) _mm_storeu_ps(address, value)
#define SET(number) _mm_set1_ps(float(number))
#define ADD(a, b) _mm_add_ps(a, b)
#define SUBTRACT(a, b) _mm_sub_ps(a, b)
#define MULTIPLY(a, b) _mm_mul_ps(a, b)
#define MULTIPLY_ADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#define MINUS_PRODUCT(a, b, c) _mm_sub_ps(c, _mm_mul_ps(a, b))
#define ANY_NAN(a) (_mm_movemask_ps(_mm_cmpunord_ps(a, a)) != 0)
#endif
