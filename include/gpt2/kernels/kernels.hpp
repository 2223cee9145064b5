// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/kernels/isa.hpp"
#include "gpt2/kernels/panel.hpp"
#include "gpt2/kernels/simd_avx2.hpp"
#include "gpt2/kernels/simd_avx512.hpp"
#include "gpt2/kernels/simd_portable.hpp"

#include <array>
#include <cstddef>

/// @file
/// Every kernel as a function pointer, one table per instruction set. The bodies are in the `.inl` files,
/// written once and compiled here for each level.

namespace gpt2 {

/// The type in which keys and values are stored.
enum class KvDtype { float32, float16 };

namespace kernels {

/// What happens to an output once its chain of multiply-adds is complete.
enum class Epilogue {
    store,     ///< y = x W + b
    add,       ///< y = y + (x W + b), the residual connection
    gelu_tanh, ///< y = gelu(x W + b), with Activation::gelu_tanh
    gelu_erf,  ///< y = gelu(x W + b), with Activation::gelu_erf
    relu,      ///< y = max(x W + b, 0)
};

/// y = epilogue(x W + b) for @ref rows rows and a range of panels.
struct LinearArgs {
    const float* x = nullptr;          ///< packed by pack_rows(): tiles of `tile` rows, each [K][tile]
    std::size_t tile = 1;              ///< rows in a tile, one of Kernels::tiles
    std::size_t rows = 0;              ///< rows to compute; those that fill up the last tile are not stored
    std::size_t n_inputs = 0;          ///< K
    std::size_t n_outputs = 0;         ///< N; the last panel may be partly filled
    const std::byte* panels = nullptr; ///< of the format that the kernel is for, panel 0 first
    const float* bias = nullptr;       ///< [panels * 32]
    float* y = nullptr;                ///< row r, output n at y[r * y_stride + n]
    std::size_t y_stride = 0;
    Epilogue epilogue = Epilogue::store;
};

/// Positions in a block of keys and values, counted from position 0: the step of the attention kernel.
inline constexpr std::size_t kv_block = 64;

/// D, rounded up to whole vectors.
[[nodiscard]] constexpr std::size_t padded_head_size(std::size_t head_size) noexcept {
    return (head_size + 15) / 16 * 16;
}

/// Queries of one head, at consecutive positions of one sequence. The head's keys and values lie in blocks of
/// 64 positions, each the keys `[4][D][16]`, so that a lane is a position when a query is scored, then the
/// values `[64][padded D]`, so that a lane is a dimension when they are summed.
struct AttendArgs {
    const float* queries = nullptr; ///< [D] each
    std::size_t query_stride = 0;   ///< from query to query
    std::size_t n_queries = 0;
    const void* blocks = nullptr; ///< of the head, from position 0 on
    std::size_t block_stride = 0; ///< from block to block, in numbers
    std::size_t head_size = 0;    ///< D
    std::size_t n_positions = 0;  ///< that the first query sees, at least 1; each further query sees one more
    float scale = 1.0f;           ///< of the queries
    float* out = nullptr;         ///< [D] each
    std::size_t out_stride = 0;   ///< from query to query
    float* scratch = nullptr;     ///< [n_queries][2][padded D]
};

/// Keys and values of one head, for consecutive positions of one sequence.
struct WriteKvArgs {
    const float* keys = nullptr;   ///< [D] each
    const float* values = nullptr; ///< [D] each
    std::size_t row_stride = 0;    ///< from position to position, of keys and of values
    std::size_t n_rows = 0;        ///< positions
    std::size_t head_size = 0;     ///< D
    std::size_t position = 0;      ///< the first
    void* blocks = nullptr;        ///< of the head, as in AttendArgs
    std::size_t block_stride = 0;  ///< from block to block, in numbers
};

/// The kernels of one instruction set. Every pointer is set; nothing allocates or throws.
struct Kernels {
    using Linear = void (*)(const LinearArgs&, std::size_t panel_begin, std::size_t panel_end);
    using Attend = void (*)(const AttendArgs&);
    using WriteKv = bool (*)(const WriteKvArgs&);

    Isa isa = Isa::portable;
    std::array<std::size_t, 5> tiles{}; ///< rows that go through together, ascending; the last is the largest
    std::array<Linear, 3> linear{};     ///< by WeightType
    std::array<Attend, 2> attend{};     ///< by KvDtype
    std::array<WriteKv, 2> write_kv{};  ///< by KvDtype; false if a number exceeds the type, or is none
    /// y = (x - mean) / sqrt(variance + epsilon) * gain + bias over n values
    void (*layer_norm)(const float* x, const float* gain, const float* bias, float epsilon, std::size_t n,
                       float* y) = nullptr;
    /// out = exp(x - shift) over n values; results below 2^-126 are 0
    void (*exp_shifted)(const float* x, float shift, float* out, std::size_t n) = nullptr;
    /// the Epilogue::gelu_tanh function over n values
    void (*gelu_tanh)(const float* x, float* out, std::size_t n) = nullptr;
    /// the Epilogue::gelu_erf function over n values
    void (*gelu_erf)(const float* x, float* out, std::size_t n) = nullptr;

    /// The tile size that takes @p rows rows through fastest: a tile costs its rows, filled or not, and about
    /// two more for reading the weights.
    [[nodiscard]] std::size_t tile_for(std::size_t rows) const noexcept {
        const auto cost = [rows](std::size_t tile) { return (rows + tile - 1) / tile * (tile + 2); };
        std::size_t best = tiles.front();
        for (const std::size_t tile : tiles) {
            if (cost(tile) <= cost(best)) {
                best = tile;
            }
        }
        return best;
    }
};

} // namespace kernels
} // namespace gpt2

#define GPT2_LEVEL portable
#define GPT2_TARGET
#include "gpt2/kernels/level.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL

#if GPT2_X86
#define GPT2_LEVEL avx2
#define GPT2_TARGET GPT2_TARGET_AVX2
#include "gpt2/kernels/level.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL

#define GPT2_LEVEL avx512
#define GPT2_TARGET GPT2_TARGET_AVX512
#include "gpt2/kernels/level.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL
#endif

namespace gpt2::kernels {

/// The table of @p isa, which the machine must support (choose_isa() makes sure).
[[nodiscard]] inline const Kernels& kernels_for([[maybe_unused]] Isa isa) noexcept {
#if GPT2_X86
    if (isa == Isa::avx512) {
        return avx512::table();
    }
    if (isa == Isa::avx2) {
        return avx2::table();
    }
#endif
    return portable::table();
}

} // namespace gpt2::kernels
