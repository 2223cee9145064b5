// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/floating_point.hpp"
#include "gpt2/generation_checks.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/random.hpp"
#include "gpt2/sampler.hpp"
#include "gpt2/sampling/dry_breakers.hpp"
#include "gpt2/text_stream.hpp"
#include "gpt2/token_logprobs.hpp"
#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Generation without a model: what comes in is logits, what goes out is tokens and text. The loop
/// around it is Session::generate.

namespace gpt2 {

/// What a callback answers.
enum class Flow { proceed, stop };

/// Why a text ended.
enum class FinishReason {
    length,      ///< max_new_tokens were generated
    eos,         ///< the model ended the text
    stop_string, ///< one of stop_strings came up
    callback,    ///< the callback answered Flow::stop
    max_time,    ///< GenerationConfig::max_time was over
    cancelled,   ///< GenerationConfig::cancellation asked for it
};

[[nodiscard]] constexpr std::string_view to_string(FinishReason reason) noexcept {
    switch (reason) {
    case FinishReason::length:
        return "length";
    case FinishReason::eos:
        return "eos";
    case FinishReason::stop_string:
        return "stop_string";
    case FinishReason::callback:
        return "callback";
    case FinishReason::max_time:
        return "max_time";
    case FinishReason::cancelled:
        return "cancelled";
    }
    return "unknown";
}

/// What a callback is told, once for each token. The views are good during the call only.
struct GeneratedToken {
    TokenId id;
    /// What became certain of the text with this token: valid UTF-8, of this token, of earlier ones, or
    /// empty while a character or a stop string may be incomplete. The last token brings all the rest.
    std::string_view text;
    std::string_view bytes;       ///< of this token alone; empty for the EOS that ends the text
    std::size_t index;            ///< 0 for the first new token
    std::optional<float> logprob; ///< when asked for
    std::span<const TokenLogprob> top_logprobs = {}; ///< as in GenerationResult, at this place
};

/// Called after each token, in the thread that generates. What it throws ends the generation and
/// reaches the caller.
using StreamCallback = std::function<Flow(const GeneratedToken&)>;

/// How the logits of a text were computed; see screened_head.hpp.
struct Screening {
    std::size_t tokens = 0; ///< whose logits were screened first; 0 without a screen
    std::size_t panels = 0; ///< of 32 outputs, computed exactly for these tokens
    std::size_t all = 0;    ///< what would have been computed for them without
};

/// How often speculative decoding was right; see GenerationConfig::prompt_lookup_num_tokens.
struct Speculation {
    std::size_t proposed = 0; ///< tokens; 0 without speculation
    std::size_t accepted = 0; ///< of them: that are in the text
    /// Of the model, behind those that read the prompt. Without speculation it would be one less than the
    /// tokens, but this stays 0.
    std::size_t passes = 0;
};

/// What generate() returns.
struct GenerationResult {
    using Seconds = std::chrono::duration<double>;

    /// Valid UTF-8, without the prompt and the stop string: the texts that the callback was given, in
    /// one piece. What the bytes of the tokens cannot mean in UTF-8 is U+FFFD.
    std::string text;
    /// The exact bytes of the tokens, the EOS that ended the text excepted. A stop string is in it, with
    /// whatever its last token brought behind it.
    std::string bytes;
    std::vector<TokenId> tokens; ///< every generated token, EOS included
    /// When asked for: natural logarithm of the probability that the model itself gave to each token,
    /// before any processor; as many as tokens.
    std::vector<float> logprobs;
    FinishReason finish_reason = FinishReason::length;
    std::string stop_string;           ///< the one that ended the text
    std::optional<std::uint64_t> seed; ///< that gives this text again; none when nothing was drawn
    std::size_t prompt_tokens = 0;
    Screening screening; ///< what was saved of the output head; see LoadOptions::screen_head

    Seconds ttft{};  ///< time to first token: from the start of generate() until the first token is known
    Seconds tpot{};  ///< time per output token after the first, on average; 0 for fewer than two
    Seconds total{}; ///< from the start of generate() to its end

    /// Of beam search: the sum of the log-probabilities after the processors / length^length_penalty.
    std::optional<double> score;
    Speculation speculation; ///< what became of proposals

    /// With GenerationConfig::top_logprobs n: the n tokens to which the model itself, before any processor,
    /// gave most probability at each place, the most probable first, the lower id on ties; as many lists as
    /// tokens. Where a token is one of them, it has the number that is in logprobs.
    std::vector<std::vector<TokenLogprob>> top_logprobs;
    /// With GenerationConfig::prompt_logprobs: that of each token of this call's prompt, given all before it,
    /// what the session held included, as Session::score has it: NaN for a token at position 0. As many as
    /// prompt_tokens; none if the text ended while the prompt was read.
    std::vector<float> prompt_logprobs;
    std::vector<std::vector<TokenLogprob>> prompt_top_logprobs; ///< the same as top_logprobs; with both
};

namespace detail {

/// How many logits belong to tokens that may be chosen: those that the tokenizer knows. (A vocabulary may be
/// padded to a round size.)
[[nodiscard]] inline std::size_t n_known(std::size_t vocab_size, const Tokenizer& tokenizer) noexcept {
    return std::min(vocab_size, tokenizer.size());
}

/// What the processors of a text have to know of tokens.
[[nodiscard]] inline sampling::Vocabulary vocabulary_of(const GenerationConfig& config,
                                                        std::size_t vocab_size, std::optional<TokenId> eos,
                                                        const Tokenizer& tokenizer) {
    sampling::Vocabulary vocabulary{n_known(vocab_size, tokenizer), eos, {}};
    if (sampling::is_set(config, sampling::ProcessorKind::dry)) {
        vocabulary.breakers = sampling::dry_breakers(config.dry->sequence_breakers, tokenizer);
    }
    if (config.constraint) {
        config.constraint->check(tokenizer, eos.value());
    }
    return vocabulary;
}

} // namespace detail

/// What may end a text that begins now.
[[nodiscard]] inline Interrupt interrupt_of(const GenerationConfig& config) noexcept {
    Interrupt interrupt{.cancellation = config.cancellation};
    if (config.max_time) {
        interrupt.deadline = deadline_after(Interrupt::Clock::now(), *config.max_time);
    }
    return interrupt;
}

/// One text in the making. Feed it the logits of the last position; it answers with the token to read
/// next, until it is done:
///
///     Generation generation(...);
///     logits = forward(prompt)
///     while (auto token = generation.step(logits)) { logits = forward(*token) }
///     return std::move(generation).finish();
///
/// One caller at a time.
class Generation {
public:
    /// @param model     vocab_size and eos_token_id are used. Tokens that the tokenizer does not know (a
    ///                  vocabulary padded to a round size) are never chosen.
    /// @param exp       the vector kernel of the machine
    /// @param context   all tokens before the text, for the processors that look at them
    /// @param n_prompt  how many of them are the prompt of this call, for the result
    /// @throws OptionError as gpt2::validate
    Generation(const Config& model, const Tokenizer& tokenizer, ExpShifted exp, GenerationConfig config,
               StreamCallback callback, std::span<const TokenId> context, std::size_t n_prompt)
        : start_(Clock::now()), config_(checked(std::move(config), model)), tokenizer_(tokenizer),
          callback_(std::move(callback)), vocab_size_(model.vocab_size), eos_(detail::eos_of(config_, model)),
          logprobs_(exp, tokenizer_.size(), config_.top_logprobs),
          sampler_(config_, detail::vocabulary_of(config_, vocab_size_, eos_, tokenizer_), exp),
          stream_(config_.stop_strings) {
        if (!sampler_.greedy()) {
            result_.seed = config_.seed ? *config_.seed : fresh_seed();
        }
        if (config_.forced_bos_token_id && context.size() != 1) {
            throw OptionError(detail::concat("forced_bos_token_id is set but has no effect after ",
                                             context.size(), " tokens, expected 1, as an empty prompt has"));
        }
        sampler_.note(context);
        result_.prompt_tokens = n_prompt;
        done_ = config_.max_new_tokens == 0;
    }

    /// True when there is nothing left to do; from the beginning with max_new_tokens = 0.
    [[nodiscard]] bool done() const noexcept { return done_; }

    /// The tokens so far.
    [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return result_.tokens; }

    /// What the tokens are drawn with; none when greedy.
    [[nodiscard]] std::optional<std::uint64_t> seed() const noexcept { return result_.seed; }

    /// What of the next logits decides a token; nothing if all of them are needed. Good until the next
    /// step().
    [[nodiscard]] std::optional<Candidates> candidates() const noexcept {
        return wants_logprobs() ? std::nullopt : sampler_.candidates();
    }

    /// Chooses a token and calls the callback.
    /// @param logits  [V] after the last token
    /// @param screened  true: -infinity stands for logits that candidates() leaves out
    /// @param unguided  [V] after the negative prompt and the tokens so far; with guidance_scale only
    /// @returns the token, which the model has to read next, or nothing when the text is done
    /// @throws NumericError if a logit is not finite, and whatever the callback throws
    [[nodiscard]] std::optional<TokenId> step(std::span<const float> logits, bool screened = false,
                                              std::span<const float> unguided = {}) {
        if (done_) {
            return std::nullopt;
        }
        TokenId token = 0;
        LogprobReader::Place place;
        {
            const FloatingPointScope scope;
            if (logits.size() != vocab_size_) {
                throw OptionError(detail::concat("expected ", vocab_size_, " logits, found ", logits.size()));
            }
            if (!screened) { // NaN and +infinity are the sampler's to find then
                detail::require_finite(logits);
            }
            const std::uint64_t draw = result_.tokens.size();
            const std::size_t known = detail::n_known(vocab_size_, tokenizer_);
            const std::uint64_t sample = config_.sample;
            const double u = result_.seed ? uniform(*result_.seed, sample, draw) : 0.0;
            const double u_xtc =
                result_.seed && config_.xtc ? second_uniform(*result_.seed, sample, draw) : 0.0;
            token = sampler_.next(logits.first(known), u, u_xtc,
                                  unguided.first(std::min(known, unguided.size())));
            if (wants_logprobs()) {
                place = logprobs_.read(logits, token);
            }
        }
        accept(token, std::move(place));
        return done_ ? std::nullopt : std::optional(token);
    }

    /// Runs a part of the work around step(). @returns false if an Interrupt ended it, which ends the text as
    /// a callback would have
    template <class Part> [[nodiscard]] bool completes(Part&& part) {
        try {
            std::forward<Part>(part)();
            return true;
        } catch (const Interrupted& interrupted) {
            interrupt(interrupted.cause());
            return false;
        }
    }

    /// Ends the text where it is.
    void interrupt(InterruptCause cause) noexcept {
        end(cause == InterruptCause::max_time ? FinishReason::max_time : FinishReason::cancelled);
    }

    /// Takes a token that somebody else chose, and calls the callback.
    /// @param logprob  for GenerationResult::logprobs, if these are asked for
    /// @pre  not done()
    void take(TokenId token, float logprob) { accept(token, {logprob, {}}); }

    /// Takes what GenerationResult::prompt_logprobs shall be.
    void take_prompt(TokenLogprobs prompt) noexcept {
        result_.prompt_logprobs = std::move(prompt.logprobs);
        result_.prompt_top_logprobs = std::move(prompt.top_logprobs);
    }

    /// The result. Before done() it is that of a text which the caller ended, as a callback would have.
    [[nodiscard]] GenerationResult finish() && {
        const auto now = Clock::now();
        if (!done_) {
            result_.finish_reason = FinishReason::callback;
        }
        result_.stop_string = stream_.stop_string();
        result_.total = now - start_;
        const std::size_t n = result_.tokens.size();
        if (n > 0) {
            result_.ttft = first_ - start_;
        }
        if (n > 1) {
            result_.tpot = (last_ - first_) / static_cast<double>(n - 1);
        }
        return std::move(result_);
    }

private:
    using Clock = std::chrono::steady_clock;

    [[nodiscard]] static GenerationConfig checked(GenerationConfig config, const Config& model) {
        validate(config, model);
        return config;
    }

    void end(FinishReason reason) noexcept {
        done_ = true;
        result_.finish_reason = reason;
    }

    [[nodiscard]] bool wants_logprobs() const noexcept {
        return config_.logprobs || config_.top_logprobs > 0;
    }

    void accept(TokenId token, LogprobReader::Place place) {
        const bool is_eos = eos_ == token;
        const std::string_view bytes = is_eos ? std::string_view() : tokenizer_.token_bytes(token);
        const std::size_t index = result_.tokens.size();
        sampler_.accept(token);
        result_.tokens.push_back(token);
        result_.bytes += bytes;
        std::optional<float> logprob;
        if (config_.logprobs) {
            logprob = result_.logprobs.emplace_back(place.logprob);
        }
        std::span<const TokenLogprob> top;
        if (config_.top_logprobs > 0) {
            top = result_.top_logprobs.emplace_back(std::move(place.top));
        }
        std::string text = stream_.push(bytes);
        if (is_eos) {
            end(FinishReason::eos);
        } else if (stream_.stopped()) {
            end(FinishReason::stop_string);
        } else if (static_cast<std::int64_t>(index) + 1 == config_.max_new_tokens) {
            end(FinishReason::length);
        }
        if (done_) {
            text += stream_.flush();
        }
        result_.text += text;
        last_ = Clock::now();
        first_ = index == 0 ? last_ : first_;
        if (callback_ && callback_({token, text, bytes, index, logprob, top}) == Flow::stop && !done_) {
            end(FinishReason::callback);
        }
    }

    Clock::time_point start_;
    Clock::time_point first_{};
    Clock::time_point last_{};
    GenerationConfig config_;
    Tokenizer tokenizer_;
    StreamCallback callback_;
    std::size_t vocab_size_;
    std::optional<TokenId> eos_;
    LogprobReader logprobs_;
    Sampler sampler_;
    TextStream stream_;
    GenerationResult result_;
    bool done_ = false;
};

} // namespace gpt2
