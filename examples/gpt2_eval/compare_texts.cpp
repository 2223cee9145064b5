// SPDX-License-Identifier: MIT
#include "compare_texts.hpp"

#include "../common/progress.hpp"
#include "format.hpp"

#include <gpt2/error.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <string>

namespace evaluation = gpt2::evaluation;

namespace {

/// Ids mean the same in both: they come from one text, and must be the same bytes.
void require_same_vocabulary(const gpt2::Gpt2Model& reference, const gpt2::Gpt2Model& candidate) {
    const auto fail = [](const char* what, std::size_t expected, std::size_t found) {
        throw gpt2::OptionError(gpt2::detail::concat("compare: expected candidates with the reference's ",
                                                     what, ", ", expected, ", found ", found));
    };
    if (candidate.config().vocab_size != reference.config().vocab_size) {
        fail("vocab_size", reference.config().vocab_size, candidate.config().vocab_size);
    }
    if (candidate.tokenizer().size() != reference.tokenizer().size()) {
        fail("number of tokens", reference.tokenizer().size(), candidate.tokenizer().size());
    }
    for (std::size_t i = 0; i < reference.tokenizer().size(); ++i) {
        const auto id = static_cast<gpt2::TokenId>(i);
        if (candidate.tokenizer().token_bytes(id) != reference.tokenizer().token_bytes(id)) {
            throw gpt2::OptionError(
                gpt2::detail::concat("compare: expected candidates with the reference's tokens, "
                                     "found another token ",
                                     i));
        }
    }
}

} // namespace

std::vector<evaluation::Comparison> compare_on_text(TextComparison& job) {
    const gpt2::Gpt2Model& model = job.reference->model();
    std::vector<evaluation::Scorer*> scorers;
    if (!job.cached) {
        scorers.push_back(job.reference);
    }
    for (evaluation::Scorer* const candidate : job.candidates) {
        require_same_vocabulary(model, candidate->model());
        scorers.push_back(candidate);
    }
    std::vector<evaluation::Comparison> found(job.candidates.size());
    evaluation::SlidingWindows windows(model, job.text, job.windows);
    std::size_t bytes = 0;
    Progress progress;
    for (auto passages = windows.next(); !passages.empty(); passages = windows.next()) {
        evaluation::Scorer::run(scorers, passages, [&](std::span<const evaluation::ScoredRows> rows) {
            evaluation::ScoredRows reference = rows[0];
            if (job.cached) {
                reference.logits = job.cached->next(reference.targets.size());
            } else if (job.writer) {
                job.writer->write(reference.logits);
            }
            const auto candidates = rows.last(found.size());
            for (std::size_t i = 0; i < found.size(); ++i) {
                for (const auto& row :
                     evaluation::compare_rows(*job.candidates[i], reference, candidates[i])) {
                    found[i].add(row);
                }
            }
            bytes += model.tokenizer().decode(reference.targets).size();
            progress.show(static_cast<double>(bytes) / static_cast<double>(job.text.size()),
                          format("KL %.6f", found[0].kl().value));
        });
    }
    if (found[0].tokens() == 0) {
        throw gpt2::FormatError("the text: expected at least one token to score, found none");
    }
    return found;
}

nlohmann::ordered_json to_json(const evaluation::Comparison& c) {
    constexpr std::array shares{0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0};
    const auto values = c.kl_percentiles(shares);
    nlohmann::ordered_json percentiles;
    for (std::size_t i = 0; i < shares.size(); ++i) {
        percentiles[format("%g", 100.0 * shares[i])] = values[i];
    }
    return {{"tokens", c.tokens()},
            {"kl", to_json(c.kl())},
            {"kl_percentiles", percentiles},
            {"top1_agreement", to_json(c.top1_agreement())},
            {"top5_agreement", to_json(c.top5_agreement())},
            {"largest_probability_change", c.largest_probability_change()},
            {"mean_probability_change", to_json(c.mean_probability_change())},
            {"reference_perplexity", to_json(c.reference_perplexity())},
            {"perplexity", to_json(c.candidate_perplexity())},
            {"perplexity_ratio", to_json(c.perplexity_ratio())}};
}
