// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/model.hpp"
#include "gpt2/observer.hpp"
#include "gpt2/session.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// What passes compute, kept; and a text as one vector.

namespace gpt2 {

/// Keeps what it is told, by position; a position that is read again replaces what was there. One session at
/// a time.
class Recorder : public Observer {
public:
    /// What to keep; the rest is not computed, or thrown away.
    struct What {
        bool hidden_states = false;
        bool last_hidden_states = false;
        bool attention = false;
        bool logits = false;
    };

    explicit Recorder(What what) : what_(what) {}

    /// [C]; see Observer::hidden_state.
    /// @throws OptionError if nothing was kept there, as for all of them
    [[nodiscard]] std::span<const float> hidden_state_at(std::size_t layer, std::size_t position) const {
        return find(hidden_states_, "hidden state", layer, position);
    }
    /// [C]
    [[nodiscard]] std::span<const float> last_hidden_state_at(std::size_t position) const {
        return find(last_hidden_states_, "last hidden state", 0, position);
    }
    /// [position + 1]
    [[nodiscard]] std::span<const float> attention_at(std::size_t layer, std::size_t head,
                                                      std::size_t position) const {
        if (layer >= attention_.size()) {
            throw missing("attention", layer, position);
        }
        return find(attention_[layer], "attention", head, position);
    }
    /// [V]
    [[nodiscard]] std::span<const float> logits_at(std::size_t position) const {
        return find(logits_, "logits", 0, position);
    }

    void hidden_state(std::size_t layer, std::size_t position, std::span<const float> x) override {
        if (what_.hidden_states) {
            keep(hidden_states_, layer, position, x);
        }
    }
    void last_hidden_state(std::size_t position, std::span<const float> x) override {
        if (what_.last_hidden_states) {
            keep(last_hidden_states_, 0, position, x);
        }
    }
    [[nodiscard]] bool wants_attention(std::size_t /*layer*/) const override { return what_.attention; }
    void attention(std::size_t layer, std::size_t head, std::size_t position,
                   std::span<const float> weights) override {
        if (attention_.size() <= layer) {
            attention_.resize(layer + 1);
        }
        keep(attention_[layer], head, position, weights);
    }
    void logits(std::size_t position, std::span<const float> logits) override {
        if (what_.logits) {
            keep(logits_, 0, position, logits);
        }
    }

private:
    using Rows = std::vector<std::vector<std::vector<float>>>; ///< [layer or head][position]

    static void keep(Rows& rows, std::size_t which, std::size_t position, std::span<const float> values) {
        if (rows.size() <= which) {
            rows.resize(which + 1);
        }
        if (rows[which].size() <= position) {
            rows[which].resize(position + 1);
        }
        rows[which][position].assign(values.begin(), values.end());
    }

    [[nodiscard]] static OptionError missing(std::string_view name, std::size_t which, std::size_t position) {
        return OptionError(detail::concat("Recorder: expected a position that was observed, found no ", name,
                                          " of ", which, " at position ", position));
    }

    [[nodiscard]] static std::span<const float> find(const Rows& rows, std::string_view name,
                                                     std::size_t which, std::size_t position) {
        if (which >= rows.size() || position >= rows[which].size() || rows[which][position].empty()) {
            throw missing(name, which, position);
        }
        return rows[which][position];
    }

    What what_;
    Rows hidden_states_;
    Rows last_hidden_states_;
    std::vector<Rows> attention_; ///< by layer
    Rows logits_;
};

/// How the vectors of tokens become that of a text.
enum class Pooling {
    mean, ///< their mean
    last, ///< the last one, which has seen all the others
};

/// A text as one vector [C], of the hidden states behind `ln_f`.
/// @throws OptionError for no tokens, else as gpt2::forward
[[nodiscard]] inline std::vector<float> embed(const Gpt2Model& model, std::span<const TokenId> tokens,
                                              Pooling pooling = Pooling::mean, SessionOptions options = {}) {
    if (tokens.empty()) {
        throw OptionError("embed: expected at least one token, found none");
    }
    const auto recorder = std::make_shared<Recorder>(Recorder::What{.last_hidden_states = true});
    options.observer = recorder;
    Session session(model, options);
    const BatchItem item{&session, tokens, Logits::none};
    forward({&item, 1});
    const std::span<const float> last = recorder->last_hidden_state_at(tokens.size() - 1);
    if (pooling == Pooling::last) {
        return {last.begin(), last.end()};
    }
    std::vector<double> sum(last.size());
    for (std::size_t position = 0; position < tokens.size(); ++position) {
        const std::span<const float> x = recorder->last_hidden_state_at(position);
        for (std::size_t i = 0; i < x.size(); ++i) {
            sum[i] += static_cast<double>(x[i]);
        }
    }
    std::vector<float> mean(sum.size());
    for (std::size_t i = 0; i < sum.size(); ++i) {
        mean[i] = static_cast<float>(sum[i] / static_cast<double>(tokens.size()));
    }
    return mean;
}

/// The same of a text.
[[nodiscard]] inline std::vector<float> embed(const Gpt2Model& model, std::string_view text,
                                              Pooling pooling = Pooling::mean,
                                              const SessionOptions& options = {}) {
    return embed(model, std::span<const TokenId>(model.tokenizer().encode(text)), pooling, options);
}

} // namespace gpt2
