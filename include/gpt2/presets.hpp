// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/generation_config.hpp"

#include <array>
#include <string_view>

/// @file
/// The ways in which other programs choose tokens, by name.

namespace gpt2 {

inline constexpr std::array<std::string_view, 3> preset_names{"openai", "huggingface", "llama.cpp"};

/// How another program chooses tokens when it is not told otherwise, and what its options mean there; change
/// what you like. How long the text may be, and what else it ends with, is not part of it.
///
/// - `openai`: the scripts of https://github.com/openai/gpt-2 (src/sample.py): draws from all tokens; top_k
///   keeps ties, top_p leaves out the token that crosses the share, `<|endoftext|>` is a token like any
///   other.
/// - `huggingface`: `generate(do_sample=True)` with transformers' GenerationConfig: top_k 50, the order of
///   sampling::ProcessorKind.
/// - `llama.cpp`: llama-cli (common/common.h, common_params_sampling): top_k 40 without ties, top_p 0.95,
/// min_p
///   0.05, and the temperature 0.8 behind them; penalties look at the last 64 tokens.
///
/// @throws OptionError for another name
[[nodiscard]] inline GenerationConfig preset(std::string_view name) {
    GenerationConfig config;
    config.do_sample = true;
    if (name == "openai") {
        config.ignore_eos = true;
        config.top_k_ties = sampling::TopKTies::keep;
        config.top_p_rule = sampling::TopPRule::within;
    } else if (name == "huggingface") {
        config.top_k = 50;
    } else if (name == "llama.cpp") {
        config.top_k = 40;
        config.top_p = 0.95f;
        config.min_p = 0.05f;
        config.temperature = 0.8f;
        config.penalty_last_n = 64;
        config.top_k_ties = sampling::TopKTies::cut;
        // logit_bias comes before the chain, mirostat in the place of all that cuts. What llama.cpp lacks
        // stands between what it forbids and what it penalizes.
        config.processor_order = {"guidance_scale",
                                  "logit_bias",
                                  "sequence_bias",
                                  "bad_words_ids",
                                  "min_new_tokens",
                                  "forced_bos_token_id",
                                  "forced_eos_token_id",
                                  "exponential_decay_length_penalty",
                                  "suppress_tokens",
                                  "begin_suppress_tokens",
                                  "no_repeat_ngram_size",
                                  "logits_processors",
                                  "constraint",
                                  "repetition_penalty",
                                  "frequency_penalty",
                                  "presence_penalty",
                                  "dry",
                                  "top_n_sigma",
                                  "top_k",
                                  "typical_p",
                                  "top_p",
                                  "min_p",
                                  "epsilon_cutoff",
                                  "eta_cutoff",
                                  "xtc",
                                  "temperature",
                                  "mirostat"};
    } else {
        throw OptionError(detail::concat("the preset is ", detail::quoted(name),
                                         ", expected \"openai\", \"huggingface\" or \"llama.cpp\""));
    }
    return config;
}

} // namespace gpt2
