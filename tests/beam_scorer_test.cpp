// SPDX-License-Identifier: MIT

// Beam search without a model: against Hugging Face's algorithm, line by line, and against trying everything.

#include "gpt2/sampling/beam_candidates.hpp"
#include "gpt2/sampling/beam_scorer.hpp"

#include <gpt2/random.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

using gpt2::TokenId;
using gpt2::sampling::BeamCandidate;
using gpt2::sampling::BeamCandidates;
using gpt2::sampling::BeamHypothesis;
using gpt2::sampling::BeamOptions;
using gpt2::sampling::BeamScorer;
using gpt2::sampling::EarlyStopping;

namespace {

/// Log-probabilities of what may follow some tokens.
using Model = std::function<std::vector<float>(const std::vector<TokenId>&)>;

/// Another distribution over V tokens after each text.
Model random_model(std::size_t V, std::uint32_t seed) {
    return [V, seed](const std::vector<TokenId>& tokens) {
        std::vector<std::uint32_t> numbers(tokens.begin(), tokens.end());
        numbers.push_back(seed);
        std::seed_seq sequence(numbers.begin(), numbers.end());
        std::mt19937 random(sequence);
        std::vector<double> x(V);
        double sum = 0.0;
        for (double& value : x) {
            value = static_cast<double>(random() % 1000) / 250.0;
            sum += std::exp(value);
        }
        std::vector<float> out;
        for (const double value : x) {
            out.push_back(static_cast<float>(value - std::log(sum)));
        }
        return out;
    };
}

struct Found {
    double score;
    std::vector<TokenId> tokens;
};

/// A BeamSearchScorer of transformers 4.49 with its BeamHypotheses and the loop of _beam_search, for one
/// prompt, line by line.
std::vector<Found> transcribed(const Model& model, const BeamOptions& options, TokenId eos) {
    const std::size_t num_beams = options.num_beams;
    std::vector<std::vector<TokenId>> input_ids(num_beams);
    std::vector<double> beam_scores(num_beams, -1e9);
    beam_scores[0] = 0.0;
    std::vector<Found> beams;
    double worst_score = 1e9;
    const auto power = [&](std::size_t n) {
        return std::pow(static_cast<double>(n), options.length_penalty);
    };
    const auto add = [&](const std::vector<TokenId>& hyp, double sum_logprobs, std::size_t generated_len) {
        const double score = sum_logprobs / power(generated_len);
        if (beams.size() < num_beams || score > worst_score) {
            beams.push_back({score, hyp});
            if (beams.size() > num_beams) {
                std::vector<std::pair<double, std::size_t>> sorted_next_scores;
                for (std::size_t i = 0; i < beams.size(); ++i) {
                    sorted_next_scores.emplace_back(beams[i].score, i);
                }
                std::sort(sorted_next_scores.begin(), sorted_next_scores.end());
                beams.erase(beams.begin() + static_cast<std::ptrdiff_t>(sorted_next_scores[0].second));
                worst_score = sorted_next_scores[1].first;
            } else {
                worst_score = std::min(score, worst_score);
            }
        }
    };
    const auto is_done = [&](double best_sum_logprobs, std::size_t cur_len) {
        if (beams.size() < num_beams) {
            return false;
        }
        if (options.early_stopping == EarlyStopping::on) {
            return true;
        }
        if (options.early_stopping == EarlyStopping::off || options.length_penalty <= 0.0) {
            return worst_score >= best_sum_logprobs / power(cur_len);
        }
        return worst_score >= best_sum_logprobs / power(options.max_new_tokens);
    };
    bool done = false;
    while (!done && input_ids[0].size() < options.max_new_tokens) {
        struct Next {
            double score;
            std::size_t index;
            TokenId token;
        };
        std::vector<Next> next;
        for (std::size_t i = 0; i < num_beams; ++i) {
            const std::vector<float> scores = model(input_ids[i]);
            for (std::size_t v = 0; v < scores.size(); ++v) {
                next.push_back({static_cast<double>(scores[v]) + beam_scores[i], i, static_cast<TokenId>(v)});
            }
        }
        std::stable_sort(next.begin(), next.end(),
                         [](const Next& a, const Next& b) { return a.score > b.score; });
        next.resize(std::min(next.size(), 2 * num_beams));
        const std::size_t cur_len = input_ids[0].size() + 1;
        std::vector<std::vector<TokenId>> next_ids;
        std::vector<double> next_beam_scores;
        for (std::size_t rank = 0; rank < next.size(); ++rank) {
            std::vector<TokenId> ids = input_ids[next[rank].index];
            ids.push_back(next[rank].token);
            if (next[rank].token == eos) {
                if (rank >= num_beams) {
                    continue;
                }
                add(ids, next[rank].score, cur_len);
            } else {
                next_ids.push_back(ids);
                next_beam_scores.push_back(next[rank].score);
            }
            if (next_ids.size() == num_beams) {
                break;
            }
        }
        done = is_done(next[0].score, cur_len);
        REQUIRE(next_ids.size() == num_beams);
        input_ids = next_ids;
        beam_scores = next_beam_scores;
    }
    if (!done) {
        for (std::size_t i = 0; i < num_beams; ++i) {
            add(input_ids[i], beam_scores[i], input_ids[i].size());
        }
    }
    std::stable_sort(beams.begin(), beams.end(),
                     [](const Found& a, const Found& b) { return a.score < b.score; });
    std::reverse(beams.begin(), beams.end());
    return beams;
}

std::vector<BeamHypothesis> search(const Model& model, const BeamOptions& options, TokenId eos,
                                   std::size_t V) {
    BeamScorer scorer(options);
    BeamCandidates candidates(V);
    const std::size_t n = 2 * options.num_beams;
    while (!scorer.done()) {
        candidates.clear();
        for (std::size_t i = 0; i < scorer.beams().size(); ++i) {
            const std::vector<float> row = model(scorer.beams()[i].tokens);
            candidates.add(i, scorer.beams()[i].score, row, row, n);
        }
        scorer.advance(candidates.best(n), [&](const BeamCandidate& c) { return c.token == eos; });
    }
    std::vector<BeamHypothesis> out = scorer.complete();
    gpt2::sampling::sort_best_first(out);
    return out;
}

/// Every text that ends with eos or has max_new_tokens, best first.
std::vector<Found> exhaustive(const Model& model, const BeamOptions& options, TokenId eos, std::size_t V) {
    std::vector<Found> out;
    const std::function<void(std::vector<TokenId>&, double)> visit = [&](std::vector<TokenId>& tokens,
                                                                         double sum) {
        if (tokens.size() == options.max_new_tokens || (!tokens.empty() && tokens.back() == eos)) {
            out.push_back(
                {sum / std::pow(static_cast<double>(tokens.size()), options.length_penalty), tokens});
            return;
        }
        const std::vector<float> row = model(tokens);
        for (std::size_t v = 0; v < V; ++v) {
            tokens.push_back(static_cast<TokenId>(v));
            visit(tokens, sum + static_cast<double>(row[v]));
            tokens.pop_back();
        }
    };
    std::vector<TokenId> tokens;
    visit(tokens, 0.0);
    std::sort(out.begin(), out.end(), [](const Found& a, const Found& b) { return a.score > b.score; });
    return out;
}

void check_same(const std::vector<BeamHypothesis>& found, const std::vector<Found>& expected) {
    REQUIRE(found.size() <= expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        CHECK(found[i].beam.tokens == expected[i].tokens);
        CHECK(found[i].score == doctest::Approx(expected[i].score).epsilon(1e-12));
        CHECK(found[i].beam.logprobs.size() == found[i].beam.tokens.size());
    }
}

constexpr EarlyStopping all_early_stopping[] = {EarlyStopping::off, EarlyStopping::on, EarlyStopping::never};

} // namespace

TEST_CASE("the same texts and scores as Hugging Face's algorithm") {
    constexpr std::size_t V = 13;
    std::size_t ended = 0;
    std::size_t stopped = 0;
    for (std::uint32_t seed = 0; seed < 1500; ++seed) {
        std::mt19937 random(seed);
        const double penalties[] = {-1.0, 0.0, 0.3, 1.0, 2.0};
        const BeamOptions options{.num_beams = 1 + random() % 6,
                                  .length_penalty = penalties[random() % 5],
                                  .early_stopping = all_early_stopping[random() % 3],
                                  .max_new_tokens = 1 + random() % 8};
        CAPTURE(seed);
        const Model model = random_model(V, seed);
        const auto found = search(model, options, 4, V);
        const auto expected = transcribed(model, options, 4);
        REQUIRE(found.size() == expected.size());
        check_same(found, expected);
        for (const BeamHypothesis& text : found) {
            ended += text.beam.tokens.back() == 4 ? 1 : 0;
        }
        stopped += std::ranges::all_of(found, [&](const BeamHypothesis& text) {
            return text.beam.tokens.size() < options.max_new_tokens;
        });
    }
    CHECK(ended > 500); // these things happened
    CHECK(stopped > 50);
}

TEST_CASE("with room for everything the search finds the best texts there are") {
    for (std::uint32_t seed = 0; seed < 30; ++seed) {
        for (const double penalty : {-0.5, 0.0, 1.0, 3.0}) {
            const BeamOptions options{.num_beams = 200,
                                      .length_penalty = penalty,
                                      .early_stopping = EarlyStopping::never,
                                      .max_new_tokens = 4};
            const Model model = random_model(3, seed);
            const auto found = search(model, options, 2, 3);
            const auto expected = exhaustive(model, options, 2, 3);
            CHECK(found.size() == expected.size()); // 1 + 2 + 4 that end, and 8 of 3 tokens times 3
            CHECK(found.size() == 31);
            check_same(found, expected);
        }
    }
}

TEST_CASE("one beam is greedy") {
    for (std::uint32_t seed = 0; seed < 100; ++seed) {
        const Model model = random_model(13, seed);
        std::vector<TokenId> greedy;
        double sum = 0.0;
        while (greedy.size() < 6 && (greedy.empty() || greedy.back() != 4)) {
            const std::vector<float> row = model(greedy);
            const auto best = std::max_element(row.begin(), row.end());
            sum += static_cast<double>(*best);
            greedy.push_back(static_cast<TokenId>(best - row.begin()));
        }
        const auto found = search(model, {.num_beams = 1, .max_new_tokens = 6}, 4, 13);
        REQUIRE(found.size() == 1);
        CHECK(found[0].beam.tokens == greedy);
        CHECK(found[0].score == doctest::Approx(sum / static_cast<double>(greedy.size())));
    }
}

TEST_CASE("when a search ends") {
    // After anything: "0" with 0.6, the end with 0.3, "2" with 0.1.
    const Model model = [](const std::vector<TokenId>&) {
        return std::vector<float>{std::log(0.6f), std::log(0.3f), std::log(0.1f)};
    };
    const auto lengths = [&](EarlyStopping when, double penalty) {
        const auto found = search(
            model, {.num_beams = 2, .length_penalty = penalty, .early_stopping = when, .max_new_tokens = 20},
            1, 3);
        REQUIRE(found.size() == 2);
        return std::pair(found[0].beam.tokens.size(), found[1].beam.tokens.size());
    };
    using Lengths = std::pair<std::size_t, std::size_t>;
    // At once: the first two texts, "end" and "0 end"; the second is better for each of its tokens.
    CHECK(lengths(EarlyStopping::on, 1.0) == Lengths{2, 1});
    // ln 0.18 / 2 = -0.86 is the worse of "0 end" and "0 0 end" (-0.74), and "0 0 0" would have -0.51: go on,
    // to the best there are with 20 tokens.
    CHECK(lengths(EarlyStopping::off, 1.0) == Lengths{20, 20});
    CHECK(lengths(EarlyStopping::never, 1.0) == Lengths{20, 20});
    // Without a penalty nothing gets better by going on.
    CHECK(lengths(EarlyStopping::off, 0.0) == Lengths{1, 2});
    CHECK(lengths(EarlyStopping::never, 0.0) == Lengths{1, 2});
    // A strong one makes up for everything at the full length, but not at the next.
    CHECK(lengths(EarlyStopping::never, 4.0) == Lengths{20, 20});

    // Where length is a burden, the next token decides, not the last that there may be: "end" and "0 end" do
    // not suffice, as "0 0 0" is likely and then ends for sure.
    const Model three = [](const std::vector<TokenId>& tokens) {
        return tokens.size() == 3 ? std::vector<float>{std::log(0.005f), std::log(0.99f), std::log(0.005f)}
                                  : std::vector<float>{std::log(0.95f), std::log(0.04f), std::log(0.01f)};
    };
    for (const EarlyStopping when : {EarlyStopping::off, EarlyStopping::never}) {
        const auto found = search(
            three, {.num_beams = 2, .length_penalty = -1.0, .early_stopping = when, .max_new_tokens = 100}, 1,
            3);
        REQUIRE(found.size() == 2);
        CHECK(found[0].beam.tokens == std::vector<TokenId>{0, 0, 0, 1});
        CHECK(found[1].beam.tokens == std::vector<TokenId>{1});
    }
}

TEST_CASE("fewer tokens than beams") {
    // Only "0" and the end are allowed; then only the end.
    constexpr float forbidden = -std::numeric_limits<float>::infinity();
    const Model model = [](const std::vector<TokenId>& tokens) {
        return tokens.empty() ? std::vector<float>{-1.0f, -2.0f, forbidden, forbidden}
                              : std::vector<float>{forbidden, -0.5f, forbidden, forbidden};
    };
    const auto found = search(model, {.num_beams = 5, .length_penalty = 0.0, .max_new_tokens = 9}, 1, 4);
    REQUIRE(found.size() == 2);
    CHECK(found[0].beam.tokens == std::vector<TokenId>{0, 1});
    CHECK(found[0].score == -1.5);
    CHECK(found[1].beam.tokens == std::vector<TokenId>{1});
    CHECK(found[1].score == -2.0);
}

TEST_CASE("candidates: order, ties and what may not follow") {
    constexpr float forbidden = -std::numeric_limits<float>::infinity();
    BeamCandidates candidates(5);
    const std::vector<float> first{-1.0f, -2.0f, forbidden, -1.0f, -3.0f};
    const std::vector<float> second{-1.5f, -1.0f, -9.0f, forbidden, forbidden};
    const std::vector<float> logprobs{-5.0f, -6.0f, -7.0f, -8.0f, -9.0f};
    for (const std::size_t n : {3u, 100u}) {
        candidates.clear();
        candidates.add(0, -1.0, first, logprobs, n);
        candidates.add(1, -1.0, second, logprobs, n);
        const auto best = candidates.best(4);
        REQUIRE(best.size() == 4);
        const std::vector<std::pair<std::size_t, TokenId>> expected{{0, 0}, {0, 3}, {1, 1}, {1, 0}};
        for (std::size_t i = 0; i < 4; ++i) {
            CHECK(best[i].beam == expected[i].first);
            CHECK(best[i].token == expected[i].second);
            CHECK(best[i].logprob == logprobs[static_cast<std::size_t>(best[i].token)]);
        }
        CHECK(best[3].score == -2.5);
        CHECK(candidates.best(100).size() == (n == 3 ? 6 : 7)); // each beam's three best; or all
    }
}

TEST_CASE("drawn without replacement: the exact distribution of two of five") {
    const std::vector<float> scores{std::log(0.4f), std::log(0.3f), std::log(0.15f), std::log(0.1f),
                                    std::log(0.05f)};
    constexpr std::size_t n_runs = 20000;
    std::map<std::pair<TokenId, TokenId>, std::size_t> counts;
    BeamCandidates candidates(5);
    for (std::uint64_t run = 0; run < n_runs; ++run) {
        candidates.clear();
        candidates.add(0, -3.0, std::span(scores).first(3), scores); // from two beams
        candidates.add(1, -3.0 + std::log(2.0),
                       std::vector<float>{-99.0f, -99.0f, -99.0f, scores[3] - std::log(2.0f),
                                          scores[4] - std::log(2.0f)},
                       scores);
        const auto drawn =
            candidates.drawn(2, [&](std::size_t i) { return gpt2::uniform(7, 0, 2 * run + i); });
        REQUIRE(drawn.size() == 2);
        CHECK(drawn[0].score >= drawn[1].score);
        ++counts[std::minmax(drawn[0].token, drawn[1].token)];
    }
    double chi_squared = 0.0;
    for (TokenId a = 0; a < 5; ++a) {
        for (TokenId b = a + 1; b < 5; ++b) {
            const auto p = [&](TokenId i) {
                return std::exp(static_cast<double>(scores[static_cast<std::size_t>(i)]));
            };
            const double expected =
                static_cast<double>(n_runs) * p(a) * p(b) * (1 / (1 - p(a)) + 1 / (1 - p(b)));
            const double difference = static_cast<double>(counts[{a, b}]) - expected;
            chi_squared += difference * difference / expected;
        }
    }
    CHECK(chi_squared < 27.88); // 9 degrees of freedom, 0.001
    CHECK(chi_squared > 0.5);
}

TEST_CASE("drawn: each at most once, all if there are not more, nothing without a weight") {
    BeamCandidates candidates(4);
    const std::vector<float> scores{-1.0f, -1.0f, -900.0f, -1.0f};
    for (const double u : {0.0, 0.5, 1.0 - 0x1p-53}) {
        candidates.clear();
        candidates.add(0, 0.0, scores, scores);
        std::set<TokenId> tokens;
        for (const BeamCandidate& candidate : candidates.drawn(9, [&](std::size_t) { return u; })) {
            tokens.insert(candidate.token);
        }
        CHECK(tokens == std::set<TokenId>{0, 1, 3}); // e^-899 is no double
    }
}

TEST_CASE("powers of a length") {
    for (const double x : {-2.0, -0.5, 0.0, 0.3, 1.0, 2.0, 5.0}) {
        for (const std::size_t n : {1u, 2u, 7u, 1024u}) {
            CHECK(gpt2::sampling::power_of_length(n, x) ==
                  doctest::Approx(std::pow(static_cast<double>(n), x)).epsilon(1e-13));
        }
    }
    CHECK(gpt2::sampling::power_of_length(1023, 1.0) == 1023.0);
    CHECK(gpt2::sampling::power_of_length(1023, 0.0) == 1.0);
}
