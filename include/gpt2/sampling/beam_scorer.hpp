// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/math.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Beam search without a model: which beams go on, which texts are complete, and when it ends.

namespace gpt2::sampling {

/// When a beam search with num_beams complete texts ends.
enum class EarlyStopping {
    off,   ///< when no beam, were it complete at its length, would be better than the worst of them
    on,    ///< at once
    never, ///< when no beam can get better than the worst of them, at any length
};

/// What a beam search is asked for.
struct BeamOptions {
    std::size_t num_beams = 1; ///< at least 1
    double length_penalty = 1.0;
    EarlyStopping early_stopping = EarlyStopping::off;
    std::size_t max_new_tokens = 1; ///< at least 1
};

/// A token that may follow a beam.
struct BeamCandidate {
    std::size_t beam = 0; ///< its number among BeamScorer::beams()
    TokenId token = 0;
    double score = 0.0; ///< that of the beam and the token's: log-probabilities after the processors, summed
    float logprob = 0.0f; ///< of the token before the processors
};

/// A text in the making, or complete.
struct Beam {
    std::vector<TokenId> tokens;
    std::vector<float> logprobs; ///< BeamCandidate::logprob of each token
    double score = 0.0;          ///< BeamCandidate::score of the last
    std::size_t parent = 0;      ///< the beam before the last step that it continues
};

/// A complete text.
struct BeamHypothesis {
    Beam beam;
    double score = 0.0; ///< that of the beam / length^length_penalty
};

/// n^x for n >= 1, with the same bits everywhere; exact for x = 0 and 1.
[[nodiscard]] inline double power_of_length(std::size_t n, double x) noexcept {
    const auto length = static_cast<double>(n);
    return x == 0.0 ? 1.0 : x == 1.0 ? length : detail::portable_exp(x * detail::portable_log(length));
}

/// The best complete texts so far, at most num_beams. Hugging Face's BeamHypotheses.
class BeamHypotheses {
public:
    explicit BeamHypotheses(const BeamOptions& options) : options_(options) {}

    /// Keeps a text that is complete, if it is one of the best.
    void add(Beam beam) {
        const double score = score_of(beam.score, beam.tokens.size());
        if (texts_.size() >= options_.num_beams) {
            const auto worst = find_worst();
            if (!(score > worst->score)) {
                return;
            }
            texts_.erase(worst);
        }
        texts_.push_back({std::move(beam), score});
    }

    /// Whether the search is over.
    /// @param best    the best score of a beam, a sum of log-probabilities
    /// @param length  of the beams
    [[nodiscard]] bool suffice(double best, std::size_t length) const {
        if (texts_.size() < options_.num_beams) {
            return false;
        }
        const bool to_the_end =
            options_.early_stopping == EarlyStopping::never && options_.length_penalty > 0.0;
        return options_.early_stopping == EarlyStopping::on ||
               find_worst()->score >= score_of(best, to_the_end ? options_.max_new_tokens : length);
    }

    /// In the order in which they were found.
    [[nodiscard]] const std::vector<BeamHypothesis>& texts() const noexcept { return texts_; }

private:
    [[nodiscard]] double score_of(double sum, std::size_t length) const noexcept {
        return sum / power_of_length(length, options_.length_penalty);
    }

    /// The first of the worst.
    [[nodiscard]] std::vector<BeamHypothesis>::const_iterator find_worst() const {
        return std::ranges::min_element(texts_, {}, &BeamHypothesis::score);
    }

    BeamOptions options_;
    std::vector<BeamHypothesis> texts_;
};

/// Best first; of equals the one that was found later.
inline void sort_best_first(std::vector<BeamHypothesis>& texts) {
    std::ranges::stable_sort(texts, {}, &BeamHypothesis::score);
    std::ranges::reverse(texts);
}

/// Follows num_beams texts at a time. Hugging Face's BeamSearchScorer for one prompt (transformers,
/// generation/beam_search.py, to version 4.49) with one difference: it begins with one beam, without tokens,
/// and has fewer than num_beams where fewer tokens are allowed, instead of filling up with copies whose score
/// is -1e9 or -infinity. One caller at a time.
class BeamScorer {
public:
    explicit BeamScorer(const BeamOptions& options) : options_(options), complete_(options), beams_(1) {}

    /// The beams, best first, as the last step left them. They go on unless done().
    [[nodiscard]] std::span<const Beam> beams() const noexcept { return beams_; }

    /// Takes a step. Of the candidates, best first, one that ends its text is complete if there are fewer
    /// than num_beams before it, and is lost otherwise; of the others the first num_beams are the new beams.
    /// @param candidates  at most two for each of num_beams
    /// @param ends        whether a BeamCandidate is the last token of its text
    template <class Ends> void advance(std::span<const BeamCandidate> candidates, Ends ends) {
        std::vector<Beam> next;
        for (std::size_t rank = 0; rank < candidates.size() && next.size() < options_.num_beams; ++rank) {
            const BeamCandidate& candidate = candidates[rank];
            if (!ends(candidate)) {
                next.push_back(extended(candidate));
            } else if (rank < options_.num_beams) {
                complete_.add(extended(candidate));
            }
        }
        ++length_;
        beams_ = std::move(next);
        done_ = beams_.empty() || complete_.suffice(candidates.front().score, length_);
        if (length_ == options_.max_new_tokens) {
            end();
        }
    }

    [[nodiscard]] bool done() const noexcept { return done_; }

    /// Ends the search where it is: what the beams have is complete then, unless they have no token yet.
    void end() {
        if (!done_ && length_ > 0) {
            for (const Beam& beam : beams_) {
                complete_.add(beam);
            }
        }
        done_ = true;
    }

    /// The complete texts, at most num_beams, in the order in which they were found. All of them when done().
    [[nodiscard]] const std::vector<BeamHypothesis>& complete() const noexcept { return complete_.texts(); }

private:
    [[nodiscard]] Beam extended(const BeamCandidate& candidate) const {
        Beam out = beams_[candidate.beam];
        out.tokens.push_back(candidate.token);
        out.logprobs.push_back(candidate.logprob);
        out.score = candidate.score;
        out.parent = candidate.beam;
        return out;
    }

    BeamOptions options_;
    BeamHypotheses complete_;
    std::vector<Beam> beams_;
    std::size_t length_ = 0;
    bool done_ = false;
};

} // namespace gpt2::sampling
