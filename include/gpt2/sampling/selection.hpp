// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/sampling/order.hpp"

#include <algorithm>
#include <vector>

/// @file
/// Which processors the options ask for.

namespace gpt2::sampling {

/// Whether the tokens do not depend on random numbers.
[[nodiscard]] inline bool is_greedy(const GenerationConfig& config) noexcept {
    return !config.do_sample || config.temperature == 0.0f;
}

/// Whether the options ask for contrastive search.
[[nodiscard]] inline bool is_contrastive(const GenerationConfig& config) noexcept {
    return config.penalty_alpha.value_or(0.0f) != 0.0f;
}

/// Whether an option asks for a processor that does something.
[[nodiscard]] inline bool is_set(const GenerationConfig& config, ProcessorKind kind) {
    using Kind = ProcessorKind;
    if (kind >= Kind::temperature && is_greedy(config)) {
        return false;
    }
    switch (kind) {
    case Kind::guidance_scale:
        return config.guidance_scale.value_or(1.0f) != 1.0f;
    case Kind::sequence_bias:
        return !config.sequence_bias.empty();
    case Kind::logit_bias:
        return !config.logit_bias.empty();
    case Kind::repetition_penalty:
        return config.repetition_penalty.value_or(1.0f) != 1.0f;
    case Kind::presence_penalty:
        return config.presence_penalty.value_or(0.0f) != 0.0f;
    case Kind::frequency_penalty:
        return config.frequency_penalty.value_or(0.0f) != 0.0f;
    case Kind::dry:
        return config.dry && config.dry->multiplier > 0.0f;
    case Kind::no_repeat_ngram_size:
        return config.no_repeat_ngram_size.value_or(0) > 0;
    case Kind::bad_words_ids:
        return !config.bad_words_ids.empty();
    case Kind::min_new_tokens:
        return config.min_new_tokens.value_or(0) > 0;
    case Kind::forced_bos_token_id:
        return config.forced_bos_token_id.has_value();
    case Kind::forced_eos_token_id:
        return config.forced_eos_token_id.has_value();
    case Kind::exponential_decay_length_penalty:
        return config.exponential_decay_length_penalty.has_value();
    case Kind::suppress_tokens:
        return !config.suppress_tokens.empty();
    case Kind::begin_suppress_tokens:
        return !config.begin_suppress_tokens.empty();
    case Kind::logits_processors:
        return !config.logits_processors.empty();
    case Kind::constraint:
        return config.constraint != nullptr;
    case Kind::temperature:
        return config.temperature.value_or(1.0f) != 1.0f;
    case Kind::top_n_sigma:
        return config.top_n_sigma.has_value();
    case Kind::top_k:
        return config.top_k.value_or(0) > 0;
    case Kind::top_p:
        return config.top_p.value_or(1.0f) < 1.0f;
    case Kind::min_p:
        return config.min_p.value_or(0.0f) > 0.0f;
    case Kind::typical_p:
        return config.typical_p.value_or(1.0f) < 1.0f;
    case Kind::epsilon_cutoff:
        return config.epsilon_cutoff.value_or(0.0f) > 0.0f;
    case Kind::eta_cutoff:
        return config.eta_cutoff.value_or(0.0f) > 0.0f;
    case Kind::xtc:
        return config.xtc && config.xtc->probability > 0.0f;
    case Kind::mirostat:
        return config.mirostat.has_value();
    }
    return false;
}

/// The processors that the options ask for, in order.
/// @throws OptionError if processor_order is none
[[nodiscard]] inline std::vector<ProcessorKind> processors_of(const GenerationConfig& config) {
    std::vector<ProcessorKind> kinds = parse_order(config.processor_order);
    for (const ProcessorKind kind : all_processor_kinds) {
        if (is_set(config, kind) && std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
            throw OptionError(detail::concat(
                to_string(kind), " is set but processor_order, which names all that are, leaves it out"));
        }
    }
    std::erase_if(kinds, [&](ProcessorKind kind) { return !is_set(config, kind); });
    const auto mirostat = std::find(kinds.begin(), kinds.end(), ProcessorKind::mirostat);
    if (mirostat != kinds.end() && mirostat + 1 != kinds.end()) {
        throw OptionError(
            detail::concat("processor_order: expected mirostat, which is set, after all that are, found ",
                           to_string(*(mirostat + 1)), " behind it"));
    }
    return kinds;
}

} // namespace gpt2::sampling
