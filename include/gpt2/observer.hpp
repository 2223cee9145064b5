// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

/// @file
/// Looking into forward passes.

namespace gpt2 {

/// Is told what passes compute for the rows of one session; give it to SessionOptions::observer. A session
/// without one pays a comparison per layer.
///
/// The functions are called in the thread that runs the pass, layer by layer and in the order of positions.
/// Views are good during the call only. What one throws ends the pass: no session moves, and the exception
/// reaches the caller. While a pass runs, an observer must not use a session that takes part in it. After
/// Session::truncate() positions come again.
class Observer {
public:
    virtual ~Observer() = default;

    /// The residual stream [C]: before the first block for @p layer 0, where it is the sum of both
    /// embeddings, and behind the l-th block for l = 1 .. n_layer.
    virtual void hidden_state(std::size_t /*layer*/, std::size_t /*position*/, std::span<const float> /*x*/) {
    }

    /// What the output head is given [C]: the last of the hidden states behind `ln_f`. (Hugging Face has it
    /// in the place of hidden state n_layer.)
    virtual void last_hidden_state(std::size_t /*position*/, std::span<const float> /*x*/) {}

    /// Whether attention() shall be called for a block, counted from 0. The weights are computed for it
    /// alone: attention itself never has them in one place.
    [[nodiscard]] virtual bool wants_attention(std::size_t /*layer*/) const { return false; }

    /// How much of each position 0 .. position goes into this one: softmax(q k / sqrt(D)) from the keys as
    /// the cache holds them, in double.
    virtual void attention(std::size_t /*layer*/, std::size_t /*head*/, std::size_t /*position*/,
                           std::span<const float> /*weights*/) {}

    /// Logits [V] after a position, where they were asked for.
    virtual void logits(std::size_t /*position*/, std::span<const float> /*logits*/) {}

protected:
    Observer() = default;
    Observer(const Observer&) = default;
    Observer& operator=(const Observer&) = default;
};

} // namespace gpt2
