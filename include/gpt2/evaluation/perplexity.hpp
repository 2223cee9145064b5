// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/evaluation/scorer.hpp"
#include "gpt2/evaluation/statistics.hpp"
#include "gpt2/evaluation/token_stream.hpp"
#include "gpt2/model.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// How well a model foresees a text.

namespace gpt2::evaluation {

/// How a text longer than the context is cut; docs/evaluation.md has a drawing.
struct WindowOptions {
    std::size_t window = 0; ///< tokens that the model reads at once, at most n_positions; 0: n_positions
    /// From the beginning of a window to that of the next, 1 to window; 0: window. Each token is scored once,
    /// in the first window that can, so that from the second window on at least window - stride + 1 tokens
    /// are before it.
    std::size_t stride = 0;
    /// Begin with the token that training texts began with (bos_token_id, eos_token_id or `<|endoftext|>`),
    /// so that the first token of the text is scored too.
    bool start_token = true;
    std::size_t limit = 0; ///< tokens to score at most; 0: all
};

/// A text as passages. With window W, stride S and the tokens s[0], s[1], ... (the start token first), window
/// k reads s[kS] to s[kS + W - 1] and scores what follows each of them and was not scored before: the usual
/// protocol, of https://huggingface.co/docs/transformers/perplexity but that no window's first prediction is
/// lost, and with S = W that of lm-evaluation-harness (`get_rolling_token_windows`, context_len 1).
class SlidingWindows {
public:
    /// @param text  must outlive this
    /// @param done  windows at the beginning to leave out
    /// @throws OptionError  for a window beyond n_positions, a stride beyond the window, or a start token
    /// that
    ///                      the model does not have
    SlidingWindows(const Gpt2Model& model, std::string_view text, const WindowOptions& options = {},
                   std::uint64_t done = 0)
        : window_(options.window == 0 ? model.config().n_positions : options.window),
          stride_(options.stride == 0 ? window_ : options.stride),
          stream_(model.tokenizer(), text, start_token(model, options), tokens_before(options)),
          is_first_(done == 0) {
        if (window_ > model.config().n_positions) {
            throw OptionError(detail::concat("window: expected at most ", model.config().n_positions,
                                             ", the positions of the model, found ", window_));
        }
        if (stride_ > window_) {
            throw OptionError(
                detail::concat("stride: expected at most ", window_, ", the window, found ", stride_));
        }
        for (; done > 0; --done) {
            stream_.drop(stride_);
        }
    }

    /// The next windows, as many as go well through one pass, or none at the end. Good until the next call.
    [[nodiscard]] std::vector<Passage> next() {
        stream_.drop(passed_);
        const std::size_t count = std::max<std::size_t>(1, Scorer::rows_per_pass / window_);
        const auto tokens = stream_.peek((count - 1) * stride_ + window_ + 1);
        std::vector<Passage> passages;
        for (std::size_t begin = 0; passages.size() < count; begin += stride_) {
            const std::size_t first = is_first_ ? 1 : window_ - stride_ + 1;
            if (begin + first >= tokens.size()) {
                break;
            }
            passages.push_back({tokens.subspan(begin, std::min(window_ + 1, tokens.size() - begin)), first});
            is_first_ = false;
        }
        passed_ = passages.size() * stride_;
        return passages;
    }

private:
    [[nodiscard]] static std::optional<TokenId> start_token(const Gpt2Model& model,
                                                            const WindowOptions& options) {
        return options.start_token ? std::optional(model.encode_prompt("").front()) : std::nullopt;
    }

    /// Tokens of the stream: one more than are scored.
    [[nodiscard]] static std::size_t tokens_before(const WindowOptions& options) noexcept {
        constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
        return options.limit == 0 || options.limit == all ? all : options.limit + 1;
    }

    std::size_t window_;
    std::size_t stride_;
    TokenStream stream_;
    bool is_first_;          ///< the next window is the first of the text
    std::size_t passed_ = 0; ///< tokens that next() gave the last time and that no later window needs
};

/// What was found of a text so far. The members are the whole state: whoever stores them and goes on with
/// SlidingWindows after the same number of windows gets the same bits as without the interruption.
struct TextScore {
    RunningStatistics nll;     ///< -ln p of each token
    std::uint64_t bytes = 0;   ///< of the tokens scored
    std::uint64_t words = 0;   ///< that begin in them: what white space of ASCII separates, as `wc -w` counts
    bool inside_word = false;  ///< at the end of the last
    std::uint64_t windows = 0; ///< that are complete

    void add(std::string_view token, double token_nll) noexcept {
        nll.add(token_nll);
        bytes += token.size();
        for (const char c : token) {
            const bool space = c == ' ' || (c >= '\t' && c <= '\r');
            words += !space && !inside_word ? 1 : 0;
            inside_word = !space;
        }
    }

    /// e^(nll / tokens)
    [[nodiscard]] Estimate perplexity() const noexcept { return exponential(nll); }

    /// e^(nll / words); 0 without a word. Grows with what a tokenizer makes of a word, and so compares models
    /// of different vocabularies.
    [[nodiscard]] Estimate word_perplexity() const noexcept {
        const double tokens_per_word =
            words == 0 ? 0.0 : static_cast<double>(nll.count) / static_cast<double>(words);
        const double value = words == 0 ? 0.0 : detail::portable_exp(nll.mean * tokens_per_word);
        return {value, value * nll.standard_error() * tokens_per_word};
    }

    /// nll / (ln 2 * bytes); 0 without a byte.
    [[nodiscard]] Estimate bits_per_byte() const noexcept {
        const double factor =
            bytes == 0 ? 0.0
                       : static_cast<double>(nll.count) / (std::numbers::ln2 * static_cast<double>(bytes));
        return {nll.mean * factor, nll.standard_error() * factor};
    }

    friend bool operator==(const TextScore&, const TextScore&) = default;
};

/// Scores the next windows of a text.
/// @returns whether there were any
/// @throws NumericError  naming the place in the text, if a logit is not finite; @p score is then as before
inline bool score_next(Scorer& scorer, SlidingWindows& windows, TextScore& score) {
    const std::vector<Passage> passages = windows.next();
    std::vector<TokenScore> found;
    try {
        found = scorer.score(passages);
    } catch (const NumericError& e) {
        throw NumericError(detail::concat("after ", score.nll.count, " tokens (", score.bytes,
                                          " bytes) of the text: ", e.what()));
    }
    auto token_score = found.begin();
    for (const Passage& passage : passages) {
        for (const TokenId token : passage.tokens.subspan(passage.first)) {
            score.add(scorer.model().tokenizer().token_bytes(token), -token_score->log_probability);
            ++token_score;
        }
        ++score.windows;
    }
    return !passages.empty();
}

} // namespace gpt2::evaluation
