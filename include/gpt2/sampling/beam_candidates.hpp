// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/logits.hpp"
#include "gpt2/math.hpp"
#include "gpt2/sampling/beam_scorer.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Which tokens may follow the beams of a search: the best, or some that are drawn.

namespace gpt2::sampling {

/// Collects the candidates of one step. Of equal scores those of the earlier beam, then of the lower id, come
/// first. One caller at a time.
class BeamCandidates {
public:
    explicit BeamCandidates(std::size_t vocab_size) : top_k_(vocab_size) {}

    void clear() noexcept { candidates_.clear(); }

    /// Adds the tokens that may follow a beam; those with a score of -infinity may not.
    /// @param sum       the score of the beam
    /// @param scores    [V] log-probabilities after the processors
    /// @param logprobs  [V] before
    /// @param n         only the n best, and what equals the last of them
    void add(std::size_t beam, double sum, std::span<const float> scores, std::span<const float> logprobs,
             std::size_t n = std::numeric_limits<std::size_t>::max()) {
        const auto add_one = [&](std::size_t token) {
            if (scores[token] >= std::numeric_limits<float>::lowest()) {
                candidates_.push_back({beam, static_cast<TokenId>(token),
                                       sum + static_cast<double>(scores[token]), logprobs[token]});
            }
        };
        if (n < scores.size()) {
            top_k_.select(scores, n);
            for (const TokenId token : top_k_.ids()) {
                add_one(static_cast<std::size_t>(token));
            }
            return;
        }
        for (std::size_t token = 0; token < scores.size(); ++token) {
            add_one(token);
        }
    }

    /// The n best, or all if there are fewer; best first. Good until the next call.
    [[nodiscard]] std::span<const BeamCandidate> best(std::size_t n) {
        const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(std::min(n, candidates_.size()));
        std::partial_sort(candidates_.begin(), end, candidates_.end(), comes_first);
        return std::span(candidates_).first(static_cast<std::size_t>(end - candidates_.begin()));
    }

    /// So many drawn one after the other, each in proportion to e^score among those that are left; fewer if
    /// nothing is left. Best first. Good until the next call. This is torch.multinomial without replacement,
    /// with other random numbers.
    /// @param uniform  called with 0 to n - 1, answers a random number in [0, 1)
    template <class Uniform>
    [[nodiscard]] std::span<const BeamCandidate> drawn(std::size_t n, Uniform uniform) {
        weigh();
        std::size_t taken = 0;
        for (; taken < std::min(n, candidates_.size()); ++taken) {
            const std::size_t chosen = draw(taken, uniform(taken));
            if (chosen == candidates_.size()) {
                break;
            }
            // The others stay in order, so that a draw means the same whatever was drawn before.
            const auto to = static_cast<std::ptrdiff_t>(taken);
            const auto from = static_cast<std::ptrdiff_t>(chosen);
            std::rotate(candidates_.begin() + to, candidates_.begin() + from, candidates_.begin() + from + 1);
            std::rotate(weights_.begin() + to, weights_.begin() + from, weights_.begin() + from + 1);
        }
        std::sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(taken), comes_first);
        return std::span(candidates_).first(taken);
    }

private:
    [[nodiscard]] static bool comes_first(const BeamCandidate& a, const BeamCandidate& b) noexcept {
        return a.score != b.score ? a.score > b.score
               : a.beam != b.beam ? a.beam < b.beam
                                  : a.token < b.token;
    }

    void weigh() {
        weights_.resize(candidates_.size());
        double largest = std::numeric_limits<double>::lowest();
        for (const BeamCandidate& candidate : candidates_) {
            largest = std::max(largest, candidate.score);
        }
        for (std::size_t i = 0; i < candidates_.size(); ++i) {
            weights_[i] = detail::portable_exp(candidates_[i].score - largest);
        }
    }

    /// The first from @p begin on at which the sum of weights passes u times the whole; the number of
    /// candidates if none has a weight.
    [[nodiscard]] std::size_t draw(std::size_t begin, double u) const {
        double whole = 0.0;
        for (std::size_t i = begin; i < weights_.size(); ++i) {
            whole += weights_[i];
        }
        const double target = u * whole;
        double sum = 0.0;
        std::size_t last = weights_.size();
        for (std::size_t i = begin; i < weights_.size() && !(sum > target); ++i) {
            sum += weights_[i];
            last = weights_[i] > 0.0 ? i : last;
        }
        return last;
    }

    detail::TopK top_k_;
    std::vector<BeamCandidate> candidates_;
    std::vector<double> weights_; ///< of the candidates, when some are drawn
};

} // namespace gpt2::sampling
