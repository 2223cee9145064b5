// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/kernels/kernels.hpp>
#include <gpt2/random.hpp>
#include <gpt2/sampler.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

/// @file
/// What the tests of the processors share: random logits, a distribution in double that references change,
/// and the comparison of a Sampler with it.

namespace gpt2::test {

/// Random numbers, one after the other.
class Numbers {
public:
    explicit Numbers(std::uint64_t seed) : seed_(seed) {}
    double next() { return uniform(seed_, 0, n_++); }
    float between(double low, double high) { return static_cast<float>(low + (high - low) * next()); }
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() * static_cast<double>(n)); }
    TokenId token(std::size_t n) { return static_cast<TokenId>(below(n)); }
    std::vector<TokenId> tokens(std::size_t length, std::size_t n) {
        std::vector<TokenId> list(length);
        std::generate(list.begin(), list.end(), [&] { return token(n); });
        return list;
    }

private:
    std::uint64_t seed_;
    std::uint64_t n_ = 0;
};

/// Spread out, with ties, some of them -infinity, all equal, or all but one -infinity.
inline std::vector<float> random_logits(Numbers& random, std::size_t n) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> logits(n);
    const bool ties = random.next() < 0.3;
    for (float& x : logits) {
        x = random.between(-8.0, 8.0);
        x = ties ? std::round(x) / 2.0f : x;
    }
    const double shape = random.next();
    if (shape < 0.2) {
        for (std::size_t i = 0; i < n / 3; ++i) {
            logits[random.below(n)] = -infinity;
        }
        logits[random.below(n)] = 1.0f;
    } else if (shape < 0.25) {
        std::fill(logits.begin(), logits.end(), logits.front());
    } else if (shape < 0.3) {
        std::fill(logits.begin(), logits.end(), -infinity);
        logits[random.below(n)] = -2.0f;
    }
    return logits;
}

/// Scores in double, -infinity where a token is forbidden or dropped.
struct Distribution {
    static constexpr double removed = -std::numeric_limits<double>::infinity();

    std::vector<double> scores;
    bool borderline = false; ///< a comparison was so close that float may decide otherwise

    explicit Distribution(const std::vector<float>& logits) : scores(logits.begin(), logits.end()) {}

    [[nodiscard]] std::size_t size() const { return scores.size(); }

    [[nodiscard]] double& operator[](TokenId token) { return scores[static_cast<std::size_t>(token)]; }

    [[nodiscard]] std::vector<double> softmax() const {
        const double most = *std::max_element(scores.begin(), scores.end());
        std::vector<double> out;
        double sum = 0.0;
        for (const double s : scores) {
            out.push_back(std::exp(s - most));
            sum += out.back();
        }
        for (double& x : out) {
            x /= sum;
        }
        return out;
    }

    [[nodiscard]] double entropy() const {
        double sum = 0.0;
        for (const double p : softmax()) {
            sum -= p > 0.0 ? p * std::log(p) : 0.0;
        }
        return sum;
    }

    /// The tokens by falling score, equal ones by id.
    [[nodiscard]] std::vector<std::size_t> falling() const {
        std::vector<std::size_t> order(size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
        return order;
    }

    /// Whether a < b, noting where that is too close to call for float.
    bool less(double a, double b) {
        const double size = std::max(std::fabs(a), std::fabs(b));
        borderline = borderline || (a != b && std::isfinite(size) && std::fabs(a - b) <= 2e-6 * size);
        return a < b;
    }
};

/// Every exp that this machine may offer.
inline std::vector<ExpShifted> exponentials() {
    std::vector<ExpShifted> out{detail::exp_shifted_portable};
    for (const Isa isa : all_isas) {
        if (supports(isa)) {
            out.push_back(kernels::kernels_for(isa).exp_shifted);
        }
    }
    return out;
}

/// A prompt, a text and a vocabulary for a Sampler.
struct Case {
    std::vector<float> logits;
    GenerationConfig config{.do_sample = true};
    std::vector<TokenId> prompt{};
    std::vector<TokenId> text{};
    sampling::Vocabulary vocabulary{};
    double u_xtc = 0.0;

    [[nodiscard]] std::vector<TokenId> tokens() const {
        std::vector<TokenId> all(prompt);
        all.insert(all.end(), text.begin(), text.end());
        return all;
    }

    [[nodiscard]] Sampler sampler(ExpShifted exp = detail::exp_shifted_portable) const {
        sampling::Vocabulary known = vocabulary;
        known.size = logits.size();
        Sampler result(config, known, exp);
        result.note(prompt);
        for (const TokenId token : text) {
            result.accept(token);
        }
        return result;
    }
};

/// @returns false where the reference came too close to a border to be compared
inline bool agrees(const Case& given, const Distribution& reference, ExpShifted exp) {
    const std::vector<double> found = given.sampler(exp).probabilities(given.logits, given.u_xtc);
    if (reference.borderline) {
        return false;
    }
    const std::vector<double> expected = reference.softmax();
    for (std::size_t i = 0; i < found.size(); ++i) {
        INFO("token ", i, " of ", found.size());
        REQUIRE(std::isfinite(found[i]));
        REQUIRE(found[i] == doctest::Approx(expected[i]).epsilon(3e-5));
        if (std::isinf(reference.scores[i])) {
            REQUIRE(found[i] == 0.0);
        }
    }
    return true;
}

/// Compares a Sampler with a reference on thousands of logits.
/// @param set        set(random, case) chooses options, prompt and text
/// @param reference  reference(case, distribution) does to the scores what the definition says
template <class Set, class Reference> void sweep(std::uint64_t seed, Set set, Reference reference) {
    Numbers random(seed);
    constexpr std::size_t cases = 2000;
    std::size_t compared = 0;
    std::size_t changed = 0;
    const auto exps = exponentials();
    for (std::size_t i = 0; i < cases; ++i) {
        CAPTURE(i);
        Case given{.logits = random_logits(random, 1 + random.below(i % 20 == 0 ? 2000 : 60))};
        set(random, given);
        Distribution distribution(given.logits);
        reference(given, distribution);
        changed += distribution.scores != Distribution(given.logits).scores ? 1 : 0;
        if (*std::max_element(distribution.scores.begin(), distribution.scores.end()) ==
            Distribution::removed) {
            CHECK_THROWS_AS((void)given.sampler().probabilities(given.logits, given.u_xtc), NumericError);
            continue;
        }
        compared += agrees(given, distribution, exps[i % exps.size()]) ? 1 : 0;
    }
    CHECK(compared > cases * 8 / 10);
    CHECK(changed > cases / 4);
}

/// Draws tokens and compares their frequencies with the distribution by chi-squared.
inline void check_frequencies(const Case& given, const std::vector<double>& expected, std::uint64_t seed) {
    Sampler sampler = given.sampler();
    constexpr int draws = 50000;
    std::vector<int> count(given.logits.size());
    for (std::uint64_t i = 0; i < draws; ++i) {
        const TokenId token = sampler.next(given.logits, uniform(seed, 0, i), second_uniform(seed, 0, i));
        ++count[static_cast<std::size_t>(token)];
    }
    double chi_square = 0.0;
    double freedom = -1.0;
    for (std::size_t i = 0; i < count.size(); ++i) {
        const double mean = draws * expected[i];
        if (expected[i] == 0.0) {
            CHECK(count[i] == 0);
        } else {
            chi_square += (count[i] - mean) * (count[i] - mean) / mean;
            freedom += 1.0;
        }
    }
    CHECK(freedom >= 2.0);
    CHECK(chi_square < freedom + 4.0 * std::sqrt(2.0 * freedom));
}

} // namespace gpt2::test
