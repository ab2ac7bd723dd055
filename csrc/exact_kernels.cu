// The CUDA C++ kernels whose results have the bits of the CPU, as one unit: compiled with --fmad=false.
#include "renderers_cuda.cu"
