// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/sampling/selection.hpp"
#include "gpt2/sequence_checks.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

/// @file
/// Whether what a user asks of generate() makes sense.

namespace gpt2 {

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

inline void require_tokens(std::string_view name, std::span<const TokenId> tokens, const Config& model) {
    for (const TokenId token : tokens) {
        if (token < 0 || static_cast<std::size_t>(token) >= model.vocab_size) {
            throw OptionError(
                concat(name, ": found token ", token, ", expected an id below ", model.vocab_size));
        }
    }
}

inline void require_count(std::string_view name, const std::optional<std::int64_t>& value,
                          std::int64_t least) {
    if (value && *value < least) {
        throw OptionError(concat(name, " is ", *value, ", expected ", least, " or more"));
    }
}

/// @param good  whether the value is in its range
inline void require_value(std::string_view name, const std::optional<float>& value, bool good,
                          std::string_view expected) {
    if (value && !good) {
        throw OptionError(concat(name, " is ", *value, ", expected ", expected));
    }
}

inline void require_above_zero(std::string_view name, const std::optional<float>& value) {
    require_value(name, value, std::isfinite(value.value_or(0.0f)) && value > 0.0f,
                  "a finite number above 0");
}

inline void require_finite_number(std::string_view name, const std::optional<float>& value) {
    require_value(name, value, std::isfinite(value.value_or(0.0f)), "a finite number");
}

inline void require_at_least(std::string_view name, const std::optional<float>& value, float least) {
    require_value(name, value, std::isfinite(value.value_or(0.0f)) && value >= least,
                  concat("a finite number, ", least, " or more"));
}

inline void validate_truncation(const GenerationConfig& config) {
    const auto is_cutoff = [](const std::optional<float>& p) { return p >= 0.0f && p < 1.0f; };
    require_value("typical_p", config.typical_p, config.typical_p > 0.0f && config.typical_p <= 1.0f,
                  "a number above 0 and at most 1");
    require_value("epsilon_cutoff", config.epsilon_cutoff, is_cutoff(config.epsilon_cutoff),
                  "a number from 0 to below 1");
    require_value("eta_cutoff", config.eta_cutoff, is_cutoff(config.eta_cutoff),
                  "a number from 0 to below 1");
    require_above_zero("top_n_sigma", config.top_n_sigma);
    require_sampling("typical_p", config.typical_p.has_value(), config.do_sample);
    require_sampling("epsilon_cutoff", config.epsilon_cutoff.has_value(), config.do_sample);
    require_sampling("eta_cutoff", config.eta_cutoff.has_value(), config.do_sample);
    require_sampling("top_n_sigma", config.top_n_sigma.has_value(), config.do_sample);
    require_sampling("xtc", config.xtc.has_value(), config.do_sample);
    require_sampling("mirostat", config.mirostat.has_value(), config.do_sample);
    if (config.xtc) {
        require_range("xtc.probability", config.xtc->probability, 0.0f, 1.0f);
        require_range("xtc.threshold", config.xtc->threshold, 0.0f, 0.5f);
    }
    if (config.mirostat) {
        require_above_zero("mirostat.tau", config.mirostat->tau);
        require_at_least("mirostat.eta", config.mirostat->eta, 0.0f);
        for (auto kind = sampling::ProcessorKind::top_n_sigma; kind < sampling::ProcessorKind::mirostat;
             kind = next(kind)) {
            if (sampling::is_set(config, kind)) {
                throw OptionError(concat("mirostat and ", to_string(kind),
                                         " are both set, expected one of them: each says how many tokens to "
                                         "draw from"));
            }
        }
    }
}

inline void validate_penalties(const GenerationConfig& config) {
    require_finite_number("presence_penalty", config.presence_penalty);
    require_finite_number("frequency_penalty", config.frequency_penalty);
    require_count("penalty_last_n", config.penalty_last_n, 1);
    require_count("no_repeat_ngram_size", config.no_repeat_ngram_size, 0);
    if (!config.dry) {
        return;
    }
    require_at_least("dry.multiplier", config.dry->multiplier, 0.0f);
    require_at_least("dry.base", config.dry->base, 1.0f);
    require_count("dry.allowed_length", config.dry->allowed_length, 1);
    require_count("dry.penalty_last_n", config.dry->penalty_last_n, 1);
    const auto& breakers = config.dry->sequence_breakers;
    for (std::size_t i = 0; i < breakers.size(); ++i) {
        if (breakers[i].empty()) {
            throw OptionError(concat("dry.sequence_breakers[", i, "] is empty, expected at least one byte"));
        }
    }
}

/// The token that ends the text.
[[nodiscard]] inline std::optional<TokenId> eos_of(const GenerationConfig& config, const Config& model) {
    return config.ignore_eos ? std::nullopt : config.eos_token_id ? config.eos_token_id : model.eos_token_id;
}

inline void require_eos(std::string_view name, bool is_set, const GenerationConfig& config,
                        const Config& model) {
    if (is_set && config.ignore_eos) {
        throw OptionError(concat(name, " is set but has no effect while ignore_eos is true"));
    }
    if (is_set && !eos_of(config, model)) {
        throw OptionError(concat(name,
                                 " is set but the model has no token that ends a text, and eos_token_id "
                                 "names none"));
    }
}

inline void validate_biases(const GenerationConfig& config, const Config& model) {
    constexpr float most = std::numeric_limits<float>::max(); // -infinity forbids a token
    for (const auto& [sequence, bias] : config.sequence_bias) {
        require_tokens("sequence_bias", sequence, model);
        if (sequence.empty() || !(bias <= most)) {
            throw OptionError(concat("sequence_bias: found ", sequence.size(), " tokens with the bias ", bias,
                                     ", expected at least one with a finite number or -infinity"));
        }
    }
    for (const auto& [token, bias] : config.logit_bias) {
        require_tokens("logit_bias", {&token, 1}, model);
        if (!(bias <= most)) {
            throw OptionError(concat("logit_bias of token ", token, " is ", bias,
                                     ", expected a finite number or -infinity"));
        }
    }
}

inline void validate_constraints(const GenerationConfig& config, const Config& model) {
    validate_biases(config, model);
    const std::optional<TokenId> eos = eos_of(config, model);
    for (std::size_t i = 0; i < config.bad_words_ids.size(); ++i) {
        const std::string name = concat("bad_words_ids[", i, "]");
        const auto& sequence = config.bad_words_ids[i];
        require_tokens(name, sequence, model);
        if (sequence.empty()) {
            throw OptionError(name + " is empty, expected at least one token");
        }
        if (eos && sequence.size() == 1 && sequence.front() == *eos) {
            throw OptionError(name + " is the token that ends the text; set ignore_eos, min_new_tokens or "
                                     "suppress_tokens instead");
        }
    }
    require_tokens("suppress_tokens", config.suppress_tokens, model);
    require_tokens("begin_suppress_tokens", config.begin_suppress_tokens, model);
    for (const auto& [name, forced] : {std::pair("forced_bos_token_id", config.forced_bos_token_id),
                                       std::pair("forced_eos_token_id", config.forced_eos_token_id)}) {
        if (!forced) {
            continue;
        }
        require_tokens(name, {&*forced, 1}, model);
        const auto& suppressed = config.suppress_tokens;
        if (std::find(suppressed.begin(), suppressed.end(), *forced) != suppressed.end()) {
            throw OptionError(concat(name, " is ", *forced, ", which suppress_tokens forbids"));
        }
    }
    require_count("min_new_tokens", config.min_new_tokens, 0);
    if (config.min_new_tokens.value_or(0) > config.max_new_tokens) {
        throw OptionError(concat("min_new_tokens is ", *config.min_new_tokens,
                                 ", expected at most max_new_tokens, ", config.max_new_tokens));
    }
    require_eos("min_new_tokens", config.min_new_tokens.value_or(0) > 0, config, model);
    require_eos("exponential_decay_length_penalty", config.exponential_decay_length_penalty.has_value(),
                config, model);
    require_eos("forced_eos_token_id", config.forced_eos_token_id && config.ignore_eos, config, model);
    if (const auto& decay = config.exponential_decay_length_penalty) {
        require_count("exponential_decay_length_penalty.start", decay->start, 0);
        require_above_zero("exponential_decay_length_penalty.factor", decay->factor);
    }
    for (std::size_t i = 0; i < config.logits_processors.size(); ++i) {
        if (!config.logits_processors[i]) {
            throw OptionError(concat("logits_processors[", i, "] is empty, expected something to call"));
        }
    }
}

inline void validate_constraint(const GenerationConfig& config, const Config& model) {
    if (!config.constraint) {
        return;
    }
    require_not_both("constraint", "ignore_eos", config.ignore_eos, "a text that matches has to end");
    require_not_both("constraint", "forced_bos_token_id", config.forced_bos_token_id.has_value(),
                     "each says what the text is");
    require_not_both("constraint", "forced_eos_token_id", config.forced_eos_token_id.has_value(),
                     "each says where the text ends");
    if (!eos_of(config, model)) {
        throw OptionError(
            "constraint is set but the model has no token that ends a text, and eos_token_id names "
            "none");
    }
}

/// The options of the processors, but for those that validate() knew before.
inline void validate_processors(const GenerationConfig& config, const Config& model) {
    validate_truncation(config);
    validate_penalties(config);
    validate_constraints(config, model);
    validate_constraint(config, model);
    require_finite_number("guidance_scale", config.guidance_scale);
    require_tokens("negative_prompt_ids", config.negative_prompt_ids, model);
    if (!config.negative_prompt_ids.empty() && !config.guidance_scale) {
        throw OptionError("negative_prompt_ids is set but has no effect without guidance_scale");
    }
    (void)sampling::processors_of(config);
}

inline void validate_sampling(const GenerationConfig& config) {
    // Temperature 0 asks for what do_sample = false asks for.
    require_sampling("temperature", config.temperature && *config.temperature != 0.0f, config.do_sample);
    require_sampling("top_k", config.top_k.has_value() && !sampling::is_contrastive(config),
                     config.do_sample);
    require_sampling("top_p", config.top_p.has_value(), config.do_sample);
    require_sampling("min_p", config.min_p.has_value(), config.do_sample);
    require_sampling("seed", config.seed.has_value(), config.do_sample);
    require_sampling("sample", config.sample != 0, config.do_sample);
}

inline void validate_speculation(const GenerationConfig& config) {
    require_count("prompt_lookup_num_tokens", config.prompt_lookup_num_tokens, 1);
    require_count("max_matching_ngram_size", config.max_matching_ngram_size, 1);
    require_count("num_assistant_tokens", config.num_assistant_tokens, 1);
    if (config.prompt_lookup_num_tokens && config.assistant_model) {
        throw OptionError("prompt_lookup_num_tokens and assistant_model are both set, expected one of them");
    }
    if (config.max_matching_ngram_size && !config.prompt_lookup_num_tokens) {
        throw OptionError(
            "max_matching_ngram_size is set but has no effect without prompt_lookup_num_tokens");
    }
    if (config.num_assistant_tokens && !config.assistant_model) {
        throw OptionError("num_assistant_tokens is set but has no effect without assistant_model");
    }
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
    if (config.overflow != Overflow::error && config.overflow != Overflow::slide &&
        config.overflow != Overflow::truncate_left) {
        throw OptionError(concat("overflow is ", static_cast<int>(config.overflow),
                                 ", expected error, slide or truncate_left"));
    }
    if (config.max_time && !(*config.max_time >= 0.0)) {
        throw OptionError(
            concat("max_time is ", *config.max_time, ", expected a number of seconds, 0 or more"));
    }
    if (config.top_logprobs < 0) {
        throw OptionError(concat("top_logprobs is ", config.top_logprobs, ", expected 0 or more"));
    }
    detail::validate_contrastive(config);
    detail::validate_sampling(config);
    detail::validate_processors(config, model);
    detail::validate_sequences(config);
    detail::validate_speculation(config);
}

/// Checks that a text fits into the context.
/// @param n_context tokens that the model has read, or will have read, when the first new one is chosen
/// @throws ContextError if it does not, unless the options say to slide, or to truncate the context and there
///         would be a token left of it
inline void require_room(std::size_t n_context, const GenerationConfig& config, const Config& model) {
    const auto n_new = static_cast<std::uint64_t>(config.max_new_tokens);
    if (config.overflow == Overflow::error &&
        (n_context > model.n_positions || n_new > model.n_positions - n_context)) {
        throw ContextError(detail::concat(
            "the prompt (", n_context, " tokens) and max_new_tokens (", n_new, ") exceed the context of ",
            model.n_positions,
            " tokens (n_positions); shorten one of them or set overflow to slide or truncate_left"));
    }
    if (config.overflow == Overflow::truncate_left && n_new >= model.n_positions) {
        throw ContextError(detail::concat("max_new_tokens is ", n_new, ", expected less than the context of ",
                                          model.n_positions,
                                          " tokens (n_positions): overflow is truncate_left, and no token of "
                                          "the prompt would be left"));
    }
}

} // namespace gpt2
