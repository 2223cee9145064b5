// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/sampling/beam_scorer.hpp"
#include "gpt2/sampling/constraints.hpp"
#include "gpt2/sampling/mirostat.hpp"
#include "gpt2/sampling/penalties.hpp"
#include "gpt2/sampling/truncation.hpp"
#include "gpt2/speculation/drafter.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

/// @file
/// What a user may ask of generate(). generation_checks.hpp says whether it makes sense.

namespace gpt2 {

class Constraint;

/// What to do when the text outgrows the context.
enum class Overflow {
    error,         ///< refuse before any work: ContextError
    slide,         ///< forget all but the last n_positions / 2 tokens, which start again from position 0
    truncate_left, ///< before any work forget the oldest tokens, as many as leave no room for max_new_tokens
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

    /// Above 1: the text goes away from how it would go on after negative_prompt_ids, below 1 towards it.
    /// Costs a second sequence.
    std::optional<float> guidance_scale{};
    /// What stands in the place of everything before the text; empty: the last token of that.
    std::vector<TokenId> negative_prompt_ids{};
    /// Draw from the tokens whose surprise is nearest to the expected one and that hold this share of the
    /// probability, above 0 to 1. 1 leaves all.
    std::optional<float> typical_p{};
    /// Draw from tokens at least so probable, 0 to below 1; the most probable one always stays.
    std::optional<float> epsilon_cutoff{};
    /// The same with a threshold that falls where the distribution is flat.
    std::optional<float> eta_cutoff{};
    /// Draw from tokens whose logit is at most so many standard deviations below the largest. Above 0.
    std::optional<float> top_n_sigma{};
    /// Subtracted from the logits of the tokens of the prompt and of the text so far.
    std::optional<float> presence_penalty{};
    /// The same for each time that a token occurs.
    std::optional<float> frequency_penalty{};
    /// How many of the last tokens the penalties for repetition, presence and frequency look at. Without a
    /// value all.
    std::optional<std::int64_t> penalty_last_n{};
    /// No sequence of so many tokens comes a second time, the prompt included. 0: off.
    std::optional<std::int64_t> no_repeat_ngram_size{};
    /// Sequences of tokens that never come up.
    std::vector<std::vector<TokenId>> bad_words_ids{};
    /// Tokens that never come up.
    std::vector<TokenId> suppress_tokens{};
    /// Tokens that are not the first of the text; after a forced one, not the second.
    std::vector<TokenId> begin_suppress_tokens{};
    /// The first token of the text. Only for a prompt of one token, as an empty one is; another is an error.
    std::optional<TokenId> forced_bos_token_id{};
    /// The last token that max_new_tokens allows, if the text has not ended before.
    std::optional<TokenId> forced_eos_token_id{};
    /// Added to the logit of the last token of a sequence, where the text ends with those before it.
    std::map<std::vector<TokenId>, float> sequence_bias{};
    /// Added to the logit of a token; -infinity forbids it.
    std::map<TokenId, float> logit_bias{};
    /// The model does not end the text before so many tokens. (A stop string may.)
    std::optional<std::int64_t> min_new_tokens{};
    /// Makes the end of the text more probable, the longer it gets.
    std::optional<sampling::ExponentialDecay> exponential_decay_length_penalty{};
    /// Makes the tokens that would continue a repetition less probable, the longer it is.
    std::optional<sampling::Dry> dry{};
    /// Now and then excludes the most probable tokens.
    std::optional<sampling::Xtc> xtc{};
    /// Chooses how many tokens to draw from, so that the text keeps a given surprise; instead of top_k and
    /// all the others that do.
    std::optional<sampling::Mirostat> mirostat{};
    /// What top_k does with tokens that equal the last of the k.
    sampling::TopKTies top_k_ties = sampling::TopKTies::keep;
    /// Whether top_p takes the token that crosses the share.
    sampling::TopPRule top_p_rule = sampling::TopPRule::reach;
    /// The user's own, called one after the other for each token.
    std::vector<sampling::LogitsProcessor> logits_processors{};
    /// Names of options in the order in which they come to the logits, all that are set among them; empty:
    /// Hugging Face's order, sampling::ProcessorKind.
    std::vector<std::string> processor_order{};
    /// Seconds from the start of generate(), 0 or more, after which no further token is begun. A token that
    /// is under way then is given up within the work of one layer; in the prompt there may be none at all.
    std::optional<double> max_time{};
    /// Ends the text when a stop is requested of its std::stop_source, which any thread may do at any time:
    /// within the work of one layer, in the prompt too. The result is the text so far.
    std::stop_token cancellation{};
    /// How many texts Gpt2Model::generate_batch writes from each prompt, 1 or more: those of `sample` and of
    /// the numbers that follow it; with beams the best, at most num_beams.
    std::int64_t num_return_sequences = 1;
    /// Above 1: beam search. The texts that are followed at once, to find one that is more probable as a
    /// whole.
    std::int64_t num_beams = 1;
    /// The score of a text is the sum of its log-probabilities / length^length_penalty: above 0 favours long
    /// texts, below 0 short ones. Without a value 1.
    std::optional<float> length_penalty{};
    /// When a search with num_beams complete texts ends. Without a value sampling::EarlyStopping::off.
    std::optional<sampling::EarlyStopping> early_stopping{};
    /// Divides the beams into so many groups, each of which keeps away from what the earlier ones choose.
    std::int64_t num_beam_groups = 1;
    /// Subtracted from the log-probability of a token for each beam of an earlier group that chooses it at
    /// the same place. Above 0; with groups only.
    std::optional<float> diversity_penalty{};

    /// Speculative decoding, which changes how fast a text comes and nothing of it: up to so many tokens,
    /// those that followed the last ones where these came up before, are read in one pass with the last, and
    /// kept as far as the model chooses the same. docs/speculation.md says when that pays.
    std::optional<std::int64_t> prompt_lookup_num_tokens{};
    /// How many of the last tokens are looked up at most; first all of them, then fewer. Without a value 2.
    std::optional<std::int64_t> max_matching_ngram_size{};
    /// The same with proposals from a DraftModel or another Drafter; null: none.
    std::shared_ptr<const Drafter> assistant_model{};
    /// How many tokens it proposes at most for one pass. Without a value 5.
    std::optional<std::int64_t> num_assistant_tokens{};

    /// Above 0: so many of the most probable tokens at each place, with their log-probabilities.
    std::int64_t top_logprobs = 0;
    /// Compute the log-probability of each token of the prompt, and with top_logprobs what was more probable.
    bool prompt_logprobs = false;
    /// Above 0, at most 1: contrastive search. Of the top_k most probable tokens the one with the largest
    /// (1 - penalty_alpha) p - penalty_alpha c, where c is the largest cosine between its last hidden state
    /// and those of all tokens before it. Needs a top_k of 2 or more; each token costs a pass of so many
    /// rows.
    std::optional<float> penalty_alpha{};
    /// The text matches this regular expression or grammar, as a whole when it ends with FinishReason::eos;
    /// as far as it goes when something else ends it. Null: any text.
    std::shared_ptr<const Constraint> constraint{};
};

/// What Overflow::slide keeps of the tokens so far: the last n_positions / 2, at least one.
[[nodiscard]] inline std::span<const TokenId> slide_window(std::span<const TokenId> tokens,
                                                           std::size_t n_positions) noexcept {
    const std::size_t kept = std::max<std::size_t>(n_positions / 2, 1);
    return tokens.size() > kept ? tokens.last(kept) : tokens;
}

/// What a session reads that slides: of the tokens that it holds and those that come, slide_window().
[[nodiscard]] inline std::vector<TokenId>
slide_window(std::span<const TokenId> held, std::span<const TokenId> tokens, std::size_t n_positions) {
    std::vector<TokenId> all(held.begin(), held.end());
    all.insert(all.end(), tokens.begin(), tokens.end());
    const std::span<const TokenId> kept = slide_window(all, n_positions);
    return {kept.begin(), kept.end()};
}

/// What a text begins after: with Overflow::truncate_left the last of @p tokens, so that there is room for
/// max_new_tokens, else all of them.
[[nodiscard]] inline std::span<const TokenId> context_of(std::span<const TokenId> tokens,
                                                         const GenerationConfig& config,
                                                         std::size_t n_positions) noexcept {
    const std::size_t room = n_positions - static_cast<std::size_t>(config.max_new_tokens);
    return config.overflow == Overflow::truncate_left && tokens.size() > room ? tokens.last(room) : tokens;
}

} // namespace gpt2
