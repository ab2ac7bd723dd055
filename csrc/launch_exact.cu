#include "exact_kernels.cu"

#include "kernel_table.cuh"

namespace synbench {

std::vector<Kernel> exact_kernels() {
  return {SYNBENCH_KERNEL(render_spectrum_kernel), SYNBENCH_KERNEL(render_fourier_kernel),
          SYNBENCH_KERNEL(render_mix_kernel),      SYNBENCH_KERNEL(render_roll_kernel),
          SYNBENCH_KERNEL(render_view_kernel),     SYNBENCH_KERNEL(render_paint_kernel)};
}

}  // namespace synbench
