// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/attention.hpp"
#include "gpt2/config.hpp"
#include "gpt2/layer_norm.hpp"
#include "gpt2/linear.hpp"
#include "gpt2/mlp.hpp"
#include "gpt2/observe.hpp"
#include "gpt2/screened_head.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

/// @file
/// The network: the one forward pass, from token ids to logits.

namespace gpt2 {

/// A transformer block. Names are those of the checkpoint.
struct Block {
    LayerNorm ln_1;
    Attention attn;
    LayerNorm ln_2;
    Mlp mlp;
};

/// What a pass shall do with the output head of the one row that wants logits, where the model has a screen.
struct ScreeningRequest {
    Candidates wanted;
    ScreenedHead::State& state; ///< receives the logits
    float* x;                   ///< [C], receives what the head was given
};

/// The weights of a model and the function they define. Immutable once loaded, thread-safe.
struct Transformer {
    Config config;
    PackedMatrix wte; ///< token embeddings, one output per token; the same memory as lm_head if tied
    SharedTensor<float, 2> wpe; ///< [T, C or more] position embeddings
    std::vector<Block> h;
    LayerNorm ln_f;
    Linear lm_head;                     ///< C -> V
    std::optional<ScreenedHead> screen; ///< of lm_head, if asked for

    /// One pass over the rows. @p logits [n, V] receives those of the rows that want them, in order; with
    /// @p screening, which needs a screen and one such row, its state does.
    /// Caches grow by what is written at the rows' positions; whose they are must not run another pass.
    /// @throws NumericError if keys or values exceed the type of a cache
    /// @throws Interrupted  if Compute::interrupt says so, before a layer or the head
    void forward(const Compute& compute, std::span<const Row> rows, Workspace& work, float* logits,
                 const ScreeningRequest* screening = nullptr) const {
        const std::size_t C = config.n_embd;
        float* const x = work.x.data();
        float* const normed = work.normed.data();
        detail::Observation observation(rows);

        embed(compute, rows, x);
        observation.hidden_states(0, work.x);
        for (std::size_t layer = 0; layer < h.size(); ++layer) {
            compute.check_interrupt();
            const Profile::Span span(compute.profile, "h", layer);
            const Block& block = h[layer];
            block.ln_1.forward(compute, x, rows.size(), normed);
            block.attn.forward(compute, layer, rows, normed, x, work);
            observation.attention(compute, layer, block.attn, work);
            block.ln_2.forward(compute, x, rows.size(), normed);
            block.mlp.forward(compute, normed, rows.size(), x, work.inner.data(), work.packed);
            observation.hidden_states(layer + 1, work.x);
        }
        observation.last_hidden_states(compute, ln_f, work.x);

        compute.check_interrupt();
        std::size_t wanted = 0;
        for (std::size_t row = 0; row < rows.size(); ++row) {
            if (rows[row].wants_logits) {
                std::memcpy(normed + wanted++ * C, x + row * C, C * sizeof(float));
            }
        }
        if (wanted != 0) {
            ln_f.forward(compute, normed, wanted, normed);
        }
        const Profile::Span span(wanted != 0 ? compute.profile : nullptr, "lm_head");
        if (screening != nullptr) {
            std::memcpy(screening->x, normed, C * sizeof(float));
            screen->forward(compute, lm_head, normed, screening->wanted, screening->state);
        } else if (wanted != 0) {
            lm_head.forward(compute, normed, wanted, logits, kernels::Epilogue::store, work.packed);
            observation.logits(logits, config.vocab_size);
        }
    }

    /// Bytes of weights that one decoding step reads.
    [[nodiscard]] std::size_t bytes_read() const noexcept {
        std::size_t bytes = lm_head.weight().bytes();
        for (const Block& block : h) {
            bytes += block.attn.c_attn.weight().bytes() + block.attn.c_proj.weight().bytes() +
                     block.mlp.c_fc.weight().bytes() + block.mlp.c_proj.weight().bytes();
        }
        return bytes;
    }

    /// Whether all matrices are stored in float32.
    [[nodiscard]] bool is_float32() const noexcept {
        const auto is = [](const PackedMatrix& matrix) { return matrix.type() == WeightType::float32; };
        return is(wte) && is(lm_head.weight()) && std::ranges::all_of(h, [is](const Block& block) {
                   return is(block.attn.c_attn.weight()) && is(block.attn.c_proj.weight()) &&
                          is(block.mlp.c_fc.weight()) && is(block.mlp.c_proj.weight());
               });
    }

private:
    /// x [B, C] = wte[token] + wpe[position]
    void embed(const Compute& compute, std::span<const Row> rows, float* x) const {
        const Profile::Span span(compute.profile, "embed");
        const std::size_t C = config.n_embd;
        compute.pool.parallel_for(rows.size(), 8, [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin; row < end; ++row) {
                float* const out = x + row * C;
                wte.read_output(static_cast<std::size_t>(rows[row].token), out);
                const auto position = wpe[rows[row].position];
                for (std::size_t i = 0; i < C; ++i) {
                    out[i] += position[i];
                }
            }
        });
    }
};

} // namespace gpt2
