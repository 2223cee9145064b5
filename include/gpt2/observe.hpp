// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/attention.hpp"
#include "gpt2/layer_norm.hpp"
#include "gpt2/observer.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

/// @file
/// How a forward pass tells the observers of its rows.

namespace gpt2::detail {

/// Calls the observers of one pass. Costs a comparison per call where there are none.
class Observation {
public:
    explicit Observation(std::span<const Row> rows)
        : rows_(rows),
          any_(std::ranges::any_of(rows, [](const Row& row) { return row.observer != nullptr; })) {}

    /// @param x  [B, C]
    void hidden_states(std::size_t layer, const Tensor<float, 2>& x) const {
        for_each([&](std::size_t row, Observer& observer) {
            observer.hidden_state(layer, rows_[row].position, x[row].flat());
        });
    }

    /// After a block's attention, of which @p work still has the queries.
    void attention(const Compute& compute, std::size_t layer, const Attention& attention,
                   const Workspace& work) {
        for_each([&](std::size_t row, Observer& observer) {
            if (observer.wants_attention(layer)) {
                weigh(compute, layer, attention, rows_[row], work.qkv[row].data());
                const std::size_t n = rows_[row].position + 1;
                for (std::size_t head = 0; head < attention.n_head; ++head) {
                    observer.attention(layer, head, n - 1, std::span(weights_).subspan(head * n, n));
                }
            }
        });
    }

    /// @param x  [B, C], behind the last block
    void last_hidden_states(const Compute& compute, const LayerNorm& ln_f, const Tensor<float, 2>& x) {
        for_each([&](std::size_t row, Observer& observer) {
            weights_.resize(x.dim(1));
            ln_f.forward(compute, x[row].data(), 1, weights_.data());
            observer.last_hidden_state(rows_[row].position, weights_);
        });
    }

    /// @param logits  [n, V] of the rows that want them
    void logits(const float* logits, std::size_t vocab_size) const {
        for_each([&](std::size_t row, Observer& observer) {
            if (rows_[row].wants_logits) {
                const auto before = std::ranges::count(rows_.first(row), true, &Row::wants_logits);
                observer.logits(rows_[row].position,
                                {logits + static_cast<std::size_t>(before) * vocab_size, vocab_size});
            }
        });
    }

private:
    template <class Body> void for_each(Body&& body) const {
        if (!any_) {
            return;
        }
        for (std::size_t row = 0; row < rows_.size(); ++row) {
            if (rows_[row].observer != nullptr) {
                body(row, *rows_[row].observer);
            }
        }
    }

    /// Leaves softmax(scale q k) [H, n] of one row in weights_.
    void weigh(const Compute& compute, std::size_t layer, const Attention& attention, const Row& row,
               const float* queries) {
        const std::size_t n = row.position + 1;
        const std::size_t D = row.cache->head_size();
        weights_.resize(attention.n_head * n);
        compute.pool.parallel_for(attention.n_head, 1, [&](std::size_t begin, std::size_t end) {
            std::vector<double> scores(n);
            for (std::size_t head = begin; head < end; ++head) {
                const std::vector<float> keys = row.cache->keys(layer, head, n);
                for (std::size_t i = 0; i < n; ++i) {
                    double dot = 0.0;
                    for (std::size_t d = 0; d < D; ++d) {
                        dot +=
                            static_cast<double>(queries[head * D + d]) * static_cast<double>(keys[i * D + d]);
                    }
                    scores[i] = dot * static_cast<double>(attention.scale);
                }
                softmax(scores, weights_.data() + head * n);
            }
        });
    }

    static void softmax(std::vector<double>& scores, float* out) {
        const double largest = *std::ranges::max_element(scores);
        double sum = 0.0;
        for (double& score : scores) {
            score = std::exp(score - largest);
            sum += score;
        }
        for (const double score : scores) {
            *out++ = static_cast<float>(score / sum);
        }
    }

    std::span<const Row> rows_;
    bool any_;
    std::vector<float> weights_; ///< of one row, or its last hidden state
};

} // namespace gpt2::detail
