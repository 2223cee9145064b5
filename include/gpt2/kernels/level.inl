// SPDX-License-Identifier: MIT
// No include guard: kernels.hpp includes this once per instruction set, with GPT2_LEVEL and GPT2_TARGET
// defined. Every function here carries GPT2_TARGET; lambdas and library calls would not inherit it, so
// there are none.

#if defined(__GNUC__)
#define GPT2_INLINE inline __attribute__((always_inline)) GPT2_TARGET
#else
#define GPT2_INLINE inline
#endif
#define GPT2_KERNEL GPT2_TARGET inline

#include "gpt2/kernels/elementwise.inl"

#include "gpt2/kernels/linear.inl"

#include "gpt2/kernels/attend.inl"

namespace gpt2::kernels::GPT2_LEVEL {

/// A template, so that nothing is instantiated before somebody asks for the level.
GPT2_HEAVY [[nodiscard]] const Kernels& table() noexcept;

template <class> const Kernels& table() noexcept {
    static constexpr Kernels kernels = {
        .isa = Isa::GPT2_LEVEL,
        .tiles = tile_sizes,
        .linear = {&linear<float>, &linear<half>, &linear<bfloat16>},
        .attend = {&attend<float>, &attend<half>},
        .write_kv = {&write_kv<float>, &write_kv<half>},
        .layer_norm = &layer_norm,
        .exp_shifted = &exp_shifted,
        .gelu_tanh = &apply<GeluTanh>,
        .gelu_erf = &apply<GeluErf>,
    };
    return kernels;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE const Kernels& table<void>() noexcept;
#endif

} // namespace gpt2::kernels::GPT2_LEVEL

#undef GPT2_KERNEL
#undef GPT2_INLINE
