// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/interrupt.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/packed_matrix.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/shared_tensor.hpp"
#include "gpt2/thread_pool.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

/// @file
/// y = x W + b.

namespace gpt2 {

/// What the layers compute with: one level's kernels and the threads. Neither changes a result.
struct Compute {
    const kernels::Kernels& kernels;
    ThreadPool& pool;
    Profile* profile = nullptr;           ///< that wants to know how long each layer takes
    const Interrupt* interrupt = nullptr; ///< that may end a pass; null: none can

    /// @throws Interrupted if the pass shall end here
    void check_interrupt() const {
        if (interrupt != nullptr) {
            interrupt->check();
        }
    }
};

/// Activations as the kernels of a weight type read them. Scratch of a forward pass; grows as needed.
class PackedRows {
public:
    /// Packs rows [B, K] for a matrix of @p type. A single row is its own packed form for the float types,
    /// and not copied.
    void pack(const Compute& compute, WeightType type, const float* x, std::size_t rows,
              std::size_t n_inputs) {
        tile_ = compute.kernels.tile_for(type, rows);
        const std::size_t tile = tile_.rows;
        const kernels::UnitShape unit = kernels::unit_of(type);
        row_bytes_ = kernels::unit_count(type, n_inputs) * unit.x_bytes;
        data_ = reinterpret_cast<const std::byte*>(x);
        if (tile == 1 && !kernels::is_integer(type)) {
            return;
        }
        const std::size_t tiles = (rows + tile - 1) / tile;
        if (memory_.size() < tiles * tile * row_bytes_) {
            memory_ = Tensor<std::byte, 1>({tiles * tile * row_bytes_});
        }
        data_ = memory_.data();
        const std::size_t grain = std::max<std::size_t>(1, 8 / tile);
        compute.pool.parallel_for(tiles, grain, [&](std::size_t begin, std::size_t end) {
            const std::size_t first = begin * tile;
            const float* const from = x + first * n_inputs;
            const std::size_t n = std::min(rows, end * tile) - first;
            std::byte* const out = memory_.data() + first * row_bytes_;
            if (kernels::is_integer(type)) {
                compute.kernels.quantize_rows({.type = type,
                                               .x = from,
                                               .stride = n_inputs,
                                               .rows = n,
                                               .n_inputs = n_inputs,
                                               .tile = tile,
                                               .out = out});
            } else {
                kernels::pack_rows(from, n_inputs, n, n_inputs, tile, reinterpret_cast<float*>(out));
            }
        });
    }

    [[nodiscard]] const kernels::LinearTile& tile() const noexcept { return tile_; }

    /// From row @p first on, which begins a tile.
    [[nodiscard]] const std::byte* from_row(std::size_t first) const noexcept {
        return data_ + first * row_bytes_;
    }

private:
    Tensor<std::byte, 1> memory_;
    const std::byte* data_ = nullptr;
    std::size_t row_bytes_ = 0;
    kernels::LinearTile tile_{};
};

/// A linear layer: a weight matrix in any format and a bias. Immutable and thread-safe.
class Linear {
public:
    Linear() = default;

    /// @param bias  [N], filled up with zeros to whole panels (padded_bias()); empty for none
    Linear(PackedMatrix weight, SharedTensor<float, 1> bias)
        : weight_(std::move(weight)),
          bias_(bias.size() != 0 ? std::move(bias) : padded_bias(weight_.n_outputs(), {})) {}

    /// @p bias [N], or nothing, filled up with zeros.
    [[nodiscard]] static Tensor<float, 1> padded_bias(std::size_t n_outputs, std::span<const float> bias) {
        Tensor<float, 1> padded({kernels::padded_outputs(n_outputs)});
        std::copy(bias.begin(), bias.end(), padded.data());
        return padded;
    }

    [[nodiscard]] const PackedMatrix& weight() const noexcept { return weight_; }
    [[nodiscard]] std::span<const float> bias() const noexcept { return bias_.flat(); } ///< whole panels

    /// y = epilogue(x W + b) for rows x [B, K] and y [B, N], both dense. The work is cut into (rows,
    /// panels) pieces of a size that suits caches; an output never depends on the cut.
    void forward(const Compute& compute, const float* x, std::size_t rows, float* y,
                 kernels::Epilogue epilogue, PackedRows& packed) const {
        const std::size_t n_outputs = weight_.n_outputs();
        packed.pack(compute, weight_.type(), x, rows, weight_.n_inputs());
        const std::size_t chunk = kernels::max_linear_rows;
        const std::size_t chunks = (rows + chunk - 1) / chunk;
        const std::size_t panels = kernels::panel_count(n_outputs);
        const std::size_t pieces = chunks * panels;
        const std::size_t grain = std::max<std::size_t>(1, pieces / (compute.pool.size() * 16));
        compute.pool.parallel_for(pieces, grain, [&](std::size_t begin, std::size_t end) {
            while (begin < end) {
                const std::size_t first = begin / panels * chunk;
                const std::size_t panel = begin % panels;
                const std::size_t panel_end = std::min(panels, panel + (end - begin));
                forward_panels(compute, packed.tile(), packed.from_row(first), std::min(chunk, rows - first),
                               y + first * n_outputs, epilogue, panel, panel_end);
                begin += panel_end - panel;
            }
        });
    }

    /// The outputs of a range of panels alone, in this thread.
    /// @param x     rows [n], at most max_linear_rows, packed for @p tile
    /// @param y     where output 0 of the first row goes; the next row is N further
    void forward_panels(const Compute& compute, const kernels::LinearTile& tile, const std::byte* x,
                        std::size_t rows, float* y, kernels::Epilogue epilogue, std::size_t panel_begin,
                        std::size_t panel_end) const {
        compute.kernels.linear({.type = weight_.type(),
                                .tile = tile,
                                .x = x,
                                .rows = rows,
                                .n_inputs = weight_.n_inputs(),
                                .n_outputs = weight_.n_outputs(),
                                .panels = weight_.panels(),
                                .bias = bias_.data(),
                                .y = y,
                                .y_stride = weight_.n_outputs(),
                                .epilogue = epilogue},
                               panel_begin, panel_end);
    }

private:
    PackedMatrix weight_;
    SharedTensor<float, 1> bias_;
};

} // namespace gpt2
