// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// The processors by name, and the order in which they come.

namespace gpt2::sampling {

/// The processors in their default order, each by the name of its option. This is Hugging Face's order
/// (transformers/generation/utils.py, _get_logits_processor); what Hugging Face lacks stands where its
/// nearest relatives are: logit_bias, presence_penalty, frequency_penalty, dry, top_n_sigma, xtc and
/// mirostat. `constraint` (their prefix_allowed_tokens_fn) stands behind everything that forces a token or
/// changes scores freely, so that nothing brings back what it forbids. From `temperature` on they only matter
/// when a token is drawn.
enum class ProcessorKind {
    guidance_scale,
    sequence_bias,
    logit_bias,
    repetition_penalty,
    presence_penalty,
    frequency_penalty,
    dry,
    no_repeat_ngram_size,
    bad_words_ids,
    min_new_tokens,
    forced_bos_token_id,
    forced_eos_token_id,
    exponential_decay_length_penalty,
    suppress_tokens,
    begin_suppress_tokens,
    logits_processors,
    constraint,
    temperature,
    top_n_sigma,
    top_k,
    top_p,
    min_p,
    typical_p,
    epsilon_cutoff,
    eta_cutoff,
    xtc,
    mirostat,
};

inline constexpr std::array<std::string_view, 27> processor_names{
    "guidance_scale",
    "sequence_bias",
    "logit_bias",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "logits_processors",
    "constraint",
    "temperature",
    "top_n_sigma",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc",
    "mirostat",
};
static_assert(static_cast<std::size_t>(ProcessorKind::mirostat) + 1 == processor_names.size());

[[nodiscard]] constexpr std::string_view to_string(ProcessorKind kind) noexcept {
    return processor_names[static_cast<std::size_t>(kind)];
}

[[nodiscard]] constexpr ProcessorKind next(ProcessorKind kind) noexcept {
    return static_cast<ProcessorKind>(static_cast<int>(kind) + 1);
}

/// All of them, in the default order.
inline constexpr auto all_processor_kinds = [] {
    std::array<ProcessorKind, processor_names.size()> kinds{};
    for (std::size_t i = 0; i < kinds.size(); ++i) {
        kinds[i] = static_cast<ProcessorKind>(i);
    }
    return kinds;
}();

/// @param names  the option processor_order; empty is the default order
/// @throws OptionError for a name that is unknown or comes twice
[[nodiscard]] inline std::vector<ProcessorKind> parse_order(std::span<const std::string> names) {
    if (names.empty()) {
        return {all_processor_kinds.begin(), all_processor_kinds.end()};
    }
    std::vector<ProcessorKind> kinds;
    for (std::size_t i = 0; i < names.size(); ++i) {
        const auto found = std::find(processor_names.begin(), processor_names.end(), names[i]);
        if (found == processor_names.end()) {
            throw OptionError(detail::concat("processor_order[", i, "] is ", detail::quoted(names[i]),
                                             ", expected the name of a processor, such as top_k"));
        }
        const auto kind = static_cast<ProcessorKind>(found - processor_names.begin());
        if (std::find(kinds.begin(), kinds.end(), kind) != kinds.end()) {
            throw OptionError(detail::concat("processor_order[", i, "] is ", detail::quoted(names[i]),
                                             ", which has been named before; expected each name once"));
        }
        kinds.push_back(kind);
    }
    return kinds;
}

} // namespace gpt2::sampling
