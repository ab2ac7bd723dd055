// The CUDA kernels of the product on the CPU; one entry point for all, by name.
#include "cuda_emulator.hpp"

#include "cuda_kernels.cu"
#include "exact_kernels.cu"

extern "C" const char* emulate(const char* name, const unsigned* grid, int threads, unsigned order,
                               const std::uint64_t* words, int count) {
  const emulator::Position size = {grid[0], grid[1], grid[2]};
  const std::string wanted = name;
  bool known = false;
  const auto offer = [&](const char* offered, auto kernel) {
    if (wanted != offered) return;
    known = true;
    emulator::launch(kernel, words, count, size, threads, order);
  };
#define SYNBENCH_OFFER(kernel) offer(#kernel, kernel)
  SYNBENCH_OFFER(tridiagonalise_kernel);
  SYNBENCH_OFFER(robust_solve_kernel);
  SYNBENCH_OFFER(robust_solve_weights_kernel);
  SYNBENCH_OFFER(score_sweep_float32_kernel);
  SYNBENCH_OFFER(score_sweep_float64_kernel);
  SYNBENCH_OFFER(score_sweep_total_kernel);
  SYNBENCH_OFFER(score_auc_kernel);
  SYNBENCH_OFFER(render_spectrum_kernel);
  SYNBENCH_OFFER(render_fourier_kernel);
  SYNBENCH_OFFER(render_mix_kernel);
  SYNBENCH_OFFER(render_roll_kernel);
  SYNBENCH_OFFER(render_view_kernel);
  SYNBENCH_OFFER(render_paint_kernel);
  if (!known) emulator::failure = "unknown kernel " + wanted;
  return emulator::failure.c_str();
}
