// SPDX-License-Identifier: MIT
// Included by machine.hpp, once per instruction set, with GPT2_LEVEL and GPT2_TARGET defined.

namespace gpt2::bench::GPT2_LEVEL {

using namespace gpt2::kernels::GPT2_LEVEL;

/// Reads @p n floats, a multiple of read_unit, as @p Streams parts side by side, and asks for each line
/// @p Ahead bytes before it comes (0: leaves that to the processor).
/// @returns their sum, so that nobody can leave the reading out
template <std::size_t Streams, std::size_t Ahead>
GPT2_TARGET inline float read(const float* p, std::size_t n) {
    F32x16 s0 = zero();
    F32x16 s1 = zero();
    F32x16 s2 = zero();
    F32x16 s3 = zero();
    const std::size_t part = n / Streams;
    for (const float* const end = p + part; p != end; p += 64) {
        for (std::size_t stream = 0; stream < Streams; ++stream) {
            const float* const q = p + stream * part;
            if constexpr (Ahead != 0) {
                for (std::size_t line = 0; line < 64; line += 16) {
                    __builtin_prefetch(reinterpret_cast<const char*>(q + line) + Ahead);
                }
            }
            s0 = add(s0, load(q));
            s1 = add(s1, load(q + 16));
            s2 = add(s2, load(q + 32));
            s3 = add(s3, load(q + 48));
        }
    }
    return sum(add(add(s0, s1), add(s2, s3)));
}

/// @p steps times 12 blocks of sixteen multiply-adds, in 12 independent chains of registers at any width:
/// more than the latency of each times the number at once. @p starts are 192 numbers that all differ: a
/// compiler makes one chain of two that begin alike, be they halves of one block.
GPT2_TARGET inline float multiply_add(std::size_t steps, float factor, float addend, const float* starts) {
    const F32x16 a = broadcast(factor);
    const F32x16 b = broadcast(addend);
    F32x16 s0 = load(starts);
    F32x16 s1 = load(starts + 16);
    F32x16 s2 = load(starts + 32);
    F32x16 s3 = load(starts + 48);
    F32x16 s4 = load(starts + 64);
    F32x16 s5 = load(starts + 80);
    F32x16 s6 = load(starts + 96);
    F32x16 s7 = load(starts + 112);
    F32x16 s8 = load(starts + 128);
    F32x16 s9 = load(starts + 144);
    F32x16 s10 = load(starts + 160);
    F32x16 s11 = load(starts + 176);
    constexpr Isa isa = Isa::GPT2_LEVEL;
    constexpr int repeats = isa == Isa::avx512 ? 1 : isa == Isa::avx2 ? 2 : 4;
    for (std::size_t i = 0; i < steps; ++i) {
        for (int repeat = 0; repeat < repeats; ++repeat) {
            s0 = fma(s0, a, b);
            s1 = fma(s1, a, b);
            s2 = fma(s2, a, b);
            if constexpr (isa != Isa::portable) { // two registers each, 12 in all
                s3 = fma(s3, a, b);
                s4 = fma(s4, a, b);
                s5 = fma(s5, a, b);
            }
            if constexpr (isa == Isa::avx512) { // one each
                s6 = fma(s6, a, b);
                s7 = fma(s7, a, b);
                s8 = fma(s8, a, b);
                s9 = fma(s9, a, b);
                s10 = fma(s10, a, b);
                s11 = fma(s11, a, b);
            }
        }
    }
    const F32x16 low = add(add(add(s0, s1), add(s2, s3)), add(s4, s5));
    return sum(add(low, add(add(add(s6, s7), add(s8, s9)), add(s10, s11))));
}

[[nodiscard]] inline Routines routines() {
    return {{read<1, 0>, read<1, 4096>, read<2, 0>, read<4, 0>}, multiply_add};
}

} // namespace gpt2::bench::GPT2_LEVEL
