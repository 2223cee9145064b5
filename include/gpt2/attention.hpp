// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/kv_cache.hpp"
#include "gpt2/linear.hpp"
#include "gpt2/observer.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

/// @file
/// Causal self-attention with several heads.

namespace gpt2 {

/// One token on its way through the model: rows of any sequences, in any mixture, share a pass. The rows
/// of one sequence lie side by side in the order of their positions.
struct Row {
    TokenId token = 0;
    std::size_t position = 0;
    KvCache* cache = nullptr; ///< of the token's sequence, filled up to the first of its rows
    bool wants_logits = false;
    Observer* observer = nullptr; ///< of the token's sequence, if it has one
};

/// Rows of one sequence that go through attention together: up to 16, within a multiple of 16 positions.
struct QueryBlock {
    std::size_t first = 0; ///< row
    std::size_t n_rows = 0;
    bool alone = false; ///< no other rows of the pass are of the same sequence

    /// Splits @p rows into @p blocks, those with most work first.
    static void split(std::span<const Row> rows, std::vector<QueryBlock>& blocks) {
        constexpr std::size_t most = 16;
        blocks.clear();
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const bool begins = row == 0 || rows[row].cache != rows[row - 1].cache;
            if (begins || rows[row].position % most == 0) {
                blocks.push_back({.first = row, .n_rows = 0, .alone = begins});
                if (!begins) {
                    blocks[blocks.size() - 2].alone = false;
                }
            }
            ++blocks.back().n_rows;
        }
        const auto work = [rows](const QueryBlock& block) {
            return block.n_rows * (rows[block.first].position + block.n_rows);
        };
        std::ranges::sort(blocks, std::ranges::greater(), work);
    }
};

/// Memory of a forward pass for up to B rows. One pass at a time.
struct Workspace {
    Workspace() = default;
    Workspace(const Config& config, std::size_t n_rows)
        : rows(n_rows), x({rows, config.n_embd}), normed({rows, config.n_embd}),
          qkv({rows, 3 * config.n_embd}), attended({rows, config.n_embd}),
          scratch({config.n_head, rows, 2 * kernels::padded_head_size(config.head_size())}),
          inner({rows, config.n_inner}) {}

    std::size_t rows = 0;      ///< B
    Tensor<float, 2> x;        ///< [B, C], the residual stream
    Tensor<float, 2> normed;   ///< [B, C]
    Tensor<float, 2> qkv;      ///< [B, 3 C], queries, keys and values
    Tensor<float, 2> attended; ///< [B, C], the heads' outputs side by side
    Tensor<float, 3> scratch;  ///< [H, B, 2 padded D]
    Tensor<float, 2> inner;    ///< [B, F]
    std::vector<QueryBlock> query_blocks;
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
        {
            const Profile::Span span(compute.profile, "attn.c_attn");
            c_attn.forward(compute, x, rows.size(), work.qkv.data(), kernels::Epilogue::store, work.packed);
        }
        {
            const Profile::Span span(compute.profile, "attention");
            QueryBlock::split(rows, work.query_blocks);
            attend(compute, layer, rows, work);
        }
        const Profile::Span span(compute.profile, "attn.c_proj");
        c_proj.forward(compute, work.attended.data(), rows.size(), residual, kernels::Epilogue::add,
                       work.packed);
    }

private:
    /// From queries, keys and values to the heads' outputs. What a sequence writes in several blocks must be
    /// complete before any is read; a block alone is written by whom reads it.
    void attend(const Compute& compute, std::size_t layer, std::span<const Row> rows, Workspace& work) const {
        const std::span<const QueryBlock> blocks = work.query_blocks;
        const auto for_each = [&](auto&& body) { // blocks run inside heads: neighbours read the same
            const std::size_t pieces = n_head * blocks.size();
            const std::size_t grain = std::max<std::size_t>(1, pieces / (compute.pool.size() * 32));
            compute.pool.parallel_for(pieces, grain, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i) {
                    body(blocks[i % blocks.size()], i / blocks.size());
                }
            });
        };
        if (!std::ranges::all_of(blocks, &QueryBlock::alone)) {
            for_each([&](const QueryBlock& block, std::size_t head) {
                if (!block.alone) {
                    write(compute, layer, head, rows[block.first], block, work);
                }
            });
        }
        for_each([&](const QueryBlock& block, std::size_t head) {
            const Row& row = rows[block.first];
            if (block.alone) {
                write(compute, layer, head, row, block, work);
            }
            const std::size_t C = work.attended.dim(1);
            row.cache->attend(compute.kernels, layer, head,
                              {.queries = work.qkv[block.first].data() + head * (C / n_head),
                               .query_stride = 3 * C,
                               .n_queries = block.n_rows,
                               .n_positions = row.position + 1,
                               .scale = scale,
                               .out = work.attended[block.first].data() + head * (C / n_head),
                               .out_stride = C,
                               .scratch = work.scratch[head][block.first].data()});
        });
    }

    void write(const Compute& compute, std::size_t layer, std::size_t head, const Row& row,
               const QueryBlock& block, const Workspace& work) const {
        const std::size_t C = work.attended.dim(1);
        const float* const keys = work.qkv[block.first].data() + C + head * (C / n_head);
        row.cache->write(compute.kernels, layer, head,
                         {.keys = keys,
                          .values = keys + C,
                          .row_stride = 3 * C,
                          .n_rows = block.n_rows,
                          .position = row.position});
    }
};

} // namespace gpt2
