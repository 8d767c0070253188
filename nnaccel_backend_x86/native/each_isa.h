// Compiles ISA_TEXT, the name of a header, once per instruction set with the macros of vectors.h, in namespaces sse2, avx2 and
// avx512 of the one that this is included in. `best_of` (microkernel.h) chooses among what they define.
namespace sse2 {
#define VECTORS_SSE2
#include "vectors.h"
#include ISA_TEXT
#include "vectors_end.h"
}  // namespace sse2

namespace avx2 {
#define VECTORS_AVX2
#include "vectors.h"
#include ISA_TEXT
#include "vectors_end.h"
}  // namespace avx2

namespace avx512 {
#define VECTORS_AVX512
#include "vectors.h"
#include ISA_TEXT
#include "vectors_end.h"
}  // namespace avx512
#undef ISA_TEXT
