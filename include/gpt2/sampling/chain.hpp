// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/sampling/constrained.hpp"
#include "gpt2/sampling/guidance.hpp"
#include "gpt2/sampling/selection.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

/// @file
/// From options to processors.

namespace gpt2::sampling {

/// What processors have to know of tokens.
struct Vocabulary {
    std::size_t size = 0;         ///< V, the tokens that may be chosen
    std::optional<TokenId> eos{}; ///< ends the text, if any does
    /// The sequences of tokens that are Dry::sequence_breakers.
    std::vector<std::vector<TokenId>> breakers{};
};

[[nodiscard]] inline std::unique_ptr<Processor> make_forced(ProcessorKind kind, TokenId token,
                                                            std::size_t index, const Vocabulary& vocabulary) {
    if (static_cast<std::size_t>(token) >= vocabulary.size) {
        throw OptionError(detail::concat(to_string(kind), " is ", token,
                                         ", expected a token that the tokenizer knows, "
                                         "an id below ",
                                         vocabulary.size));
    }
    return std::make_unique<ForcedToken>(token, index);
}

/// One processor.
/// @param kind  is_set() in options that passed gpt2::validate
/// @param exp   the vector kernel of the machine, see ExpShifted
GPT2_HEAVY [[nodiscard]] std::unique_ptr<Processor> make_processor(ProcessorKind kind,
                                                                   const GenerationConfig& config,
                                                                   const Vocabulary& vocabulary,
                                                                   ExpShifted exp) {
    using Kind = ProcessorKind;
    const auto natural = [](const auto& value) { return static_cast<std::size_t>(*value); };
    switch (kind) {
    case Kind::guidance_scale:
        return std::make_unique<Guidance>(*config.guidance_scale, vocabulary.size, exp);
    case Kind::sequence_bias:
        return std::make_unique<SequenceBias>(config.sequence_bias);
    case Kind::logit_bias:
        return std::make_unique<LogitBias>(config.logit_bias);
    case Kind::repetition_penalty:
        return std::make_unique<RepetitionPenalty>(*config.repetition_penalty);
    case Kind::presence_penalty:
        return std::make_unique<PresencePenalty>(*config.presence_penalty);
    case Kind::frequency_penalty:
        return std::make_unique<FrequencyPenalty>(*config.frequency_penalty);
    case Kind::dry:
        return std::make_unique<DryPenalty>(*config.dry, vocabulary.breakers);
    case Kind::no_repeat_ngram_size:
        return std::make_unique<NoRepeatNgram>(natural(config.no_repeat_ngram_size));
    case Kind::bad_words_ids:
        return std::make_unique<BadWords>(config.bad_words_ids);
    case Kind::min_new_tokens:
        return std::make_unique<MinNewTokens>(natural(config.min_new_tokens), vocabulary.eos.value());
    case Kind::forced_bos_token_id:
        return make_forced(kind, *config.forced_bos_token_id, 0, vocabulary);
    case Kind::forced_eos_token_id: {
        const auto n = static_cast<std::size_t>(config.max_new_tokens);
        return make_forced(kind, *config.forced_eos_token_id, n == 0 ? 0 : n - 1, vocabulary);
    }
    case Kind::exponential_decay_length_penalty:
        return std::make_unique<ExponentialDecayLengthPenalty>(*config.exponential_decay_length_penalty,
                                                               vocabulary.eos.value());
    case Kind::suppress_tokens:
        return std::make_unique<SuppressTokens>(config.suppress_tokens);
    case Kind::begin_suppress_tokens:
        return std::make_unique<SuppressTokensAt>(config.begin_suppress_tokens,
                                                  config.forced_bos_token_id ? 1 : 0);
    case Kind::logits_processors:
        return std::make_unique<LogitsProcessors>(config.logits_processors);
    case Kind::constraint:
        return std::make_unique<Constrained>(config.constraint, vocabulary.eos.value());
    case Kind::temperature:
        return std::make_unique<Temperature>(*config.temperature);
    case Kind::top_n_sigma:
        return std::make_unique<TopNSigma>(*config.top_n_sigma);
    case Kind::top_k:
        return std::make_unique<TopK>(natural(config.top_k), config.top_k_ties);
    case Kind::top_p:
        return std::make_unique<TopP>(*config.top_p, config.top_p_rule);
    case Kind::min_p:
        return std::make_unique<MinP>(*config.min_p);
    case Kind::typical_p:
        return std::make_unique<TypicalP>(*config.typical_p, vocabulary.size);
    case Kind::epsilon_cutoff:
        return std::make_unique<EpsilonCutoff>(*config.epsilon_cutoff);
    case Kind::eta_cutoff:
        return std::make_unique<EtaCutoff>(*config.eta_cutoff);
    case Kind::xtc:
        return std::make_unique<XtcCut>(*config.xtc);
    case Kind::mirostat:
        return std::make_unique<MirostatCut>(*config.mirostat);
    }
    return nullptr;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::unique_ptr<Processor> make_processor<void>(ProcessorKind, const GenerationConfig&,
                                                              const Vocabulary&, ExpShifted);
#endif

} // namespace gpt2::sampling
