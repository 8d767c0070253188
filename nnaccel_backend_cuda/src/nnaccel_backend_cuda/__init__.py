"""nnaccel's backend for NVIDIA GPUs. The plug-in is ``nnaccel_backend_cuda.plugin``."""
