// The macros of product_isa.h, taken back.
#undef TARGET
#undef VEC
#undef WIDTH
#undef WIDE
#undef ROWS
#undef NARROW
#undef BROADCAST
#undef MULTIPLY_ADD
