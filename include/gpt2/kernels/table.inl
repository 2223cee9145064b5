// SPDX-License-Identifier: MIT
// No include guard: kernels.hpp includes this after level.inl, once for each kind of dot product that the
// level has, GPT2_DOT, with GPT2_TARGET for it, and GPT2_ISA_NAME, the Isa that both make.

#include "gpt2/kernels/linear_integer.inl"

namespace gpt2::kernels::GPT2_LEVEL::GPT2_DOT {

/// A template, so that nothing is instantiated before somebody asks for the level.
GPT2_HEAVY [[nodiscard]] const Kernels& table() noexcept;

template <class> const Kernels& table() noexcept {
    static constexpr Kernels kernels = {
        .isa = Isa::GPT2_ISA_NAME,
        .tiles = {{float_tiles<float>(), float_tiles<half>(), float_tiles<bfloat16>(), integer_tiles<Int8>(),
                   integer_tiles<Int4>()}},
        .linear = &linear,
        .quantize_rows = &quantize_rows,
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

} // namespace gpt2::kernels::GPT2_LEVEL::GPT2_DOT
