// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/kernels/kernels.hpp"
#include "gpt2/packed_matrix.hpp"
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
};

/// Activations in tiles, as the linear kernels read them. Scratch of a forward pass; grows as needed.
class PackedRows {
public:
    /// Packs rows [B, K] that are @p stride apart. A single row is its own packed form and not copied.
    void pack(const Compute& compute, const float* x, std::size_t stride, std::size_t rows,
              std::size_t n_inputs) {
        tile_ = compute.kernels.tile_for(rows);
        rows_ = rows;
        data_ = x;
        if (tile_ == 1) {
            return;
        }
        const std::size_t tiles = (rows + tile_ - 1) / tile_;
        if (memory_.size() < tiles * tile_ * n_inputs) {
            memory_ = Tensor<float, 1>({tiles * tile_ * n_inputs});
        }
        data_ = memory_.data();
        compute.pool.parallel_for(tiles, 1, [&](std::size_t begin, std::size_t end) {
            const std::size_t first = begin * tile_;
            kernels::pack_rows(x + first * stride, stride, std::min(rows, end * tile_) - first, n_inputs,
                               tile_, memory_.data() + first * n_inputs);
        });
    }

    [[nodiscard]] std::size_t tile() const noexcept { return tile_; }
    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] const float* data() const noexcept { return data_; }

private:
    Tensor<float, 1> memory_;
    const float* data_ = nullptr;
    std::size_t tile_ = 1;
    std::size_t rows_ = 0;
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
        Tensor<float, 1> padded({kernels::panel_count(n_outputs) * kernels::panel_width});
        std::copy(bias.begin(), bias.end(), padded.data());
        return padded;
    }

    [[nodiscard]] const PackedMatrix& weight() const noexcept { return weight_; }

    /// y = epilogue(x W + b) for rows x [B, K] and y [B, N], both dense. The work is cut into (rows,
    /// panels) pieces of a size that suits caches; an output never depends on the cut.
    void forward(const Compute& compute, const float* x, std::size_t rows, float* y,
                 kernels::Epilogue epilogue, PackedRows& packed) const {
        const std::size_t n_inputs = weight_.n_inputs();
        packed.pack(compute, x, n_inputs, rows, n_inputs);
        const std::size_t tile = packed.tile();
        const std::size_t chunk = tile * tiles_per_chunk;
        const std::size_t chunks = (rows + chunk - 1) / chunk;
        const std::size_t panels = kernels::panel_count(weight_.n_outputs());
        const auto kernel = compute.kernels.linear[static_cast<std::size_t>(weight_.type())];
        const std::size_t pieces = chunks * panels;
        const std::size_t grain = std::max<std::size_t>(1, pieces / (compute.pool.size() * 16));
        compute.pool.parallel_for(pieces, grain, [&](std::size_t begin, std::size_t end) {
            while (begin < end) {
                const std::size_t first = begin / panels * chunk;
                const std::size_t panel = begin % panels;
                const std::size_t panel_end = std::min(panels, panel + (end - begin));
                kernel({.x = packed.data() + first * n_inputs,
                        .tile = tile,
                        .rows = std::min(chunk, rows - first),
                        .n_inputs = n_inputs,
                        .n_outputs = weight_.n_outputs(),
                        .panels = weight_.panels(),
                        .bias = bias_.data(),
                        .y = y + first * weight_.n_outputs(),
                        .y_stride = weight_.n_outputs(),
                        .epilogue = epilogue},
                       panel, panel_end);
                begin += panel_end - panel;
            }
        });
    }

private:
    /// 8 tiles of 12 rows and 768 inputs are 295 KB: they stay in the second-level cache beside a panel.
    static constexpr std::size_t tiles_per_chunk = 8;

    PackedMatrix weight_;
    SharedTensor<float, 1> bias_;
};

} // namespace gpt2
