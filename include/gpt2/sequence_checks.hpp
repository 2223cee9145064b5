// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/sampling/selection.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// Whether what a user asks about several texts at once, beams and contrastive search makes sense.

namespace gpt2::detail {

inline void require_one_or_more(std::string_view name, std::int64_t value) {
    if (value < 1) {
        throw OptionError(concat(name, " is ", value, ", expected 1 or more"));
    }
}

/// What num_beams = 1 makes pointless.
inline void require_beams(std::string_view name, bool is_set) {
    if (is_set) {
        throw OptionError(concat(name, " is set but has no effect while num_beams is 1"));
    }
}

/// @param are_set  both of them
/// @param why      they cannot go together
inline void require_not_both(std::string_view first, std::string_view second, bool are_set,
                             std::string_view why) {
    if (are_set) {
        throw OptionError(concat(first, " and ", second, " are both set, expected one of them: ", why));
    }
}

inline void validate_groups(const GenerationConfig& config) {
    const std::int64_t n = config.num_beam_groups;
    require_one_or_more("num_beam_groups", n);
    if (n == 1 && config.diversity_penalty) {
        throw OptionError("diversity_penalty is set but has no effect while num_beam_groups is 1");
    }
    if (config.diversity_penalty &&
        !(std::isfinite(*config.diversity_penalty) && *config.diversity_penalty > 0.0f)) {
        throw OptionError(
            concat("diversity_penalty is ", *config.diversity_penalty, ", expected a finite number above 0"));
    }
    if (n == 1) {
        return;
    }
    if (config.num_beams % n != 0) {
        throw OptionError(
            concat("num_beam_groups is ", n, ", expected a divisor of num_beams, ", config.num_beams));
    }
    if (!config.diversity_penalty) {
        throw OptionError(concat("num_beam_groups is ", n,
                                 " but diversity_penalty is not set: all groups would be the same"));
    }
    require_not_both("num_beam_groups", "do_sample", !sampling::is_greedy(config),
                     "each makes the texts differ");
}

inline void validate_beams(const GenerationConfig& config) {
    if (config.length_penalty && !std::isfinite(*config.length_penalty)) {
        throw OptionError(concat("length_penalty is ", *config.length_penalty, ", expected a finite number"));
    }
    if (config.early_stopping && (*config.early_stopping < sampling::EarlyStopping::off ||
                                  *config.early_stopping > sampling::EarlyStopping::never)) {
        throw OptionError(concat("early_stopping is ", static_cast<int>(*config.early_stopping),
                                 ", expected off, on or never"));
    }
    validate_groups(config);
    using Kind = sampling::ProcessorKind;
    require_not_both("guidance_scale", "num_beams", sampling::is_set(config, Kind::guidance_scale),
                     "a beam has one sequence, guidance needs two");
    require_not_both("mirostat", "num_beams", sampling::is_set(config, Kind::mirostat),
                     "it follows the surprise of one text");
    require_not_both("top_logprobs", "num_beams", config.top_logprobs > 0, "a search compares whole texts");
    require_not_both("prompt_logprobs", "num_beams", config.prompt_logprobs, "a search compares whole texts");
    if (config.max_new_tokens == 0) {
        throw OptionError(
            concat("num_beams is ", config.num_beams, " but has no effect while max_new_tokens is 0"));
    }
    if (config.num_return_sequences > config.num_beams) {
        throw OptionError(concat("num_return_sequences is ", config.num_return_sequences,
                                 ", expected at most num_beams, ", config.num_beams));
    }
}

/// Checks what generation_checks.hpp leaves to this header.
inline void validate_sequences(const GenerationConfig& config) {
    require_one_or_more("num_return_sequences", config.num_return_sequences);
    require_one_or_more("num_beams", config.num_beams);
    if (config.num_beams > 1) {
        validate_beams(config);
        return;
    }
    require_beams("length_penalty", config.length_penalty.has_value());
    require_beams("early_stopping", config.early_stopping.has_value());
    require_beams("num_beam_groups", config.num_beam_groups != 1);
    require_beams("diversity_penalty", config.diversity_penalty.has_value());
    if (config.num_return_sequences > 1 && sampling::is_greedy(config)) {
        throw OptionError(concat(
            "num_return_sequences is ", config.num_return_sequences, ", expected 1 while num_beams is 1 and ",
            config.do_sample ? "temperature is 0" : "do_sample is false", ": all texts would be the same"));
    }
}

inline void validate_contrastive(const GenerationConfig& config) {
    const float alpha = config.penalty_alpha.value_or(0.0f);
    if (!(alpha >= 0.0f && alpha <= 1.0f)) {
        throw OptionError(concat("penalty_alpha is ", alpha, ", expected a number from 0 to 1"));
    }
    if (!sampling::is_contrastive(config)) {
        return;
    }
    if (config.top_k.value_or(0) < 2) {
        throw OptionError(concat("penalty_alpha is ", alpha, " but top_k is ",
                                 config.top_k ? concat(*config.top_k) : std::string("not set"),
                                 ", expected 2 or more: the tokens to choose from"));
    }
    require_not_both("penalty_alpha", "do_sample", config.do_sample, "contrastive search draws nothing");
    require_not_both("penalty_alpha", "num_beams", config.num_beams > 1, "each is a search of its own");
    require_not_both("penalty_alpha", "guidance_scale",
                     sampling::is_set(config, sampling::ProcessorKind::guidance_scale),
                     "a candidate has one sequence, guidance needs two");
    require_not_both("penalty_alpha", "prompt_lookup_num_tokens", config.prompt_lookup_num_tokens.has_value(),
                     "the rows of a pass are the candidates'");
    require_not_both("penalty_alpha", "top_logprobs", config.top_logprobs > 0,
                     "the search goes by other scores");
    require_not_both("penalty_alpha", "prompt_logprobs", config.prompt_logprobs,
                     "the prompt is read for its states");
    require_not_both("penalty_alpha", "assistant_model", config.assistant_model != nullptr,
                     "the rows of a pass are the candidates'");
    require_not_both("penalty_alpha", "overflow slide", config.overflow == Overflow::slide,
                     "the text is compared with all that it begins with");
}

/// For functions that return one text.
inline void require_one_text(const GenerationConfig& config) {
    if (config.num_return_sequences != 1) {
        throw OptionError(concat("num_return_sequences is ", config.num_return_sequences,
                                 ", expected 1: generate() returns one text, Gpt2Model::generate_batch() "
                                 "returns several"));
    }
}

/// For a session.
inline void require_no_beams(const GenerationConfig& config) {
    if (config.num_beams != 1) {
        throw OptionError(concat("num_beams is ", config.num_beams,
                                 ", expected 1: a session has one text; Gpt2Model::generate() and "
                                 "generate_batch() search with beams"));
    }
}

} // namespace gpt2::detail
