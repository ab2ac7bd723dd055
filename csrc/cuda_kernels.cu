// The CUDA C++ kernels that may use fused multiply-adds, as one unit: compiled ahead of time by nvcc, or at first use through NVRTC.
#include "robust_solve_cuda.cu"
#include "score_auc_cuda.cu"
#include "score_sweep_cuda.cu"
