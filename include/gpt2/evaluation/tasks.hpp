// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/evaluation/data_set.hpp"
#include "gpt2/evaluation/scorer.hpp"
#include "gpt2/evaluation/statistics.hpp"
#include "gpt2/model.hpp"
#include "gpt2/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// What a model makes of the examples of a data set. docs/evaluation.md says which published protocol each
/// number follows.

namespace gpt2::evaluation {

/// What a model says of one choice of an example.
struct ChoiceScore {
    double log_probability = 0.0; ///< natural, of before + choice + after, given the context
    std::size_t tokens = 0;       ///< in before + choice + after
    std::size_t characters = 0;   ///< in the choice alone
    bool is_first = false;        ///< each token has the largest logit: greedy decoding writes it
    TokenScore last_token;

    /// What lm-evaluation-harness compares for acc_norm. (Its documentation says bytes, its code counts
    /// characters, and in ASCII both are the same.)
    [[nodiscard]] double per_character() const noexcept {
        return log_probability / static_cast<double>(characters);
    }

    /// What llm.c compares for acc_norm.
    [[nodiscard]] double per_token() const noexcept { return log_probability / static_cast<double>(tokens); }
};

/// The choice with the largest value, the first of equal ones.
/// @param value  a member of ChoiceScore, or a function of one
template <class Value>
[[nodiscard]] std::size_t best_choice(std::span<const ChoiceScore> scores, Value value) {
    return static_cast<std::size_t>(std::ranges::max_element(scores, {}, value) - scores.begin());
}

} // namespace gpt2::evaluation

namespace gpt2::detail {

/// The passages of an example, one for each choice.
struct EncodedExample {
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::size_t> first; ///< see Passage
    std::size_t rows = 0;           ///< of the longest

    [[nodiscard]] evaluation::Passage passage(std::size_t choice) const noexcept {
        return {tokens[choice], first[choice]};
    }
};

/// White space at the end of the context goes to what follows, where the tokenizer puts it, too: the tokens
/// are then those of the whole text. An empty context is the token that training texts began with. What is
/// longer than n_positions + 1 tokens, of which the model reads all but the last, loses its beginning.
/// @throws FormatError naming the example, if a choice alone is longer than n_positions
[[nodiscard]] inline EncodedExample encode_example(const Gpt2Model& model,
                                                   const evaluation::Example& example) {
    const std::string_view given = example.context;
    const std::size_t end = end_of_last(given, false);
    const std::vector<TokenId> context = model.encode_prompt(given.substr(0, end));
    const std::size_t n_positions = model.config().n_positions;
    EncodedExample out;
    for (std::size_t i = 0; i < example.choices.size(); ++i) {
        const std::vector<TokenId> rest = model.tokenizer().encode(
            concat(given.substr(end), example.before, example.choices[i], example.after));
        if (rest.empty() || rest.size() > n_positions) {
            throw FormatError(concat(example.where, ": choice ", i, ": expected 1 to ", n_positions,
                                     " tokens, the positions of the model, found ", rest.size()));
        }
        const std::size_t kept = std::min(context.size(), n_positions + 1 - rest.size());
        std::vector<TokenId> tokens(context.end() - static_cast<std::ptrdiff_t>(kept), context.end());
        tokens.insert(tokens.end(), rest.begin(), rest.end());
        out.rows = std::max(out.rows, tokens.size() - 1);
        out.tokens.push_back(std::move(tokens));
        out.first.push_back(kept);
    }
    return out;
}

[[nodiscard]] inline std::size_t count_characters(std::string_view text) noexcept {
    std::size_t count = 0;
    for (; !text.empty(); ++count) {
        text.remove_prefix(decode_utf8(text).size);
    }
    return count;
}

[[nodiscard]] inline evaluation::ChoiceScore sum_of(std::span<const evaluation::TokenScore> tokens,
                                                    std::string_view choice) noexcept {
    evaluation::ChoiceScore score{.log_probability = 0.0,
                                  .tokens = tokens.size(),
                                  .characters = count_characters(choice),
                                  .is_first = true,
                                  .last_token = tokens.back()};
    for (const evaluation::TokenScore& token : tokens) {
        score.log_probability += token.log_probability;
        score.is_first = score.is_first && token.is_first;
    }
    return score;
}

/// Scores examples that share passes: first the first choice of each, then the second, so that each session
/// keeps the context of its example.
inline void score_together(evaluation::Scorer& scorer, std::span<const evaluation::Example> examples,
                           std::span<const EncodedExample> encoded,
                           std::vector<std::vector<evaluation::ChoiceScore>>& out) {
    const std::size_t first = out.size();
    out.resize(first + examples.size());
    for (std::size_t choice = 0;; ++choice) {
        std::vector<evaluation::Passage> passages;
        for (const EncodedExample& example : encoded) {
            if (choice < example.tokens.size()) {
                passages.push_back(example.passage(choice));
            }
        }
        if (passages.empty()) {
            return;
        }
        const std::vector<evaluation::TokenScore> tokens = scorer.score(passages);
        std::span<const evaluation::TokenScore> rest = tokens;
        for (std::size_t i = 0; i < examples.size(); ++i) {
            if (choice < encoded[i].tokens.size()) {
                const std::size_t n = encoded[i].passage(choice).rows();
                out[first + i].push_back(sum_of(rest.first(n), examples[i].choices[choice]));
                rest = rest.subspan(n);
            }
        }
    }
}

} // namespace gpt2::detail

namespace gpt2::evaluation {

/// Scores all choices of examples. Short ones share passes, and a context is read once for all its choices;
/// the scores are those of each choice alone.
/// @returns for each example the score of each choice
/// @throws FormatError   for a choice that is longer than the model's positions
/// @throws NumericError  if a logit is not finite; both name the example
[[nodiscard]] inline std::vector<std::vector<ChoiceScore>> score_examples(Scorer& scorer,
                                                                          std::span<const Example> examples) {
    std::vector<detail::EncodedExample> encoded;
    for (const Example& example : examples) {
        encoded.push_back(detail::encode_example(scorer.model(), example));
    }
    std::vector<std::vector<ChoiceScore>> out;
    while (out.size() < examples.size()) {
        const std::size_t begin = out.size();
        std::size_t end = begin + 1;
        for (std::size_t rows = encoded[begin].rows; end < examples.size(); ++end) {
            rows += encoded[end].rows;
            if (rows > Scorer::rows_per_pass) {
                break;
            }
        }
        try {
            detail::score_together(scorer, examples.subspan(begin, end - begin),
                                   std::span(encoded).subspan(begin, end - begin), out);
        } catch (const NumericError& e) {
            const std::string others =
                end - begin == 1 ? ""
                                 : detail::concat(" or one of the ", end - begin - 1, " examples after it");
            throw NumericError(detail::concat(examples[begin].where, others, ": ", e.what()));
        }
    }
    return out;
}

/// How well last words are foreseen.
struct LastWordScore {
    RunningStatistics nll;                ///< -ln p of each word: the sum over its tokens
    RunningStatistics last_token_nll;     ///< of the last token of each, given all before it
    std::uint64_t correct = 0;            ///< words that greedy decoding writes
    std::uint64_t last_token_correct = 0; ///< last tokens that have the largest logit, given all before them

    void add(const ChoiceScore& word) noexcept {
        nll.add(-word.log_probability);
        last_token_nll.add(-word.last_token.log_probability);
        correct += word.is_first ? 1 : 0;
        last_token_correct += word.last_token.is_first ? 1 : 0;
    }

    [[nodiscard]] std::uint64_t count() const noexcept { return nll.count; }
    [[nodiscard]] Estimate accuracy() const noexcept { return proportion(correct, count()); }
    [[nodiscard]] Estimate perplexity() const noexcept { return exponential(nll); } ///< per word
    [[nodiscard]] Estimate last_token_accuracy() const noexcept {
        return proportion(last_token_correct, count());
    }
    [[nodiscard]] Estimate last_token_perplexity() const noexcept { return exponential(last_token_nll); }
};

/// How often the right choice has the largest log-probability: of all its tokens, per character and per
/// token.
struct AccuracyScore {
    std::uint64_t count = 0;
    std::uint64_t correct = 0;
    std::uint64_t correct_per_character = 0;
    std::uint64_t correct_per_token = 0;
    double expected_correct = 0.0; ///< of one who guesses

    void add(std::span<const ChoiceScore> choices, std::size_t label) {
        ++count;
        correct += best_choice(choices, &ChoiceScore::log_probability) == label ? 1 : 0;
        correct_per_character += best_choice(choices, &ChoiceScore::per_character) == label ? 1 : 0;
        correct_per_token += best_choice(choices, &ChoiceScore::per_token) == label ? 1 : 0;
        expected_correct += 1.0 / static_cast<double>(choices.size());
    }

    [[nodiscard]] Estimate accuracy() const noexcept { return proportion(correct, count); }
    [[nodiscard]] Estimate accuracy_per_character() const noexcept {
        return proportion(correct_per_character, count);
    }
    [[nodiscard]] Estimate accuracy_per_token() const noexcept {
        return proportion(correct_per_token, count);
    }
    [[nodiscard]] double chance() const noexcept {
        return count == 0 ? 0.0 : expected_correct / static_cast<double>(count);
    }
};

} // namespace gpt2::evaluation
