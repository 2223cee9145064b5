// SPDX-License-Identifier: MIT

// The default model against reference values that an independent implementation computed, and against the
// float64 reference here. tests/data/README.md says where the values come from.

#include "support/reference.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

using gpt2::TokenId;
namespace test = gpt2::test;

namespace {

const std::filesystem::path data = std::filesystem::path(GPT2_SOURCE_DIR) / "tests" / "data";

const nlohmann::json& golden() {
    static const nlohmann::json json = nlohmann::json::parse(std::ifstream(data / "novella_golden.json"));
    return json;
}

const gpt2::Gpt2Model& model() {
    static const auto loaded = gpt2::Gpt2Model::load(test::novella());
    return loaded;
}

const test::Reference& reference() {
    static const test::Reference loaded(gpt2::Checkpoint::open(test::fixture("novella")));
    return loaded;
}

const gpt2::SessionOptions float32_cache{.pool = nullptr, .kv_dtype = gpt2::KvDtype::float32};

/// Logits after every token, by the library.
std::vector<float> all_logits(std::span<const TokenId> tokens, gpt2::KvDtype cache) {
    gpt2::Session session(model(), {.pool = nullptr, .kv_dtype = cache});
    const gpt2::BatchItem item{&session, tokens, gpt2::Logits::all};
    gpt2::forward({&item, 1});
    const auto logits = session.logits().flat();
    return {logits.begin(), logits.end()};
}

/// The largest error in standard deviations, over all logits of all rows; and the largest error.
struct Distance {
    double deviations = 0.0;
    double error = 0.0;
    double bound = 0.0; ///< the largest bound of a logit
};

Distance distance(const test::Estimate& expected, std::span<const float> found) {
    const auto V = static_cast<std::size_t>(expected.value.cols());
    REQUIRE(found.size() == static_cast<std::size_t>(expected.value.size()));
    Distance result;
    for (Eigen::Index t = 0; t < expected.value.rows(); ++t) {
        const auto row = found.subspan(static_cast<std::size_t>(t) * V, V);
        result.deviations = std::max(result.deviations, test::deviations(expected, t, row));
        for (std::size_t v = 0; v < V; ++v) {
            const double exact = expected.value(t, static_cast<Eigen::Index>(v));
            result.error = std::max(result.error, std::fabs(static_cast<double>(row[v]) - exact));
        }
    }
    result.bound = test::tolerance * std::sqrt(expected.variance.maxCoeff());
    return result;
}

std::vector<TokenId> heldout_2000() {
    std::vector<TokenId> ids = model().tokenizer().encode(test::read_file(data / "heldout.txt"));
    REQUIRE(ids.size() == golden()["heldout_full"]["heldout_fp16"]["tokens"].get<std::size_t>());
    ids.resize(2000);
    return ids;
}

/// The variance of the error of one token's log-probability in float32 arithmetic, at most: the largest that
/// the reference finds in the first 96 tokens, for which every score() is compared with it. Errors grow
/// little with the position, as attention averages over what it reads; 4 allows for twice the deviation.
double token_variance(std::span<const TokenId> ids) {
    static const double variance = [&] {
        const auto tokens = ids.first(96);
        const test::Estimate exact = reference().logits(tokens, 0);
        gpt2::Session session(model(), float32_cache);
        const std::vector<float> scores = session.score(tokens);
        CHECK(std::isnan(scores[0]));
        double most = 0.0;
        double deviations = 0.0;
        for (std::size_t t = 1; t < tokens.size(); ++t) {
            const auto [value, v] = test::log_probability(exact, static_cast<Eigen::Index>(t - 1), tokens[t]);
            deviations =
                std::max(deviations, std::fabs(static_cast<double>(scores[t]) - value) / std::sqrt(v));
            most = std::max(most, v);
        }
        MESSAGE("log-probabilities: ", deviations, " standard deviations of ", std::sqrt(most));
        CHECK(deviations < test::tolerance);
        return 4.0 * most;
    }();
    return variance;
}

/// Errors of 2000 tokens, independent like all others.
double total_bound(std::span<const TokenId> ids) {
    return test::tolerance * std::sqrt(2000.0 * token_variance(ids));
}

/// Negative log-likelihood of the tokens after the first, which nothing is before.
double window_nll(gpt2::Session& session, std::span<const TokenId> window) {
    const std::vector<float> scores = session.score(window);
    REQUIRE(scores.size() == window.size());
    CHECK(std::isnan(scores[0]));
    return -std::accumulate(scores.begin() + 1, scores.end(), 0.0);
}

} // namespace

TEST_CASE("prompts have the ids of the original tokenizer") {
    for (const auto& prompt : golden()["prompts"]) {
        const auto text = prompt["text"].get<std::string>();
        CAPTURE(text);
        CHECK(model().encode_prompt(text) == prompt["ids"].get<std::vector<TokenId>>());
    }
}

TEST_CASE("logits of the prompts are within the bound of float32 arithmetic") {
    Distance most;
    for (const auto& prompt : golden()["prompts"]) {
        CAPTURE(prompt["text"].get<std::string>());
        const auto ids = prompt["ids"].get<std::vector<TokenId>>();
        const test::Estimate exact = reference().logits(ids, 0);
        const std::vector<float> logits = all_logits(ids, gpt2::KvDtype::float32);
        const Distance found = distance(exact, logits);
        CHECK(found.deviations < test::tolerance);
        most = found.deviations > most.deviations ? found : most;

        const auto last = exact.value.row(exact.value.rows() - 1);
        const auto last_variance = exact.variance.row(exact.variance.rows() - 1);
        const auto row = std::span(logits).last(model().config().vocab_size);
        std::vector<TokenId> order(row.size());
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + 10, order.end(), [&](TokenId a, TokenId b) {
            return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
        });
        std::size_t rank = 0;
        const auto top10 = prompt["f16"]["top10_logits64"].get<std::vector<std::pair<TokenId, double>>>();
        for (const auto& entry : top10) {
            const TokenId id = entry.first;
            const double logit = entry.second;
            CAPTURE(id);
            CHECK(order[rank++] == id);
            // Two float64 implementations that share nothing: at most 1e-10 (rounding, magnified as float32's
            // is).
            CHECK(std::fabs(last[id] - logit) < 1e-10);
            CHECK(std::fabs(static_cast<double>(row[static_cast<std::size_t>(id)]) - logit) <
                  test::tolerance * std::sqrt(last_variance[id]));
        }
    }
    MESSAGE("logits: at most ", most.deviations, " standard deviations, error ", most.error, ", bound ",
            most.bound);
}

TEST_CASE("with keys and values in float16 logits are within the bound of that rounding") {
    Distance most;
    for (const auto& prompt : golden()["prompts"]) {
        CAPTURE(prompt["text"].get<std::string>());
        const auto ids = prompt["ids"].get<std::vector<TokenId>>();
        const std::vector<float> logits = all_logits(ids, gpt2::KvDtype::float16);
        const Distance found = distance(reference().logits(ids, 0, gpt2::KvDtype::float16), logits);
        CHECK(found.deviations < test::tolerance);
        // The bound is no mere formality: with it a float32 cache is told from a float16 one.
        CHECK(distance(reference().logits(ids, 0), logits).deviations > test::tolerance);
        most = found.deviations > most.deviations ? found : most;
    }
    MESSAGE("float16 cache: at most ", most.deviations, " standard deviations, error ", most.error,
            ", bound ", most.bound);
}

TEST_CASE("greedy continuations of 40 tokens are those of the reference") {
    for (const auto cache : {gpt2::KvDtype::float32, gpt2::KvDtype::float16}) {
        for (const auto& prompt : golden()["prompts"]) {
            const auto text = prompt["text"].get<std::string>();
            CAPTURE(text);
            const auto& expected = prompt["f16"];
            gpt2::Session session(model(), {.pool = nullptr, .kv_dtype = cache});
            const auto result =
                session.generate(model().encode_prompt(text), {.max_new_tokens = 40, .ignore_eos = true});
            CHECK(result.tokens == expected["greedy_ids"].get<std::vector<TokenId>>());
            CHECK(result.text == expected["greedy_text"].get<std::string>());
        }
    }
}

TEST_CASE("likelihood of a text, method A: windows of 512 tokens from position 0") {
    const std::vector<TokenId> ids = heldout_2000();
    const auto& expected = golden()["heldout_2000"];
    const auto first = expected["first_ids"].get<std::vector<TokenId>>();
    CHECK(std::equal(first.begin(), first.end(), ids.begin()));
    CHECK(model().tokenizer().decode(ids).size() ==
          expected["text_of_the_2000_tokens_utf8_bytes"].get<std::size_t>());

    const auto windows = expected["A_f16w_float64"]["per_window_nll"].get<std::vector<double>>();
    const double bound = total_bound(ids);
    double total = 0.0;
    for (std::size_t w = 0; w < windows.size(); ++w) {
        gpt2::Session session(model(), float32_cache);
        const auto window = std::span(ids).subspan(512 * w, std::min<std::size_t>(512, ids.size() - 512 * w));
        const double nll = window_nll(session, window);
        CHECK(std::fabs(nll - windows[w]) < bound / 2.0); // a fourth of the tokens
        total += nll;
    }
    const double error = total - expected["A_f16w_float64"]["total_nll"].get<double>();
    MESSAGE("method A: ", total, ", error ", error, ", bound ", bound);
    CHECK(std::fabs(error) < bound);
    // The bound tells these weights from the same before they were rounded to float16.
    CHECK(std::fabs(total - expected["A_f32w_float64"]["total_nll"].get<double>()) > bound);
}

TEST_CASE("likelihood of a text, method B: after <|endoftext|>, windows of 512 inputs, every token once") {
    const std::vector<TokenId> ids = heldout_2000();
    const double bound = total_bound(ids);
    std::vector<TokenId> stream{*model().tokenizer().special_token("<|endoftext|>")};
    stream.insert(stream.end(), ids.begin(), ids.end());
    CHECK(stream[0] == 8191);
    const auto exp = gpt2::detail::exp_shifted_portable;
    std::vector<float> scratch;
    double total = 0.0;
    for (std::size_t begin = 0; begin < ids.size(); begin += 512) {
        gpt2::Session session(model(), float32_cache);
        const std::size_t n = std::min<std::size_t>(512, ids.size() - begin);
        total += window_nll(session, std::span(stream).subspan(begin, n));
        // The window's last target is not among its inputs.
        const auto logits = session.logits();
        total -= gpt2::log_softmax(logits[logits.dim(0) - 1].flat(), stream[begin + n], exp, scratch);
    }
    const auto& expected = golden()["heldout_2000"]["B_f16w_float64"];
    const double error = total - expected["total_nll"].get<double>();
    MESSAGE("method B: ", total, ", error ", error, ", bound ", bound);
    CHECK(std::fabs(error) < bound);
}

namespace {

/// The natural logarithms of the softmax of a row of logits.
std::vector<double> log_probabilities(std::span<const float> logits) {
    const auto highest = static_cast<double>(*std::ranges::max_element(logits));
    double total = 0.0;
    for (const float logit : logits) {
        total += std::exp(static_cast<double>(logit) - highest);
    }
    std::vector<double> result;
    for (const float logit : logits) {
        result.push_back(static_cast<double>(logit) - highest - std::log(total));
    }
    return result;
}

/// How far predictions are from what they should be, over some positions.
struct Change {
    double squares = 0.0;            ///< of the logits' differences
    double divergence = 0.0;         ///< Kullback and Leibler's, in nats, of all positions
    double largest_divergence = 0.0; ///< of one position
    double nll = 0.0;                ///< of the tokens
    std::size_t tops = 0;            ///< another token is the most likely

    void add(std::span<const float> expected, std::span<const float> found, const TokenId* next) {
        const auto p = log_probabilities(expected);
        const auto q = log_probabilities(found);
        double kl = 0.0;
        for (std::size_t v = 0; v < p.size(); ++v) {
            const double difference = static_cast<double>(expected[v]) - static_cast<double>(found[v]);
            squares += difference * difference;
            kl += std::exp(p[v]) * (p[v] - q[v]);
        }
        divergence += kl;
        largest_divergence = std::max(largest_divergence, kl);
        const auto top = [](const auto& row) { return std::ranges::max_element(row) - row.begin(); };
        tops += top(p) != top(q) ? 1 : 0;
        if (next != nullptr) {
            nll += p[static_cast<std::size_t>(*next)] - q[static_cast<std::size_t>(*next)];
        }
    }
};

} // namespace

TEST_CASE("a float16 cache is harmless: what it changes in 2000 tokens, windows of 512") {
    const std::vector<TokenId> ids = heldout_2000();
    const std::size_t V = model().config().vocab_size;
    Change change;
    for (std::size_t begin = 0; begin < ids.size(); begin += 512) {
        const auto window = std::span(ids).subspan(begin, std::min<std::size_t>(512, ids.size() - begin));
        const std::vector<float> expected = all_logits(window, gpt2::KvDtype::float32);
        const std::vector<float> found = all_logits(window, gpt2::KvDtype::float16);
        for (std::size_t t = 0; t < window.size(); ++t) {
            change.add(std::span(expected).subspan(t * V, V), std::span(found).subspan(t * V, V),
                       t + 1 < window.size() ? &window[t + 1] : nullptr);
        }
    }
    const auto n = static_cast<double>(ids.size());
    const double rms = std::sqrt(change.squares / (n * static_cast<double>(V)));
    const auto& expected = golden()["heldout_2000"];
    const double weights = expected["A_f16w_float64"]["total_nll"].get<double>() -
                           expected["A_f32w_float64"]["total_nll"].get<double>();
    MESSAGE("float16 cache: logits change by ", rms, " (RMS); KL divergence ", change.divergence / n,
            " nats on average, ", change.largest_divergence, " at most; another token is the most likely ",
            change.tops, " times; negative log-likelihood ", change.nll,
            " in all (float16 weights: ", weights, ")");
    CHECK(rms > 0.0);
    CHECK(rms < 2e-3);
    CHECK(change.divergence / n < 1e-6);
    CHECK(change.largest_divergence < 5e-5);
    CHECK(change.tops <= 10);
    CHECK(std::fabs(change.nll) < 0.2); // 1e-4 for each token
}
