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

/// What a tile asks memory for while it computes: without @p next what comes later in its own stream, else of
/// the bytes from @p next on, as many as it reads itself, one line in every @p stride bytes.
struct ReadAhead {
    const std::byte* next = nullptr;
    std::size_t stride = 64; ///< 64 for each of the tiles that share the work
};

/// Rows that go through a panel together.
struct LinearTile {
    std::size_t rows = 0;
    /// Adds products to sums [rows][32]: of @p n groups of inputs, from @p weights, units of the panel, and
    /// @p x, the tile's activations for them.
    void (*block)(const std::byte* weights, const std::byte* x, std::size_t n, float* sums,
                  ReadAhead ahead) = nullptr;
};
using LinearTiles = std::array<LinearTile, 5>; ///< ascending; those not used have 0 rows

inline constexpr std::size_t max_linear_rows = 96; ///< in a call of Kernels::linear, a multiple of all tiles
/// Bytes of weights that several tiles take in turns: half of a small first-level cache.
inline constexpr std::size_t linear_block_bytes = 16384;

/// y = epilogue(x W + b) for `rows` rows and a range of panels.
struct LinearArgs {
    WeightType type = WeightType::float32;
    LinearTile tile{};            ///< one of the type's; which one changes no result
    const std::byte* x = nullptr; ///< packed for the tile by pack_rows() or Kernels::quantize_rows()
    std::size_t rows = 0;      ///< at most max_linear_rows; those that fill up the last tile are not stored
    std::size_t n_inputs = 0;  ///< K
    std::size_t n_outputs = 0; ///< N; the last panel may be partly filled
    const std::byte* panels = nullptr; ///< panel 0 first
    const float* bias = nullptr;       ///< [panels * 32]
    float* y = nullptr;                ///< row r, output n at y[r * y_stride + n]
    std::size_t y_stride = 0;
    Epilogue epilogue = Epilogue::store;
};

/// Activations of an integer format: rows [rows][K], `stride` apart, into tiles. A tile is, for each group
/// of inputs, `[group / 4][tile][4]` signed bytes, then the rows' scales (float), then for each row minus the
/// type's zero times the sum of its bytes (int32). Rows that fill up the last tile are not written.
struct QuantizeArgs {
    WeightType type = WeightType::int8;
    const float* x = nullptr;
    std::size_t stride = 0;
    std::size_t rows = 0;
    std::size_t n_inputs = 0;
    std::size_t tile = 1;
    std::byte* out = nullptr;
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
    using Attend = void (*)(const AttendArgs&);
    using WriteKv = bool (*)(const WriteKvArgs&);

    Isa isa = Isa::portable;
    std::array<LinearTiles, n_weight_types> tiles{}; ///< by WeightType
    void (*linear)(const LinearArgs&, std::size_t panel_begin, std::size_t panel_end) = nullptr;
    void (*quantize_rows)(const QuantizeArgs&) = nullptr;
    std::array<Attend, 2> attend{};    ///< by KvDtype
    std::array<WriteKv, 2> write_kv{}; ///< by KvDtype; false if a number exceeds the type, or is none
    /// y = (x - mean) / sqrt(variance + epsilon) * gain + bias over n values
    void (*layer_norm)(const float* x, const float* gain, const float* bias, float epsilon, std::size_t n,
                       float* y) = nullptr;
    /// out = exp(x - shift) over n values; results below 2^-126 are 0
    void (*exp_shifted)(const float* x, float shift, float* out, std::size_t n) = nullptr;
    /// the Epilogue::gelu_tanh function over n values
    void (*gelu_tanh)(const float* x, float* out, std::size_t n) = nullptr;
    /// the Epilogue::gelu_erf function over n values
    void (*gelu_erf)(const float* x, float* out, std::size_t n) = nullptr;

    /// The tile that takes @p rows rows through a matrix fastest: one costs its rows, filled or not, and
    /// about two more for reading the weights.
    [[nodiscard]] LinearTile tile_for(WeightType type, std::size_t rows) const noexcept {
        const LinearTiles& list = tiles[static_cast<std::size_t>(type)];
        const auto cost = [rows](const LinearTile& tile) {
            return (rows + tile.rows - 1) / tile.rows * (tile.rows + 2);
        };
        LinearTile best = list.front();
        for (const LinearTile& tile : list) {
            if (tile.rows != 0 && cost(tile) <= cost(best)) {
                best = tile;
            }
        }
        return best;
    }
};

} // namespace kernels
} // namespace gpt2

#if defined(__GNUC__)
#define GPT2_INLINE inline __attribute__((always_inline)) GPT2_TARGET
#else
#define GPT2_INLINE inline
#endif
#define GPT2_KERNEL GPT2_TARGET inline

#define GPT2_LEVEL portable
#define GPT2_TARGET
#define GPT2_WIDE 0
#include "gpt2/kernels/level.inl"
#define GPT2_DOT plain
#define GPT2_ISA_NAME portable
#include "gpt2/kernels/table.inl"
#undef GPT2_ISA_NAME
#undef GPT2_DOT
#undef GPT2_TARGET
#undef GPT2_LEVEL

#if GPT2_X86
#define GPT2_LEVEL avx2
#define GPT2_TARGET GPT2_TARGET_AVX2
#include "gpt2/kernels/level.inl"
#define GPT2_DOT plain
#define GPT2_ISA_NAME avx2
#include "gpt2/kernels/table.inl"
#undef GPT2_ISA_NAME
#undef GPT2_DOT
#undef GPT2_TARGET
#define GPT2_TARGET GPT2_TARGET_AVX2_VNNI
#define GPT2_DOT vnni
#define GPT2_ISA_NAME avx2_vnni
#include "gpt2/kernels/table.inl"
#undef GPT2_ISA_NAME
#undef GPT2_DOT
#undef GPT2_TARGET
#undef GPT2_LEVEL
#undef GPT2_WIDE

#define GPT2_LEVEL avx512
#define GPT2_TARGET GPT2_TARGET_AVX512
#define GPT2_WIDE 1
#include "gpt2/kernels/level.inl"
#define GPT2_DOT plain
#define GPT2_ISA_NAME avx512
#include "gpt2/kernels/table.inl"
#undef GPT2_ISA_NAME
#undef GPT2_DOT
#undef GPT2_TARGET
#define GPT2_TARGET GPT2_TARGET_AVX512_VNNI
#define GPT2_DOT vnni
#define GPT2_ISA_NAME avx512_vnni
#include "gpt2/kernels/table.inl"
#undef GPT2_ISA_NAME
#undef GPT2_DOT
#undef GPT2_TARGET
#undef GPT2_LEVEL
#endif
#undef GPT2_WIDE
#undef GPT2_KERNEL
#undef GPT2_INLINE

namespace gpt2::kernels {

/// The table of @p isa, which the machine must support (choose_isa() makes sure).
[[nodiscard]] inline const Kernels& kernels_for([[maybe_unused]] Isa isa) noexcept {
#if GPT2_X86
    switch (isa) {
    case Isa::avx512_vnni:
        return avx512::vnni::table();
    case Isa::avx512:
        return avx512::plain::table();
    case Isa::avx2_vnni:
        return avx2::vnni::table();
    case Isa::avx2:
        return avx2::plain::table();
    case Isa::portable:
        break;
    }
#endif
    return portable::plain::table();
}

} // namespace gpt2::kernels
