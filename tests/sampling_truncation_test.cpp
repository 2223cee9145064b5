// SPDX-License-Identifier: MIT
#include "gpt2/sampling/truncation.hpp"

#include "support/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

using gpt2::GenerationConfig;
using gpt2::Sampler;
using gpt2::TokenId;
using gpt2::sampling::TopKTies;
using gpt2::sampling::TopPRule;
using gpt2::test::Case;
using gpt2::test::check_frequencies;
using gpt2::test::Distribution;
using gpt2::test::Numbers;
using gpt2::test::sweep;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

void remove_all_but(Distribution& d, const std::vector<bool>& kept) {
    for (std::size_t i = 0; i < d.size(); ++i) {
        d.scores[i] = kept[i] ? d.scores[i] : Distribution::removed;
    }
}

void temperature(const Case& given, Distribution& d) {
    for (double& s : d.scores) {
        s /= static_cast<double>(given.config.temperature.value_or(1.0f));
    }
}

/// As numpy would: the k first of a stable sort.
void top_k_cut(const Case& given, Distribution& d) {
    std::vector<bool> kept(d.size());
    const auto order = d.falling();
    for (std::size_t i = 0; i < std::min(d.size(), static_cast<std::size_t>(*given.config.top_k)); ++i) {
        kept[order[i]] = true;
    }
    remove_all_but(d, kept);
}

/// The original: tf.gather of sorted logits at max(sum(cumsum(p) <= top_p) - 1, 0), and what is not below.
void top_p_within(const Case& given, Distribution& d) {
    const auto order = d.falling();
    const auto p = d.softmax();
    const auto most = static_cast<double>(*given.config.top_p);
    std::size_t n = 0;
    double sum = 0.0;
    for (const std::size_t i : order) {
        sum += p[i];
        d.borderline = d.borderline || std::fabs(sum - most) < 2e-6;
        n += sum <= most ? 1 : 0;
    }
    const double least = d.scores[order[std::max<std::size_t>(n, 1) - 1]];
    for (double& s : d.scores) {
        s = s < least ? Distribution::removed : s;
    }
}

/// Hugging Face's lines, one by one.
void typical_p(const Case& given, Distribution& d) {
    const auto p = d.softmax();
    const double entropy = d.entropy();
    std::vector<double> shifted(d.size());
    for (std::size_t i = 0; i < d.size(); ++i) {
        shifted[i] = std::fabs(-std::log(p[i]) - entropy);
    }
    std::vector<std::size_t> order(d.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return shifted[a] < shifted[b]; });
    const auto mass = static_cast<double>(*given.config.typical_p);
    std::size_t last = 0;
    double sum = 0.0;
    for (const std::size_t i : order) {
        sum += p[i];
        d.borderline = d.borderline || std::fabs(sum - mass) < 2e-6;
        last += sum < mass ? 1 : 0;
    }
    const double limit = shifted[order[std::min(last, d.size() - 1)]];
    for (std::size_t i = 0; i < d.size(); ++i) {
        d.borderline = d.borderline || (d.scores[i] != d.scores[order[std::min(last, d.size() - 1)]] &&
                                        p[i] > 0.0 && std::fabs(shifted[i] - limit) < 1e-5);
    }
    for (std::size_t i = 0; i < d.size(); ++i) {
        d.scores[i] = shifted[i] > limit ? Distribution::removed : d.scores[i];
    }
}

void cutoff(Distribution& d, double threshold) {
    const auto p = d.softmax();
    const double most = *std::max_element(d.scores.begin(), d.scores.end());
    for (std::size_t i = 0; i < d.size(); ++i) {
        if (d.less(p[i], threshold) && d.scores[i] < most) {
            d.scores[i] = Distribution::removed;
        }
    }
}

void top_n_sigma(const Case& given, Distribution& d) {
    std::vector<double> finite;
    std::copy_if(d.scores.begin(), d.scores.end(), std::back_inserter(finite),
                 [](double s) { return std::isfinite(s); });
    const auto n = static_cast<double>(finite.size());
    const double mean = std::accumulate(finite.begin(), finite.end(), 0.0) / n;
    double squares = 0.0;
    for (const double s : finite) {
        squares += (s - mean) * (s - mean);
    }
    const double most = *std::max_element(finite.begin(), finite.end());
    const double least = most - static_cast<double>(*given.config.top_n_sigma) * std::sqrt(squares / n);
    for (double& s : d.scores) {
        s = s != most && d.less(s, least) ? Distribution::removed : s;
    }
}

/// llama.cpp: sort, find the last that reaches the threshold, drop what stands before it.
void xtc(const Case& given, Distribution& d) {
    if (given.u_xtc >= static_cast<double>(given.config.xtc->probability)) {
        return;
    }
    const auto p = d.softmax();
    const auto order = d.falling();
    std::size_t last = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
        last = d.less(p[order[i]], static_cast<double>(given.config.xtc->threshold)) ? last : i;
    }
    for (std::size_t i = 0; i < last; ++i) {
        d.scores[order[i]] = Distribution::removed;
    }
}

} // namespace

TEST_CASE("top_k that cuts ties keeps the lowest ids") {
    sweep(
        1,
        [](Numbers& random, Case& given) {
            given.config.top_k = 1 + static_cast<std::int64_t>(random.below(given.logits.size() + 2));
            given.config.top_k_ties = TopKTies::cut;
        },
        top_k_cut);
}

TEST_CASE("top_p as the original scripts: the token that crosses the share is out, ties are in") {
    sweep(
        2,
        [](Numbers& random, Case& given) {
            given.config.top_p = random.between(0.0, 0.999);
            given.config.top_p_rule = TopPRule::within;
        },
        top_p_within);
    using P = std::vector<double>;
    const auto found = [](const std::vector<float>& logits, float p, TopPRule rule) {
        return Case{.logits = logits, .config = {.do_sample = true, .top_p = p, .top_p_rule = rule}}
            .sampler()
            .probabilities(logits);
    };
    const std::vector<float> halves{2.0f, 2.0f - 0.6931472f, 2.0f - 1.3862944f, -infinity}; // 4 : 2 : 1
    CHECK(found(halves, 0.7f, TopPRule::within) == P{1, 0, 0, 0});
    CHECK(found(halves, 0.7f, TopPRule::reach)[1] > 0.0);
    CHECK(found({1, 1, 1, 0}, 0.5f, TopPRule::within)[2] > 0.0); // equals the last one that is within
    CHECK(found({1, 1, 1, 0}, 0.5f, TopPRule::reach) == P{0.5, 0.5, 0, 0});
    CHECK(found(halves, 0.0f, TopPRule::within) == P{1, 0, 0, 0});
}

TEST_CASE("typical_p as Hugging Face defines it") {
    sweep(
        3, [](Numbers& random, Case& given) { given.config.typical_p = random.between(0.01, 0.99); },
        typical_p);
}

TEST_CASE("epsilon_cutoff as Hugging Face defines it") {
    sweep(
        4,
        [](Numbers& random, Case& given) {
            given.config.epsilon_cutoff = std::exp(random.between(-7.0, -0.1));
        },
        [](const Case& given, Distribution& d) {
            cutoff(d, static_cast<double>(*given.config.epsilon_cutoff));
        });
}

TEST_CASE("eta_cutoff as Hugging Face defines it") {
    sweep(
        5,
        [](Numbers& random, Case& given) { given.config.eta_cutoff = std::exp(random.between(-7.0, -0.1)); },
        [](const Case& given, Distribution& d) {
            const auto epsilon = static_cast<double>(*given.config.eta_cutoff);
            cutoff(d, std::min(epsilon, std::sqrt(epsilon) * std::exp(-d.entropy())));
        });
}

TEST_CASE("top_n_sigma as llama.cpp defines it, whatever the temperature") {
    sweep(
        6,
        [](Numbers& random, Case& given) {
            given.config.top_n_sigma = random.between(0.1, 2.5);
            given.config.temperature = random.between(0.5, 2.0);
        },
        [](const Case& given, Distribution& d) {
            temperature(given, d);
            top_n_sigma(given, d);
        });
}

TEST_CASE("xtc as llama.cpp defines it") {
    sweep(
        7,
        [](Numbers& random, Case& given) {
            given.config.xtc = {.probability = 0.7f, .threshold = random.between(0.0, 0.3)};
            given.u_xtc = random.next();
        },
        xtc);
    const std::vector<float> equal(4, 1.0f); // the last of equal ones stays
    const Case four{.logits = equal, .config = {.do_sample = true, .xtc = {{1.0f, 0.1f}}}};
    CHECK(four.sampler().probabilities(equal) == std::vector<double>{0, 0, 0, 1});
}

TEST_CASE("a temperature behind what cuts") {
    sweep(
        8,
        [](Numbers& random, Case& given) {
            given.config.temperature = random.between(0.4, 2.5);
            given.config.top_p = random.between(0.2, 0.95);
            given.config.top_p_rule = TopPRule::within;
            given.config.top_k = 1 + static_cast<std::int64_t>(random.below(30));
            given.config.top_k_ties = TopKTies::cut;
            given.config.epsilon_cutoff = 0.01f;
            given.config.processor_order = {"top_p", "top_k", "temperature", "epsilon_cutoff"};
        },
        [](const Case& given, Distribution& d) {
            top_p_within(given, d);
            top_k_cut(given, d);
            temperature(given, d);
            cutoff(d, static_cast<double>(*given.config.epsilon_cutoff));
        });
}

TEST_CASE("all of them together, in the default order") {
    sweep(
        9,
        [](Numbers& random, Case& given) {
            given.config.temperature = random.between(0.5, 2.0);
            given.config.top_n_sigma = random.between(1.0, 3.0);
            given.config.top_k = 1 + static_cast<std::int64_t>(random.below(30));
            given.config.top_k_ties = TopKTies::cut;
            given.config.top_p = random.between(0.5, 0.99);
            given.config.top_p_rule = TopPRule::within;
            given.config.typical_p = random.between(0.3, 0.99);
            given.config.epsilon_cutoff = 0.001f;
            given.config.eta_cutoff = 0.002f;
            given.config.xtc = {.probability = 0.5f, .threshold = 0.2f};
            given.u_xtc = random.next();
        },
        [](const Case& given, Distribution& d) {
            temperature(given, d);
            top_n_sigma(given, d);
            top_k_cut(given, d);
            top_p_within(given, d);
            typical_p(given, d);
            cutoff(d, static_cast<double>(*given.config.epsilon_cutoff));
            const auto epsilon = static_cast<double>(*given.config.eta_cutoff);
            cutoff(d, std::min(epsilon, std::sqrt(epsilon) * std::exp(-d.entropy())));
            xtc(given, d);
        });
}

TEST_CASE("frequencies of what was drawn, xtc's chance included") {
    Numbers random(10);
    Case given{.logits = std::vector<float>(25)};
    std::generate(given.logits.begin(), given.logits.end(), [&] { return random.between(-2.0, 2.0); });
    for (const GenerationConfig& config :
         {GenerationConfig{.do_sample = true, .typical_p = 0.6f},
          GenerationConfig{.do_sample = true, .top_p = 0.8f, .top_p_rule = TopPRule::within},
          GenerationConfig{.do_sample = true, .epsilon_cutoff = 0.03f},
          GenerationConfig{.do_sample = true, .eta_cutoff = 0.5f},
          GenerationConfig{.do_sample = true, .top_n_sigma = 1.0f}}) {
        given.config = config;
        check_frequencies(given, given.sampler().probabilities(given.logits), 101);
    }
    given.config = {.do_sample = true, .xtc = {{.probability = 0.3f, .threshold = 0.05f}}};
    const auto cut = given.sampler().probabilities(given.logits, 0.0);
    const auto whole = given.sampler().probabilities(given.logits, 0.999);
    REQUIRE(cut != whole);
    std::vector<double> mixed(cut.size());
    for (std::size_t i = 0; i < mixed.size(); ++i) {
        mixed[i] = static_cast<double>(0.3f) * cut[i] + (1.0 - static_cast<double>(0.3f)) * whole[i];
    }
    check_frequencies(given, mixed, 102);
}

TEST_CASE("greedy takes no notice of what only matters to a draw") {
    Numbers random(11);
    for (int i = 0; i < 300; ++i) {
        Case given{.logits = gpt2::test::random_logits(random, 40)};
        given.config = {.do_sample = true,
                        .temperature = 0.0f,
                        .top_k = 3,
                        .top_p = 0.3f,
                        .typical_p = 0.1f,
                        .epsilon_cutoff = 0.5f,
                        .eta_cutoff = 0.5f,
                        .top_n_sigma = 0.1f,
                        .xtc = {{1.0f, 0.0f}}};
        const auto best = std::max_element(given.logits.begin(), given.logits.end()) - given.logits.begin();
        Sampler sampler = given.sampler();
        CHECK(sampler.next(given.logits, 0.7) == static_cast<TokenId>(best));
        CHECK(sampler.candidates()->k == 1);
    }
}
