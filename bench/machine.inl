// SPDX-License-Identifier: MIT
// Included by machine.hpp, once per instruction set, with GPT2_LEVEL and GPT2_TARGET defined.

namespace gpt2::bench::GPT2_LEVEL {

using namespace gpt2::kernels::GPT2_LEVEL;

/// Reads @p n floats, a multiple of 128. @returns their sum, so that nobody can leave the reading out.
GPT2_TARGET inline float read(const float* p, std::size_t n) {
    F32x16 s0 = zero();
    F32x16 s1 = zero();
    F32x16 s2 = zero();
    F32x16 s3 = zero();
    for (const float* const end = p + n; p != end; p += 128) {
        for (std::size_t line = 0; line < 128; line += 16) {
            __builtin_prefetch(reinterpret_cast<const char*>(p + line) + 4096);
        }
        s0 = add(s0, load(p));
        s1 = add(s1, load(p + 16));
        s2 = add(s2, load(p + 32));
        s3 = add(s3, load(p + 48));
        s0 = add(s0, load(p + 64));
        s1 = add(s1, load(p + 80));
        s2 = add(s2, load(p + 96));
        s3 = add(s3, load(p + 112));
    }
    return sum(add(add(s0, s1), add(s2, s3)));
}

/// @p steps times 8 blocks of sixteen multiply-adds: as many independent chains as the registers hold, to
/// cover the latency of each. They begin differently, or a compiler would make one of all.
GPT2_TARGET inline float multiply_add(std::size_t steps, float factor, float addend) {
    const F32x16 a = broadcast(factor);
    const F32x16 b = broadcast(addend);
    F32x16 s0 = broadcast(0.0f);
    F32x16 s1 = broadcast(1.0f);
    F32x16 s2 = broadcast(2.0f);
    F32x16 s3 = broadcast(3.0f);
    F32x16 s4 = broadcast(4.0f);
    F32x16 s5 = broadcast(5.0f);
    F32x16 s6 = broadcast(6.0f);
    F32x16 s7 = broadcast(7.0f);
    constexpr Isa isa = Isa::GPT2_LEVEL;
    for (std::size_t i = 0; i < steps; ++i) {
        if constexpr (isa == Isa::avx512) {
            s0 = fma(s0, a, b);
            s1 = fma(s1, a, b);
            s2 = fma(s2, a, b);
            s3 = fma(s3, a, b);
            s4 = fma(s4, a, b);
            s5 = fma(s5, a, b);
            s6 = fma(s6, a, b);
            s7 = fma(s7, a, b);
        } else if constexpr (isa == Isa::avx2) {
            for (int half = 0; half < 2; ++half) { // 8 registers
                s0 = fma(s0, a, b);
                s1 = fma(s1, a, b);
                s2 = fma(s2, a, b);
                s3 = fma(s3, a, b);
            }
        } else {
            for (int quarter = 0; quarter < 4; ++quarter) { // 8 registers
                s0 = fma(s0, a, b);
                s1 = fma(s1, a, b);
            }
        }
    }
    return sum(add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7))));
}

} // namespace gpt2::bench::GPT2_LEVEL
