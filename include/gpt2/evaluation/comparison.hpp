// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/evaluation/divergence.hpp"
#include "gpt2/evaluation/scorer.hpp"
#include "gpt2/evaluation/statistics.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// @file
/// A candidate beside a reference on the same tokens.

namespace gpt2::evaluation {

/// What is found of two rows of logits at once.
struct RowComparison {
    Divergence divergence;
    double reference_nll = 0.0; ///< of the token that came
    double candidate_nll = 0.0;
};

/// The same block of rows of two models, compared on the candidate's threads.
/// @param reference  rows of the same tokens as @p candidate
/// @throws OptionError  for different vocabularies
[[nodiscard]] inline std::vector<RowComparison>
compare_rows(const Scorer& scorer, const ScoredRows& reference, const ScoredRows& candidate) {
    std::vector<RowComparison> out(candidate.targets.size());
    scorer.pool().parallel_for(out.size(), 4, [&](std::size_t begin, std::size_t end) {
        LogitsComparison comparison(scorer.exp());
        std::vector<float> scratch;
        for (std::size_t i = begin; i < end; ++i) {
            const auto nll = [&](const ScoredRows& rows) {
                return -log_softmax(rows.logits[i].flat(), rows.targets[i], scorer.exp(), scratch);
            };
            out[i] = {comparison.compare(reference.logits[i].flat(), candidate.logits[i].flat()),
                      nll(reference), nll(candidate)};
        }
    });
    return out;
}

/// All that was found of a candidate. Holds 8 bytes for each token.
class Comparison {
public:
    void add(const RowComparison& row) {
        kl_.add(row.divergence.kl);
        kl_values_.push_back(row.divergence.kl);
        same_first_ += row.divergence.same_first ? 1 : 0;
        shared_top_.add(static_cast<double>(row.divergence.shared_top) / static_cast<double>(top_size));
        change_.add(row.divergence.largest_change);
        largest_change_ = std::max(largest_change_, row.divergence.largest_change);
        reference_nll_.add(row.reference_nll);
        candidate_nll_.add(row.candidate_nll);
        difference_.add(row.candidate_nll - row.reference_nll);
    }

    [[nodiscard]] std::uint64_t tokens() const noexcept { return kl_.count; }

    /// Mean of the Kullback-Leibler divergence of the candidate from the reference, in nats a token.
    [[nodiscard]] Estimate kl() const noexcept { return kl_.estimate(); }

    /// @throws OptionError  without tokens, or for a share outside 0 to 1
    [[nodiscard]] std::vector<double> kl_percentiles(std::span<const double> shares) const {
        std::vector<double> sorted(kl_values_);
        std::ranges::sort(sorted);
        std::vector<double> out;
        for (const double share : shares) {
            out.push_back(percentile(sorted, share));
        }
        return out;
    }

    /// How often both models have the same most likely token.
    [[nodiscard]] Estimate top1_agreement() const noexcept { return proportion(same_first_, kl_.count); }

    /// Of the reference's top_size most likely tokens, the share that is among the candidate's.
    [[nodiscard]] Estimate top5_agreement() const noexcept { return shared_top_.estimate(); }

    [[nodiscard]] double largest_probability_change() const noexcept { return largest_change_; }

    /// Of the largest change at each position.
    [[nodiscard]] Estimate mean_probability_change() const noexcept { return change_.estimate(); }

    [[nodiscard]] Estimate reference_perplexity() const noexcept { return exponential(reference_nll_); }
    [[nodiscard]] Estimate candidate_perplexity() const noexcept { return exponential(candidate_nll_); }

    /// The candidate's perplexity divided by the reference's.
    [[nodiscard]] Estimate perplexity_ratio() const noexcept { return exponential(difference_); }

private:
    RunningStatistics kl_;
    std::vector<double> kl_values_;
    std::uint64_t same_first_ = 0;
    RunningStatistics shared_top_;
    RunningStatistics change_;
    double largest_change_ = 0.0;
    RunningStatistics reference_nll_;
    RunningStatistics candidate_nll_;
    RunningStatistics difference_;
};

} // namespace gpt2::evaluation
