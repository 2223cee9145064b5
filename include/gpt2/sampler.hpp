// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/sampling/chain.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// @file
/// From a row of logits to one token. The processors and their meaning are in sampling/, a header for each
/// family, with formula and source at each; sampling/order.hpp has the order. Then one of the tokens that
/// remain is drawn in proportion to e^s. Everything that decides a token is arithmetic with one result: float
/// subtraction, division and ExpShifted for e^((s - max) / t), sums in double.

namespace gpt2 {

/// The most used of GenerationConfig's options as plain numbers; a neutral value switches a processor off.
/// The ranges are checked by gpt2::validate, not here.
struct SamplerOptions {
    bool do_sample = false;   ///< false: the largest logit, the lowest id on ties
    float temperature = 1.0f; ///< 0 means greedy too
    std::size_t top_k = 0;    ///< 0: all
    float top_p = 1.0f;
    float min_p = 0.0f;
    float repetition_penalty = 1.0f;
};

namespace detail {

[[nodiscard]] inline GenerationConfig config_of(const SamplerOptions& options) {
    constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
    return {.do_sample = options.do_sample,
            .temperature = options.temperature,
            .top_k = static_cast<std::int64_t>(std::min(options.top_k, most)),
            .top_p = options.top_p,
            .min_p = options.min_p,
            .repetition_penalty = options.repetition_penalty};
}

} // namespace detail

/// Chooses tokens for one text. Holds the buffers that this needs, so nothing is allocated per token but by
/// processors that read the text: it is kept for them. One caller at a time.
class Sampler {
public:
    /// @param exp the vector kernel of the machine, see ExpShifted
    Sampler(const SamplerOptions& options, std::size_t vocab_size,
            ExpShifted exp = detail::exp_shifted_portable)
        : Sampler(detail::config_of(options), sampling::Vocabulary{vocab_size, {}, {}}, exp) {}

    /// @param config  passed gpt2::validate
    /// @param exp     the vector kernel of the machine, see ExpShifted
    /// @throws OptionError if a forced token is not in @p vocabulary
    Sampler(const GenerationConfig& config, const sampling::Vocabulary& vocabulary,
            ExpShifted exp = detail::exp_shifted_portable)
        : vocab_size_(vocabulary.size), greedy_(sampling::is_greedy(config)),
          scores_(vocabulary.size, exp, !greedy_) {
        for (const sampling::ProcessorKind kind : sampling::processors_of(config)) {
            chain_.push_back({kind, sampling::make_processor(kind, config, vocabulary, exp)});
            keeps_text_ = keeps_text_ || reads_text(kind);
        }
        if (std::any_of(chain_.begin(), chain_.end(),
                        [](const Link& link) { return reads_counts(link.kind); })) {
            counts_ = sampling::TokenCounts(vocab_size_, config.penalty_last_n);
        }
        find_candidates(config);
    }

    /// True if the tokens do not depend on random numbers.
    [[nodiscard]] bool greedy() const noexcept { return greedy_; }

    /// Tells of the tokens of the prompt, from the first to the last.
    /// @throws OptionError on an id outside the vocabulary
    void note(std::span<const TokenId> tokens) {
        for (const TokenId token : tokens) {
            if (token < 0 || static_cast<std::size_t>(token) >= vocab_size_) {
                throw OptionError(detail::concat("token ", token, ": expected an id below ", vocab_size_));
            }
            counts_.note(token);
        }
        if (keeps_text_) {
            text_.insert(text_.end(), tokens.begin(), tokens.end());
        }
    }

    /// Tells of the next token of the text.
    /// @throws as note()
    void accept(TokenId token) {
        note({&token, 1});
        ++n_new_;
    }

    /// Starts again with another text, of which there are already some tokens.
    /// @throws as note()
    void restart(std::span<const TokenId> prompt, std::span<const TokenId> text) {
        counts_.clear();
        text_.clear();
        note(prompt);
        note(text);
        n_new_ = text.size();
    }

    /// What of the logits decides the next token; nothing if all of them do. Whoever gives next() -infinity
    /// for the others gets the same token: a greedy choice is the first of the largest, and top_k, where it
    /// is the first processor that looks at more than one logit, drops the others. Good until the next
    /// note().
    [[nodiscard]] std::optional<Candidates> candidates() const noexcept {
        if (!candidates_) {
            return std::nullopt;
        }
        Candidates wanted = *candidates_;
        wanted.penalized = counts_.seen();
        return wanted;
    }

    /// The next token.
    /// @param logits [V]; -infinity forbids a token
    /// @param u      a random number in [0, 1), for instance gpt2::uniform; not used when greedy()
    /// @param u_xtc  another one, for the option xtc
    /// @param unguided  [V] the logits after the negative prompt and the text, for the option guidance_scale
    /// @throws NumericError if a logit is NaN or +infinity, or no token is allowed, naming the processor that
    ///         forbade the last
    [[nodiscard]] TokenId next(std::span<const float> logits, double u, double u_xtc = 0.0,
                               std::span<const float> unguided = {}) {
        process(logits, u_xtc, unguided);
        if (greedy_) {
            return scores_.id(static_cast<std::size_t>(detail::argmax(scores_.values())));
        }
        const double whole = scores_.total();
        const std::size_t i = draw(u * whole);
        for (const Link& link : chain_) {
            link.processor->chosen(static_cast<double>(scores_.weights()[i]) / whole);
        }
        return scores_.id(i);
    }

    /// The scores of all tokens after the processors, [V]; -infinity for one that may not be chosen. Good
    /// until the next call that is not const.
    /// @param logits  [V], or what shall take their place
    /// @throws as next()
    [[nodiscard]] std::span<const float> scores(std::span<const float> logits, double u_xtc = 0.0) {
        process(logits, u_xtc, {});
        return scores_.all();
    }

    /// The distribution that next() draws from, [V], for a look inside; it allocates. When greedy,
    /// everything is on one token.
    [[nodiscard]] std::vector<double> probabilities(std::span<const float> logits, double u_xtc = 0.0,
                                                    std::span<const float> unguided = {}) {
        std::vector<double> out(vocab_size_);
        process(logits, u_xtc, unguided);
        if (greedy_) {
            const auto best = static_cast<std::size_t>(detail::argmax(scores_.values()));
            out[static_cast<std::size_t>(scores_.id(best))] = 1.0;
            return out;
        }
        const double whole = scores_.total();
        const std::span<const float> weights = scores_.weights();
        for (std::size_t i = 0; i < weights.size(); ++i) {
            out[static_cast<std::size_t>(scores_.id(i))] = static_cast<double>(weights[i]) / whole;
        }
        return out;
    }

private:
    using Kind = sampling::ProcessorKind;

    struct Link {
        Kind kind;
        std::unique_ptr<sampling::Processor> processor;
    };

    [[nodiscard]] static constexpr bool reads_counts(Kind kind) noexcept {
        return kind == Kind::repetition_penalty || kind == Kind::presence_penalty ||
               kind == Kind::frequency_penalty;
    }

    [[nodiscard]] static constexpr bool reads_text(Kind kind) noexcept {
        return kind == Kind::sequence_bias || kind == Kind::dry || kind == Kind::no_repeat_ngram_size ||
               kind == Kind::bad_words_ids || kind == Kind::logits_processors || kind == Kind::constraint;
    }

    /// Whether a repetition penalty, a temperature and top_k, or less, stand before everything else.
    void find_candidates(const GenerationConfig& config) noexcept {
        auto link = chain_.begin();
        Candidates wanted{1, vocab_size_, 1.0f, {}};
        if (link != chain_.end() && link->kind == Kind::repetition_penalty) {
            wanted.repetition_penalty = *config.repetition_penalty;
            ++link;
        }
        if (!greedy_) {
            link += link != chain_.end() && link->kind == Kind::temperature ? 1 : 0;
            if (link == chain_.end() || link->kind != Kind::top_k) {
                return;
            }
            wanted.k = static_cast<std::size_t>(*config.top_k);
        } else if (link != chain_.end()) {
            return;
        }
        if (wanted.k < vocab_size_) {
            candidates_ = wanted;
        }
    }

    void process(std::span<const float> logits, double uniform, std::span<const float> unguided) {
        check(logits);
        scores_.begin(logits);
        const sampling::Context context{text_, n_new_, counts_, uniform, unguided};
        for (const Link& link : chain_) {
            link.processor->apply(scores_, context);
            if (!scores_.any_allowed()) {
                fail_without_token(link);
            }
        }
    }

    /// @param last  who forbade the last token; what a constraint allows, only others may have forbidden
    [[noreturn]] GPT2_COLD void fail_without_token(const Link& last) const {
        std::string others;
        for (auto link = chain_.begin(); link->kind != last.kind; ++link) {
            others += detail::concat(others.empty() ? " and " : ", ", to_string(link->kind));
        }
        throw NumericError(detail::concat("all scores are -infinity after ", to_string(last.kind),
                                          last.kind == Kind::constraint ? others : std::string(),
                                          ": no token is allowed"));
    }

    void check(std::span<const float> logits) const {
        if (logits.size() != vocab_size_ || logits.empty()) {
            throw OptionError(detail::concat("expected ", vocab_size_, " logits, found ", logits.size()));
        }
        if (detail::all_finite(logits)) {
            return;
        }
        constexpr float largest = std::numeric_limits<float>::max();
        if (!detail::all_below_infinity(logits)) {
            const auto bad =
                std::find_if_not(logits.begin(), logits.end(), [&](float x) { return x <= largest; });
            throw NumericError(detail::concat("the logit of token ", bad - logits.begin(), " is ", *bad,
                                              ", expected a finite number or -infinity"));
        }
        if (detail::max_of(logits) < -largest) {
            throw NumericError("all logits are -infinity: no token is allowed");
        }
    }

    /// The first of the tokens that remain at which the sum of weights passes @p target.
    [[nodiscard]] std::size_t draw(double target) {
        const std::span<const float> weights = scores_.weights();
        double sum = 0.0;
        std::size_t last = 0;
        for (std::size_t i = 0; i < weights.size(); ++i) {
            if (weights[i] > 0.0f) {
                sum += static_cast<double>(weights[i]);
                last = i;
                if (sum > target) {
                    break;
                }
            }
        }
        return last;
    }

    std::size_t vocab_size_;
    bool greedy_;
    sampling::Scores scores_;
    std::vector<Link> chain_;
    sampling::TokenCounts counts_;
    bool keeps_text_ = false;
    std::vector<TokenId> text_; ///< with the prompt; empty if nobody reads it
    std::size_t n_new_ = 0;
    std::optional<Candidates> candidates_; ///< but for the tokens that the penalty is for
};

} // namespace gpt2
