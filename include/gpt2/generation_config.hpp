// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/sampler.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// What a user may ask of generate(), and the check that it makes sense.

namespace gpt2 {

/// What to do when the text outgrows the context.
enum class Overflow {
    error, ///< refuse before any work: ContextError
    slide, ///< forget all but the last n_positions / 2 tokens, which start again from position 0
};

/// The options of generate(), with Hugging Face's names and meanings. Members are declared in an order
/// that is part of the interface; new ones go to the end. Members without a value do nothing: top_k,
/// for instance, is then not 50, as it may be in Hugging Face's defaults, but the whole vocabulary.
struct GenerationConfig {
    /// At most so many tokens; fewer when the text ends before.
    std::int64_t max_new_tokens = 20;
    /// False: always the most probable token (greedy). True: draw.
    bool do_sample = false;
    /// Above 0: logits are divided by it before drawing. 0 means greedy.
    std::optional<float> temperature{};
    /// Draw from the k most probable tokens, and those that equal the last of them. 0, or more than
    /// there are: all.
    std::optional<std::int64_t> top_k{};
    /// Draw from the fewest most probable tokens that hold this share of the probability, 0 to 1.
    /// 0 leaves the most probable token, 1 all.
    std::optional<float> top_p{};
    /// Draw from tokens at least so many times as probable as the most probable one, 0 to 1.
    std::optional<float> min_p{};
    /// Above 1 makes the tokens of the prompt and of the text so far less probable, below 1 more so.
    std::optional<float> repetition_penalty{};
    /// The same seed gives the same text. Without one, each call takes a fresh one; see
    /// GenerationResult::seed.
    std::optional<std::uint64_t> seed{};
    /// Which of the texts that share a seed, for several samples of one prompt.
    std::uint64_t sample = 0;
    /// The text ends before the first of these.
    std::vector<std::string> stop_strings{};
    /// Compute the log-probability of each token.
    bool logprobs = false;
    /// Ends the text, instead of the model's own.
    std::optional<TokenId> eos_token_id{};
    /// Do not end the text there: it is a token like any other, and its bytes belong to the text.
    bool ignore_eos = false;
    Overflow overflow = Overflow::error;
};

namespace detail {

inline void require_range(std::string_view name, const std::optional<float>& value, float low, float high) {
    if (value && !(*value >= low && *value <= high)) {
        throw OptionError(concat(name, " is ", *value, ", expected a number from ", low, " to ", high));
    }
}

/// An option that only matters when tokens are drawn.
inline void require_sampling(std::string_view name, bool is_set, bool do_sample) {
    if (is_set && !do_sample) {
        throw OptionError(concat(name, " is set but has no effect while do_sample is false"));
    }
}

inline void validate_sampling(const GenerationConfig& config) {
    // Temperature 0 asks for what do_sample = false asks for.
    require_sampling("temperature", config.temperature && *config.temperature != 0.0f, config.do_sample);
    require_sampling("top_k", config.top_k.has_value(), config.do_sample);
    require_sampling("top_p", config.top_p.has_value(), config.do_sample);
    require_sampling("min_p", config.min_p.has_value(), config.do_sample);
    require_sampling("seed", config.seed.has_value(), config.do_sample);
    require_sampling("sample", config.sample != 0, config.do_sample);
}

} // namespace detail

/// Checks options against each other and against the model. Thread-safe.
/// @throws OptionError naming the option, or both where one contradicts the other
inline void validate(const GenerationConfig& config, const Config& model) {
    using detail::concat;
    if (config.max_new_tokens < 0) {
        throw OptionError(concat("max_new_tokens is ", config.max_new_tokens, ", expected 0 or more"));
    }
    if (config.temperature && !(std::isfinite(*config.temperature) && *config.temperature >= 0.0f)) {
        throw OptionError(
            concat("temperature is ", *config.temperature, ", expected a finite number, 0 or more"));
    }
    if (config.top_k && *config.top_k < 0) {
        throw OptionError(concat("top_k is ", *config.top_k, ", expected 0 (all tokens) or more"));
    }
    detail::require_range("top_p", config.top_p, 0.0f, 1.0f);
    detail::require_range("min_p", config.min_p, 0.0f, 1.0f);
    if (const auto& penalty = config.repetition_penalty;
        penalty && !(std::isfinite(*penalty) && *penalty > 0.0f)) {
        throw OptionError(concat("repetition_penalty is ", *penalty, ", expected a finite number above 0"));
    }
    for (std::size_t i = 0; i < config.stop_strings.size(); ++i) {
        if (config.stop_strings[i].empty()) {
            throw OptionError(concat("stop_strings[", i, "] is empty, expected at least one byte"));
        }
    }
    if (const auto& eos = config.eos_token_id) {
        if (config.ignore_eos) {
            throw OptionError("eos_token_id is set but has no effect while ignore_eos is true");
        }
        if (*eos < 0 || static_cast<std::size_t>(*eos) >= model.vocab_size) {
            throw OptionError(concat("eos_token_id is ", *eos, ", expected an id below ", model.vocab_size));
        }
    }
    if (config.overflow != Overflow::error && config.overflow != Overflow::slide) {
        throw OptionError(
            concat("overflow is ", static_cast<int>(config.overflow), ", expected error or slide"));
    }
    detail::validate_sampling(config);
}

/// Checks that a text fits into the context.
/// @param n_context tokens that the model has read, or will have read, when the first new one is chosen
/// @throws ContextError if it does not, unless the options say to slide
inline void require_room(std::size_t n_context, const GenerationConfig& config, const Config& model) {
    const auto n_new = static_cast<std::uint64_t>(config.max_new_tokens);
    if (config.overflow == Overflow::error &&
        (n_context > model.n_positions || n_new > model.n_positions - n_context)) {
        throw ContextError(detail::concat(
            "the prompt (", n_context, " tokens) and max_new_tokens (", n_new, ") exceed the context of ",
            model.n_positions, " tokens (n_positions); shorten one of them or set overflow to slide"));
    }
}

/// What Overflow::slide keeps of the tokens so far: the last n_positions / 2, at least one.
[[nodiscard]] inline std::span<const TokenId> slide_window(std::span<const TokenId> tokens,
                                                           std::size_t n_positions) noexcept {
    const std::size_t kept = std::max<std::size_t>(n_positions / 2, 1);
    return tokens.size() > kept ? tokens.last(kept) : tokens;
}

namespace detail {

/// @p config passed validate().
[[nodiscard]] inline SamplerOptions sampler_options(const GenerationConfig& config) {
    return {.do_sample = config.do_sample,
            .temperature = config.temperature.value_or(1.0f),
            .top_k = static_cast<std::size_t>(config.top_k.value_or(0)),
            .top_p = config.top_p.value_or(1.0f),
            .min_p = config.min_p.value_or(0.0f),
            .repetition_penalty = config.repetition_penalty.value_or(1.0f)};
}

} // namespace detail
} // namespace gpt2
