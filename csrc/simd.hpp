// Run-time SIMD dispatch and the vector type of the compiled core.
#pragma once

// One source, three instruction sets, chosen when the module loads.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && \
    !defined(SYNBENCH_NO_CLONES)
#define SYNBENCH_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SYNBENCH_CLONES
#endif
#define SYNBENCH_INLINE inline __attribute__((always_inline))

namespace synbench {

// Eight doubles: one AVX-512 register, several of a narrower set. Never an argument or a result of a function
// that is not inlined, because its calling convention differs between instruction sets.
constexpr int kLanes = 8;
typedef double Lanes __attribute__((vector_size(8 * kLanes)));
typedef double LooseLanes __attribute__((vector_size(8 * kLanes), aligned(8), may_alias));

SYNBENCH_INLINE Lanes load(const double* p) { return *reinterpret_cast<const LooseLanes*>(p); }
SYNBENCH_INLINE void store(double* p, const Lanes& v) { *reinterpret_cast<LooseLanes*>(p) = v; }
SYNBENCH_INLINE double sum(const Lanes& v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

}  // namespace synbench
