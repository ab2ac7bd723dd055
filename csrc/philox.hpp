// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
// easy as 1, 2, 3" (SC 2011): ten rounds turn a 128-bit counter and a 64-bit key into four 32-bit words.
// Nothing has state.
#pragma once
#include "simd.hpp"

namespace synbench {

using Word = unsigned int;        // 32 bits
using Wide = unsigned long long;  // 64 bits

constexpr Word kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr Word kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct Words {
  Word w0, w1, w2, w3;
};

// The key is the seed: low word, high word.
SYNBENCH_INLINE Words philox4x32(Wide seed, Words c) {
  Word k0 = static_cast<Word>(seed), k1 = static_cast<Word>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Wide p0 = static_cast<Wide>(kPhiloxMultiplier0) * c.w0;
    const Wide p1 = static_cast<Wide>(kPhiloxMultiplier1) * c.w2;
    c = {static_cast<Word>(p1 >> 32) ^ c.w1 ^ k0, static_cast<Word>(p1), static_cast<Word>(p0 >> 32) ^ c.w3 ^ k1,
         static_cast<Word>(p0)};
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return c;
}

}  // namespace synbench
