// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/kv_cache.hpp"
#include "gpt2/linear.hpp"

#include <cmath>
#include <cstddef>
#include <span>

/// @file
/// Causal self-attention with several heads.

namespace gpt2 {

/// One token on its way through the model: rows of any sequences, in any mixture, share a pass. The rows
/// of one sequence follow each other in the order of their positions.
struct Row {
    TokenId token = 0;
    std::size_t position = 0;
    KvCache* cache = nullptr; ///< of the token's sequence, filled up to the first of its rows
    bool wants_logits = false;
};

/// Memory of a forward pass for up to B rows. One pass at a time.
struct Workspace {
    Workspace() = default;
    Workspace(const Config& config, std::size_t n_rows)
        : rows(n_rows), x({rows, config.n_embd}), normed({rows, config.n_embd}),
          qkv({rows, 3 * config.n_embd}), attended({rows, config.n_embd}),
          sums({rows, config.n_head, (config.head_size() + 15) / 16 * 16}), inner({rows, config.n_inner}) {}

    std::size_t rows = 0;      ///< B
    Tensor<float, 2> x;        ///< [B, C], the residual stream
    Tensor<float, 2> normed;   ///< [B, C]
    Tensor<float, 2> qkv;      ///< [B, 3 C], queries, keys and values
    Tensor<float, 2> attended; ///< [B, C], the heads' outputs side by side
    Tensor<float, 3> sums;     ///< [B, H, padded D]
    Tensor<float, 2> inner;    ///< [B, F]
    PackedRows packed;
};

/// softmax(Q K^T / sqrt(D)) V per head, over the positions up to and including the row's own.
/// Immutable and thread-safe.
struct Attention {
    Linear c_attn; ///< C -> 3 C: queries, keys, values
    Linear c_proj; ///< C -> C
    std::size_t n_head = 0;
    float scale = 1.0f; ///< of the scores: 1 / sqrt(D), where the model scales them

    /// The factor of the scores in layer @p layer, counted from 0.
    [[nodiscard]] static float score_scale(const Config& config, std::size_t layer) {
        float scale = 1.0f;
        if (config.scale_attn_weights) {
            scale /= std::sqrt(static_cast<float>(config.head_size()));
        }
        if (config.scale_attn_by_inverse_layer_idx) {
            scale /= static_cast<float>(layer + 1);
        }
        return scale;
    }

    /// residual [B, C] += attention of x [B, C]. Writes the rows' keys and values to their caches first, so
    /// that rows of one sequence see each other.
    void forward(const Compute& compute, std::size_t layer, std::span<const Row> rows, const float* x,
                 float* residual, Workspace& work) const {
        const std::size_t C = c_proj.weight().n_inputs();
        const std::size_t D = C / n_head;
        c_attn.forward(compute, x, rows.size(), work.qkv.data(), kernels::Epilogue::store, work.packed);

        compute.pool.parallel_for(rows.size(), 8, [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin; row < end; ++row) {
                float* const query = work.qkv.data() + row * 3 * C;
                for (std::size_t i = 0; i < C; ++i) {
                    query[i] *= scale;
                }
                rows[row].cache->write(layer, rows[row].position, query + C, query + 2 * C);
            }
        });

        // Rows run inside heads: neighbouring pieces read the same keys and values.
        const std::size_t grain = rows.size() < 8 ? 1 : 8;
        compute.pool.parallel_for(n_head * rows.size(), grain, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                const std::size_t head = i / rows.size();
                const std::size_t row = i % rows.size();
                rows[row].cache->attend(compute.kernels, layer, head,
                                        work.qkv.data() + row * 3 * C + head * D, rows[row].position + 1,
                                        work.attended.data() + row * C + head * D,
                                        work.sums[row][head].data());
            }
        });

        c_proj.forward(compute, work.attended.data(), rows.size(), residual, kernels::Epilogue::add,
                       work.packed);
    }
};

} // namespace gpt2
