// SPDX-License-Identifier: MIT
#pragma once

#include "c_arguments.hpp"
#include "gpt2.h"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// libgpt2: the options, from C.

namespace gpt2::bindings {

inline constexpr gpt2_load_options default_load_options{};
inline constexpr gpt2_session_options default_session_options{};

inline gpt2_generation_config default_generation_config() {
    gpt2_generation_config config{};
    config.max_new_tokens = GenerationConfig{}.max_new_tokens;
    return config;
}

inline std::optional<WeightType> weight_type(std::string_view name, std::int32_t value) {
    switch (choice(name, value, GPT2_WEIGHTS_INT4)) {
    case GPT2_WEIGHTS_FLOAT32:
        return WeightType::float32;
    case GPT2_WEIGHTS_FLOAT16:
        return WeightType::float16;
    case GPT2_WEIGHTS_BFLOAT16:
        return WeightType::bfloat16;
    case GPT2_WEIGHTS_INT8:
        return WeightType::int8;
    case GPT2_WEIGHTS_INT4:
        return WeightType::int4;
    default:
        return std::nullopt;
    }
}

inline std::optional<Isa> isa_of(std::int32_t value) {
    switch (choice("isa", value, GPT2_ISA_AVX512_VNNI)) {
    case GPT2_ISA_PORTABLE:
        return Isa::portable;
    case GPT2_ISA_AVX2:
        return Isa::avx2;
    case GPT2_ISA_AVX2_VNNI:
        return Isa::avx2_vnni;
    case GPT2_ISA_AVX512:
        return Isa::avx512;
    case GPT2_ISA_AVX512_VNNI:
        return Isa::avx512_vnni;
    default:
        return std::nullopt;
    }
}

inline std::shared_ptr<ThreadPool> pool_of(const gpt2_pool* pool) {
    return pool != nullptr ? pool->pool : nullptr;
}

inline LoadOptions load_options(const gpt2_load_options* given) {
    const gpt2_load_options c = known("gpt2_load_options", given, default_load_options);
    LoadOptions options;
    options.weights = weight_type("weights", c.weights);
    options.head = weight_type("head", c.head);
    options.isa = isa_of(c.isa);
    options.residency =
        choice("residency", c.residency, GPT2_RESIDENCY_HUGE_PAGES) == GPT2_RESIDENCY_HUGE_PAGES
            ? Residency::huge_pages
            : Residency::mapped;
    options.verify = flag("verify", c.verify);
    options.screen_head = flag("screen_head", c.screen_head);
    options.pool = pool_of(c.pool);
    return options;
}

inline SessionOptions session_options(const gpt2_session_options* given) {
    const gpt2_session_options c = known("gpt2_session_options", given, default_session_options);
    require_reserved(c.reserved);
    SessionOptions options;
    options.pool = pool_of(c.pool);
    if (choice("kv_dtype", c.kv_dtype, GPT2_KV_FLOAT16) != GPT2_KV_DEFAULT) {
        options.kv_dtype = c.kv_dtype == GPT2_KV_FLOAT16 ? KvDtype::float16 : KvDtype::float32;
    }
    return options;
}

inline std::vector<TokenId> tokens_of(std::string_view name, const gpt2_tokens& tokens) {
    const std::span<const TokenId> span = array(tokens.data, tokens.size, name);
    return {span.begin(), span.end()};
}

inline std::vector<std::vector<TokenId>> sequences_of(std::string_view name, const gpt2_tokens* sequences,
                                                      std::size_t n) {
    std::vector<std::vector<TokenId>> result;
    for (const gpt2_tokens& sequence : array(sequences, n, name)) {
        result.push_back(tokens_of(name, sequence));
    }
    return result;
}

inline std::vector<std::string> texts_of(std::string_view name, const gpt2_bytes* texts, std::size_t n) {
    std::vector<std::string> result;
    for (const gpt2_bytes& text : array(texts, n, name)) {
        result.emplace_back(text_of(text.data, text.size, name));
    }
    return result;
}

/// Gives @p member a value if there is one; else it has its default.
template <class Member, class Optional>
void take(Member& member, std::string_view name, const Optional& given) {
    if (const auto value = optional(name, given)) {
        member = *value;
    }
}

inline Overflow overflow_of(std::int32_t value) {
    switch (choice("overflow", value, GPT2_OVERFLOW_TRUNCATE_LEFT)) {
    case GPT2_OVERFLOW_SLIDE:
        return Overflow::slide;
    case GPT2_OVERFLOW_TRUNCATE_LEFT:
        return Overflow::truncate_left;
    default:
        return Overflow::error;
    }
}

inline std::optional<sampling::EarlyStopping> early_stopping_of(std::int32_t value) {
    switch (choice("early_stopping", value, GPT2_EARLY_STOPPING_NEVER)) {
    case GPT2_EARLY_STOPPING_OFF:
        return sampling::EarlyStopping::off;
    case GPT2_EARLY_STOPPING_ON:
        return sampling::EarlyStopping::on;
    case GPT2_EARLY_STOPPING_NEVER:
        return sampling::EarlyStopping::never;
    default:
        return std::nullopt;
    }
}

inline sampling::ExponentialDecay exponential_decay_of(const gpt2_exponential_decay& given) {
    require_reserved(given.reserved);
    return {.start = given.start, .factor = given.factor};
}

inline sampling::Dry dry_of(const gpt2_dry& given) {
    sampling::Dry dry;
    take(dry.multiplier, "dry.multiplier", given.multiplier);
    take(dry.base, "dry.base", given.base);
    take(dry.allowed_length, "dry.allowed_length", given.allowed_length);
    dry.penalty_last_n = optional("dry.penalty_last_n", given.penalty_last_n);
    if (given.sequence_breakers != nullptr || given.n_sequence_breakers > 0) {
        dry.sequence_breakers =
            texts_of("dry.sequence_breakers", given.sequence_breakers, given.n_sequence_breakers);
    }
    return dry;
}

inline sampling::Xtc xtc_of(const gpt2_xtc& given) {
    sampling::Xtc xtc;
    take(xtc.probability, "xtc.probability", given.probability);
    take(xtc.threshold, "xtc.threshold", given.threshold);
    return xtc;
}

inline sampling::Mirostat mirostat_of(const gpt2_mirostat& given) {
    sampling::Mirostat mirostat;
    take(mirostat.tau, "mirostat.tau", given.tau);
    take(mirostat.eta, "mirostat.eta", given.eta);
    return mirostat;
}

/// What @p convert makes of what @p given points at; nothing of null.
template <class T, class Convert>
auto optional_of(const T* given, Convert&& convert) -> std::optional<decltype(convert(*given))> {
    return given != nullptr ? std::optional(convert(*given)) : std::nullopt;
}

inline std::map<TokenId, float> logit_bias_of(std::span<const gpt2_logit_bias> given) {
    std::map<TokenId, float> result;
    for (const gpt2_logit_bias& one : given) {
        if (!result.emplace(one.token, one.bias).second) {
            throw OptionError(concat("logit_bias: expected each token once, found ", one.token, " twice"));
        }
    }
    return result;
}

inline std::map<std::vector<TokenId>, float> sequence_bias_of(std::span<const gpt2_sequence_bias> given) {
    std::map<std::vector<TokenId>, float> result;
    for (std::size_t i = 0; i < given.size(); ++i) {
        require_reserved(given[i].reserved);
        if (!result.emplace(tokens_of("sequence_bias", given[i].tokens), given[i].bias).second) {
            throw OptionError(
                concat("sequence_bias: expected each sequence once, found that of number ", i, " twice"));
        }
    }
    return result;
}

inline sampling::LogitsProcessor logits_processor_of(const gpt2_logits_processor& given) {
    required(given.function, "logits_processors");
    return [given](std::span<const TokenId> tokens, std::span<float> scores) {
        given.function(tokens.data(), tokens.size(), scores.data(), scores.size(), given.user_data);
    };
}

/// What gpt2_generation_config had first, and what a result tells of probabilities.
inline void take_basics(GenerationConfig& config, const gpt2_generation_config& c) {
    config.max_new_tokens = c.max_new_tokens;
    config.do_sample = flag("do_sample", c.do_sample);
    config.temperature = optional("temperature", c.temperature);
    config.top_k = optional("top_k", c.top_k);
    config.top_p = optional("top_p", c.top_p);
    config.min_p = optional("min_p", c.min_p);
    config.repetition_penalty = optional("repetition_penalty", c.repetition_penalty);
    config.seed = optional("seed", c.seed);
    config.sample = c.sample;
    config.stop_strings = texts_of("stop_strings", c.stop_strings, c.n_stop_strings);
    config.logprobs = flag("logprobs", c.logprobs);
    config.top_logprobs = c.top_logprobs;
    config.prompt_logprobs = flag("prompt_logprobs", c.prompt_logprobs);
    config.eos_token_id = optional_token("eos_token_id", c.eos_token_id);
    config.ignore_eos = flag("ignore_eos", c.ignore_eos);
    config.overflow = overflow_of(c.overflow);
}

/// Several texts, the ways to search, speculation, what a text matches, and the end from outside.
inline void take_modes(GenerationConfig& config, const gpt2_generation_config& c) {
    config.max_time = optional("max_time", c.max_time);
    if (c.cancellation != nullptr) {
        config.cancellation = c.cancellation->source.get_token();
    }
    take(config.num_return_sequences, "num_return_sequences", c.num_return_sequences);
    take(config.num_beams, "num_beams", c.num_beams);
    take(config.num_beam_groups, "num_beam_groups", c.num_beam_groups);
    config.length_penalty = optional("length_penalty", c.length_penalty);
    config.diversity_penalty = optional("diversity_penalty", c.diversity_penalty);
    config.early_stopping = early_stopping_of(c.early_stopping);
    config.penalty_alpha = optional("penalty_alpha", c.penalty_alpha);
    if (c.constraint != nullptr) {
        config.constraint = c.constraint->constraint;
    }
    config.prompt_lookup_num_tokens = optional("prompt_lookup_num_tokens", c.prompt_lookup_num_tokens);
    config.max_matching_ngram_size = optional("max_matching_ngram_size", c.max_matching_ngram_size);
    config.num_assistant_tokens = optional("num_assistant_tokens", c.num_assistant_tokens);
    if (c.assistant_model != nullptr) {
        config.assistant_model = std::make_shared<DraftModel>(c.assistant_model->model);
    }
}

inline void take_numbers_of_processors(GenerationConfig& config, const gpt2_generation_config& c) {
    config.top_k_ties = choice("top_k_ties", c.top_k_ties, GPT2_TOP_K_TIES_CUT) == GPT2_TOP_K_TIES_CUT
                            ? sampling::TopKTies::cut
                            : sampling::TopKTies::keep;
    config.top_p_rule = choice("top_p_rule", c.top_p_rule, GPT2_TOP_P_WITHIN) == GPT2_TOP_P_WITHIN
                            ? sampling::TopPRule::within
                            : sampling::TopPRule::reach;
    config.guidance_scale = optional("guidance_scale", c.guidance_scale);
    config.typical_p = optional("typical_p", c.typical_p);
    config.epsilon_cutoff = optional("epsilon_cutoff", c.epsilon_cutoff);
    config.eta_cutoff = optional("eta_cutoff", c.eta_cutoff);
    config.top_n_sigma = optional("top_n_sigma", c.top_n_sigma);
    config.presence_penalty = optional("presence_penalty", c.presence_penalty);
    config.frequency_penalty = optional("frequency_penalty", c.frequency_penalty);
    config.penalty_last_n = optional("penalty_last_n", c.penalty_last_n);
    config.no_repeat_ngram_size = optional("no_repeat_ngram_size", c.no_repeat_ngram_size);
    config.forced_bos_token_id = optional_token("forced_bos_token_id", c.forced_bos_token_id);
    config.forced_eos_token_id = optional_token("forced_eos_token_id", c.forced_eos_token_id);
    config.min_new_tokens = optional("min_new_tokens", c.min_new_tokens);
}

inline void take_lists_of_processors(GenerationConfig& config, const gpt2_generation_config& c) {
    config.negative_prompt_ids = tokens_of("negative_prompt_ids", c.negative_prompt_ids);
    config.suppress_tokens = tokens_of("suppress_tokens", c.suppress_tokens);
    config.begin_suppress_tokens = tokens_of("begin_suppress_tokens", c.begin_suppress_tokens);
    config.bad_words_ids = sequences_of("bad_words_ids", c.bad_words_ids, c.n_bad_words_ids);
    config.sequence_bias = sequence_bias_of(array(c.sequence_bias, c.n_sequence_bias, "sequence_bias"));
    config.logit_bias = logit_bias_of(array(c.logit_bias, c.n_logit_bias, "logit_bias"));
    config.exponential_decay_length_penalty =
        optional_of(c.exponential_decay_length_penalty, exponential_decay_of);
    config.dry = optional_of(c.dry, dry_of);
    config.xtc = optional_of(c.xtc, xtc_of);
    config.mirostat = optional_of(c.mirostat, mirostat_of);
    for (const auto& own : array(c.logits_processors, c.n_logits_processors, "logits_processors")) {
        config.logits_processors.push_back(logits_processor_of(own));
    }
    for (const char* const name : array(c.processor_order, c.n_processor_order, "processor_order")) {
        config.processor_order.emplace_back(&required(name, "processor_order"));
    }
}

/// Here, and in the header, is where a new option goes.
inline GenerationConfig generation_config(const gpt2_generation_config* given) {
    const gpt2_generation_config c = known("gpt2_generation_config", given, default_generation_config());
    GenerationConfig config;
    take_basics(config, c);
    take_modes(config, c);
    take_numbers_of_processors(config, c);
    take_lists_of_processors(config, c);
    return config;
}

inline std::filesystem::path path_of(const char* path) {
#if defined(_WIN32)
    return std::filesystem::path(reinterpret_cast<const char8_t*>(&required(path, "path")));
#else
    return std::filesystem::path(&required(path, "path"));
#endif
}

} // namespace gpt2::bindings
