// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/model.hpp"
#include "gpt2/session.hpp"
#include "gpt2/thread_pool.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// What a model says of given tokens: many passages through few forward passes.

namespace gpt2::evaluation {

/// Tokens of which those from @p first on are scored, each given all that are before it.
struct Passage {
    std::span<const TokenId> tokens;
    std::size_t first = 1; ///< 1 to tokens.size() - 1: nothing is before token 0

    [[nodiscard]] std::size_t rows() const noexcept { return tokens.size() - first; }
};

/// Logits of some consecutive tokens of a passage.
struct ScoredRows {
    std::size_t passage = 0;             ///< its number
    std::size_t first = 0;               ///< row i predicts tokens[first + i]
    std::span<const TokenId> targets;    ///< [n], those tokens
    TensorView<const float, 2> logits{}; ///< [n, V]; good during the call only
};

/// Of one token.
struct TokenScore {
    double log_probability = 0.0; ///< natural, given the tokens before
    bool is_first = false; ///< the model gives no token a larger logit, and none of a lower id an equal one
};

/// Runs passages through a model. One caller at a time. The logits of a passage do not depend on the others,
/// on the number of threads, or on what the scorer did before. A passage that begins like the one at the same
/// place of the batch before reads only what is new; score_examples() makes use of that.
class Scorer {
public:
    /// Called for one block of rows after the other, in the order of the passages and their tokens, with one
    /// element for each scorer.
    using Visitor = std::function<void(std::span<const ScoredRows>)>;

    /// Rows in a pass, and of logits in memory.
    static constexpr std::size_t rows_per_pass = 256;

    explicit Scorer(Gpt2Model model, SessionOptions options = {})
        : model_(std::move(model)), options_(std::move(options)) {
        options_.pool = detail::pool_or_default(options_.pool);
        sessions_.reserve(max_sessions);
    }

    /// Runs the same passages through several models of one vocabulary, block by block, so that the logits of
    /// all can be compared. Short passages share passes.
    /// @throws OptionError   for a passage whose first is out of range, and as gpt2::forward
    /// @throws ContextError  for one of more than n_positions + 1 tokens
    /// @throws NumericError  if a number leaves the finite ones
    static void run(std::span<Scorer* const> scorers, std::span<const Passage> passages,
                    const Visitor& visit) {
        for (std::size_t begin = 0; begin < passages.size();) {
            const std::size_t end = batch_end(passages, begin);
            run_batch(scorers, passages.subspan(begin, end - begin), begin, visit);
            begin = end;
        }
    }

    /// The scores of all tokens from Passage::first on, passage after passage.
    /// @throws as run()
    [[nodiscard]] std::vector<TokenScore> score(std::span<const Passage> passages);

    [[nodiscard]] const Gpt2Model& model() const noexcept { return model_; }
    [[nodiscard]] ThreadPool& pool() const noexcept { return *options_.pool; }

    /// The exponential of the model's kernels, for LogitsComparison and log_softmax().
    [[nodiscard]] ExpShifted exp() const noexcept { return kernels::kernels_for(model_.isa()).exp_shifted; }

    /// The scores of rows that run() visits.
    /// @param out  [n]
    void score_rows(const ScoredRows& rows, std::span<TokenScore> out) const;

private:
    static constexpr std::size_t max_sessions = 32;

    /// The end of the passages from @p begin on that go through one pass: the model reads all but the last
    /// token of each.
    [[nodiscard]] static std::size_t batch_end(std::span<const Passage> passages, std::size_t begin) {
        std::size_t rows = 0;
        std::size_t end = begin;
        while (end < passages.size() && end - begin < max_sessions) {
            const Passage& passage = passages[end];
            if (passage.first == 0 || passage.first >= passage.tokens.size()) {
                throw OptionError(detail::concat(
                    "passage ", end, ": expected its first scored token from 1 to ", passage.tokens.size(),
                    " - 1, as it has ", passage.tokens.size(), " tokens, found ", passage.first));
            }
            rows += passage.tokens.size() - 1;
            if (end > begin && rows > rows_per_pass) {
                break;
            }
            ++end;
        }
        return end;
    }

    /// @param number  of the first of the passages
    static void run_batch(std::span<Scorer* const> scorers, std::span<const Passage> passages,
                          std::size_t number, const Visitor& visit);

    /// Reads what is before the first row of each passage and not in its session from the last batch.
    void read_contexts(std::span<const Passage> passages);

    /// Reads rows [begin, begin + rows_per_pass) of each passage.
    void read_rows(std::span<const Passage> passages, std::size_t begin);

    Gpt2Model model_;
    SessionOptions options_;
    std::vector<Session> sessions_;
};

inline void Scorer::read_contexts(std::span<const Passage> passages) {
    while (sessions_.size() < passages.size()) {
        sessions_.emplace_back(model_, options_);
    }
    std::vector<BatchItem> items;
    for (std::size_t i = 0; i < passages.size(); ++i) {
        const auto context = passages[i].tokens.first(passages[i].first - 1);
        const auto held = sessions_[i].tokens();
        const auto same = std::ranges::mismatch(held, context).in1 - held.begin();
        const auto kept = static_cast<std::size_t>(same);
        sessions_[i].truncate(kept);
        if (kept < context.size()) {
            items.push_back({&sessions_[i], context.subspan(kept), Logits::none});
        }
    }
    forward(items);
}

inline void Scorer::read_rows(std::span<const Passage> passages, std::size_t begin) {
    std::vector<BatchItem> items;
    for (std::size_t i = 0; i < passages.size(); ++i) {
        if (const std::size_t rows = passages[i].rows(); rows > begin) {
            items.push_back({&sessions_[i],
                             passages[i].tokens.subspan(passages[i].first - 1 + begin,
                                                        std::min(rows_per_pass, rows - begin)),
                             Logits::all});
        }
    }
    forward(items);
}

inline void Scorer::run_batch(std::span<Scorer* const> scorers, std::span<const Passage> passages,
                              std::size_t number, const Visitor& visit) {
    for (Scorer* const scorer : scorers) {
        scorer->read_contexts(passages);
    }
    // A passage that has more rows than one pass is alone in its batch.
    const std::size_t most = passages.front().rows();
    for (std::size_t begin = 0; begin == 0 || begin < most; begin += rows_per_pass) {
        for (Scorer* const scorer : scorers) {
            scorer->read_rows(passages, begin);
        }
        std::vector<ScoredRows> rows(scorers.size());
        for (std::size_t i = 0; i < passages.size(); ++i) {
            const std::size_t first = passages[i].first + begin;
            for (std::size_t s = 0; s < scorers.size(); ++s) {
                const auto logits = scorers[s]->sessions_[i].logits();
                rows[s] = {number + i, first, passages[i].tokens.subspan(first, logits.dim(0)), logits};
            }
            visit(rows);
        }
    }
}

inline void Scorer::score_rows(const ScoredRows& rows, std::span<TokenScore> out) const {
    pool().parallel_for(rows.targets.size(), 4, [&](std::size_t begin, std::size_t end) {
        std::vector<float> scratch;
        for (std::size_t i = begin; i < end; ++i) {
            const std::span<const float> row = rows.logits[i].flat();
            out[i] = {log_softmax(row, rows.targets[i], exp(), scratch),
                      detail::argmax(row) == rows.targets[i]};
        }
    });
}

inline std::vector<TokenScore> Scorer::score(std::span<const Passage> passages) {
    std::vector<TokenScore> scores;
    Scorer* const self = this;
    run({&self, 1}, passages, [&](std::span<const ScoredRows> rows) {
        scores.resize(scores.size() + rows[0].targets.size());
        score_rows(rows[0], std::span(scores).last(rows[0].targets.size()));
    });
    return scores;
}

} // namespace gpt2::evaluation
