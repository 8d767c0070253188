"""nnaccel's backend for x86 processors: generated kernels and oneDNN, run by a native runtime."""
