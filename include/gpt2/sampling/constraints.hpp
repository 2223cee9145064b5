// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/sampling/processor.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Processors that forbid, force or favour tokens that the user names. s is the score of a token.

namespace gpt2::sampling {

/// Whether the last token of @p sequence would complete it. Like Hugging Face's, this needs a context at
/// least as long as the sequence, although one token less would do.
[[nodiscard]] inline bool completes(std::span<const TokenId> sequence, std::span<const TokenId> tokens) {
    const auto begin = sequence.first(sequence.size() - 1);
    return begin.empty() ||
           (sequence.size() <= tokens.size() &&
            std::equal(begin.begin(), begin.end(), tokens.end() - static_cast<std::ptrdiff_t>(begin.size())));
}

/// s = s + b for the last token of a sequence when the text ends with the tokens before it.
///
/// Hugging Face's SequenceBiasLogitsProcessor.
class SequenceBias final : public Processor {
public:
    explicit SequenceBias(const std::map<std::vector<TokenId>, float>& biases)
        : biases_(biases.begin(), biases.end()) {}

    void apply(Scores& scores, const Context& context) override {
        for (const auto& [sequence, bias] : biases_) {
            float* const s = completes(sequence, context.tokens) ? scores.find(sequence.back()) : nullptr;
            if (s != nullptr) {
                *s = bounded(static_cast<double>(*s) + static_cast<double>(bias));
            }
        }
    }

private:
    std::vector<std::pair<std::vector<TokenId>, float>> biases_;
};

/// s = s + b for a token. OpenAI's API reference, "logit_bias"; llama.cpp's llama_sampler_logit_bias.
class LogitBias final : public Processor {
public:
    explicit LogitBias(const std::map<TokenId, float>& biases) : biases_(biases.begin(), biases.end()) {}

    void apply(Scores& scores, const Context&) override {
        for (const auto& [token, bias] : biases_) {
            if (float* const s = scores.find(token)) {
                *s = bounded(static_cast<double>(*s) + static_cast<double>(bias));
            }
        }
    }

private:
    std::vector<std::pair<TokenId, float>> biases_;
};

/// Forbids the last token of a sequence when the text ends with the tokens before it.
///
/// Hugging Face's NoBadWordsLogitsProcessor.
class BadWords final : public Processor {
public:
    explicit BadWords(std::vector<std::vector<TokenId>> sequences) : sequences_(std::move(sequences)) {}

    void apply(Scores& scores, const Context& context) override {
        for (const std::vector<TokenId>& sequence : sequences_) {
            if (completes(sequence, context.tokens)) {
                scores.forbid(sequence.back());
            }
        }
    }

private:
    std::vector<std::vector<TokenId>> sequences_;
};

/// Forbids tokens. Hugging Face's SuppressTokensLogitsProcessor.
class SuppressTokens final : public Processor {
public:
    explicit SuppressTokens(std::vector<TokenId> tokens) : tokens_(std::move(tokens)) {}

    void apply(Scores& scores, const Context&) override {
        for (const TokenId token : tokens_) {
            scores.forbid(token);
        }
    }

private:
    std::vector<TokenId> tokens_;
};

/// Forbids tokens at one place of the text. Hugging Face's SuppressTokensAtBeginLogitsProcessor.
class SuppressTokensAt final : public Processor {
public:
    /// @param index  of the new token; 0 for the first
    SuppressTokensAt(std::vector<TokenId> tokens, std::size_t index)
        : tokens_(std::move(tokens)), index_(index) {}

    void apply(Scores& scores, const Context& context) override {
        if (context.n_new == index_) {
            for (const TokenId token : tokens_) {
                scores.forbid(token);
            }
        }
    }

private:
    std::vector<TokenId> tokens_;
    std::size_t index_;
};

/// Leaves one token at one place of the text. Hugging Face's ForcedBOSTokenLogitsProcessor, with the first
/// place, and ForcedEOSTokenLogitsProcessor, with the last.
class ForcedToken final : public Processor {
public:
    /// @param index  of the new token; 0 for the first
    ForcedToken(TokenId token, std::size_t index) : token_(token), index_(index) {}

    void apply(Scores& scores, const Context& context) override {
        if (context.n_new == index_) {
            scores.keep_only(token_);
        }
    }

private:
    TokenId token_;
    std::size_t index_;
};

/// Forbids the end of the text for the first n new tokens. Hugging Face's MinNewTokensLengthLogitsProcessor.
class MinNewTokens final : public Processor {
public:
    MinNewTokens(std::size_t n, TokenId eos) : n_(n), eos_(eos) {}

    void apply(Scores& scores, const Context& context) override {
        if (context.n_new < n_) {
            scores.forbid(eos_);
        }
    }

private:
    std::size_t n_;
    TokenId eos_;
};

/// When the end of the text becomes more probable, and how fast.
struct ExponentialDecay {
    std::int64_t start = 0; ///< new tokens that cost nothing
    float factor = 1.0f;    ///< above 0; above 1 the end draws nearer with each token

    friend bool operator==(const ExponentialDecay&, const ExponentialDecay&) = default;
};

/// s = s + |s| (f^(n - start) - 1) for the end of the text, after n > start new tokens.
///
/// Hugging Face's ExponentialDecayLengthPenalty. A forbidden end stays forbidden, where theirs becomes NaN.
class ExponentialDecayLengthPenalty final : public Processor {
public:
    ExponentialDecayLengthPenalty(const ExponentialDecay& options, TokenId eos)
        : start_(static_cast<std::size_t>(options.start)), factor_(static_cast<double>(options.factor)),
          eos_(eos) {}

    void apply(Scores& scores, const Context& context) override {
        float* const s = context.n_new > start_ ? scores.find(eos_) : nullptr;
        if (s == nullptr || !detail::is_finite(*s)) {
            return;
        }
        double power = 1.0;
        for (std::size_t i = start_; i < context.n_new; ++i) {
            power = std::min(power * factor_, most);
        }
        const auto score = static_cast<double>(*s);
        *s = bounded(std::fma(std::fabs(score), power - 1.0, score));
    }

private:
    static constexpr double most = 1e200; // a score times this is still a double

    std::size_t start_;
    double factor_;
    TokenId eos_;
};

/// What a user may do to the scores himself: called for each token with those of the prompt and the text so
/// far, and with the scores [V], of which -infinity forbids a token.
using LogitsProcessor = std::function<void(std::span<const TokenId> tokens, std::span<float> scores)>;

/// Runs the user's own processors, one after the other. Hugging Face's `logits_processor`.
class LogitsProcessors final : public Processor {
public:
    explicit LogitsProcessors(std::vector<LogitsProcessor> list) : list_(std::move(list)) {}

    /// @throws NumericError naming the processor that leaves NaN, +infinity or nothing, and what they throw
    void apply(Scores& scores, const Context& context) override {
        for (std::size_t i = 0; i < list_.size(); ++i) {
            const std::span<float> all = scores.all();
            list_[i](context.tokens, all);
            if (!detail::all_below_infinity(all)) {
                const auto bad = std::find_if_not(
                    all.begin(), all.end(), [](float s) { return s <= std::numeric_limits<float>::max(); });
                throw NumericError(detail::concat("logits_processors[", i, "]: the score of token ",
                                                  bad - all.begin(), " is ", *bad,
                                                  ", expected a finite number or -infinity"));
            }
            if (!scores.any_allowed()) {
                throw NumericError(detail::concat("logits_processors[", i,
                                                  "]: all scores are -infinity: no token is allowed"));
            }
        }
    }

private:
    std::vector<LogitsProcessor> list_;
};

} // namespace gpt2::sampling
