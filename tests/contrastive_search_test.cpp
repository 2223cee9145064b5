// SPDX-License-Identifier: MIT

// Contrastive search against its definition in double, for which each candidate is read with all that
// precedes it; and what else generate() promises.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::OptionError;
using gpt2::Overflow;
using gpt2::Recorder;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::joined;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

const Gpt2Model& model() {
    return test::loaded_odd();
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, test::byte_vocabulary_size, seed);
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

GenerationConfig contrastive(float alpha, std::int64_t k, std::int64_t n = 12) {
    GenerationConfig config{.max_new_tokens = n, .top_k = k, .ignore_eos = true};
    config.penalty_alpha = alpha;
    return config;
}

/// Of the definition: the text, and by how much each token was ahead of the next candidate.
struct Expected {
    std::vector<TokenId> tokens;
    double margin = std::numeric_limits<double>::infinity();
};

/// Logits after a text, and the last hidden states of its tokens.
struct Reading {
    std::vector<float> logits;
    std::vector<std::vector<float>> states;

    explicit Reading(std::span<const TokenId> text) {
        const auto recorder = std::make_shared<Recorder>(Recorder::What{.last_hidden_states = true});
        Session session(model(), {.observer = recorder});
        logits = copy(session.forward(text));
        for (std::size_t i = 0; i < text.size(); ++i) {
            states.push_back(copy(recorder->last_hidden_state_at(i)));
        }
    }
};

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    double both = 0.0;
    double of_a = 0.0;
    double of_b = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        both += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        of_a += static_cast<double>(a[i]) * static_cast<double>(a[i]);
        of_b += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return both / std::sqrt(of_a) / std::sqrt(of_b);
}

/// @param forbidden  tokens that never come
/// @param penalty    repetition_penalty
Expected reference(std::vector<TokenId> text, double alpha, std::size_t k, std::size_t n,
                   const std::vector<TokenId>& forbidden = {}, double penalty = 1.0) {
    Expected out;
    while (out.tokens.size() < n) {
        const Reading before(text);
        std::vector<double> p;
        double sum = 0.0;
        for (std::size_t v = 0; v < before.logits.size(); ++v) {
            double s = static_cast<double>(before.logits[v]);
            if (std::ranges::count(text, static_cast<TokenId>(v)) > 0) {
                s = s < 0.0 ? s * penalty : s / penalty;
            }
            p.push_back(std::ranges::count(forbidden, static_cast<TokenId>(v)) > 0 ? 0.0 : std::exp(s));
            sum += p.back();
        }
        std::vector<std::size_t> order;
        for (std::size_t v = 0; v < p.size(); ++v) {
            if (p[v] > 0.0) {
                order.push_back(v);
            }
        }
        std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
        order.resize(std::min(order.size(), k));
        std::vector<double> scores;
        for (const std::size_t v : order) {
            const Reading after(joined(text, std::vector{static_cast<TokenId>(v)}));
            double likeness = -1.0;
            for (std::size_t j = 0; j < text.size(); ++j) {
                likeness = std::max(likeness, cosine(after.states.back(), after.states[j]));
            }
            scores.push_back((1.0 - alpha) * p[v] / sum - alpha * likeness);
        }
        const auto best = static_cast<std::size_t>(std::ranges::max_element(scores) - scores.begin());
        for (std::size_t i = 0; i < scores.size(); ++i) {
            out.margin = i == best ? out.margin : std::min(out.margin, scores[best] - scores[i]);
        }
        out.tokens.push_back(static_cast<TokenId>(order[best]));
        text.push_back(out.tokens.back());
    }
    return out;
}

/// Checks that a session is as one that has read @p all, bit for bit, and that it goes on like that.
void check_like_fresh(Session& session, std::span<const TokenId> all) {
    REQUIRE(std::ranges::equal(session.tokens(), all));
    Session fresh(model());
    fresh.forward(all);
    REQUIRE(session.logits().dim(0) == 1);
    CHECK(mismatch(session.logits().flat(), fresh.logits().flat()) == "");
    const auto more = tokens(std::min<std::size_t>(3, model().config().n_positions - all.size()), 7);
    CHECK(mismatch(session.forward(more), copy(fresh.forward(more))) == "");
}

void check_same(const GenerationResult& found, const GenerationResult& expected) {
    CHECK(found.tokens == expected.tokens);
    CHECK(found.logprobs == expected.logprobs);
    CHECK(found.text == expected.text);
    CHECK(found.prompt_tokens == expected.prompt_tokens);
}

} // namespace

TEST_CASE("every token is that of the definition") {
    std::size_t different = 0; // from the most probable one
    for (const double alpha : {0.25, 0.5, 0.75, 1.0}) {
        for (const std::size_t k : {2u, 5u}) {
            for (const std::size_t n : {1u, 7u, 70u}) {
                CAPTURE(alpha);
                CAPTURE(k);
                CAPTURE(n);
                const auto prompt = tokens(n, static_cast<std::uint32_t>(n));
                const Expected expected = reference(prompt, alpha, k, 10);
                REQUIRE(expected.margin > 1e-6); // or it depended on rounding
                const auto found = Session(model()).generate(
                    prompt, contrastive(static_cast<float>(alpha), static_cast<std::int64_t>(k), 10));
                CHECK(found.tokens == expected.tokens);
                const auto greedy =
                    Session(model()).generate(prompt, {.max_new_tokens = 10, .ignore_eos = true});
                different += found.tokens != greedy.tokens ? 1 : 0;
            }
        }
    }
    CHECK(different > 12);
}

TEST_CASE("processors change the probabilities, and which tokens are candidates") {
    const auto prompt = tokens(9, 5);
    GenerationConfig config = contrastive(0.5f, 4, 10);
    SUBCASE("a penalty") {
        config.repetition_penalty = 1.5f;
        const Expected expected = reference(prompt, 0.5, 4, 10, {}, 1.5);
        REQUIRE(expected.margin > 1e-6);
        CHECK(Session(model()).generate(prompt, config).tokens == expected.tokens);
    }
    SUBCASE("three tokens are allowed, a hundred asked for, and what is forbidden would be unlike the text") {
        config = contrastive(1.0f, 100, 10);
        for (TokenId token = 0; token < static_cast<TokenId>(test::byte_vocabulary_size); ++token) {
            if (token != 65 && token != 66 && token != 200) {
                config.suppress_tokens.push_back(token);
            }
        }
        const Expected expected = reference(prompt, 1.0, 100, 10, config.suppress_tokens);
        REQUIRE(expected.margin > 1e-6);
        CHECK(Session(model()).generate(prompt, config).tokens == expected.tokens);
    }
    SUBCASE("more than there are tokens") {
        config.top_k = 1000;
        config.max_new_tokens = 2;
        const Expected expected = reference(prompt, 0.5, 1000, 2);
        REQUIRE(expected.margin > 1e-6);
        CHECK(Session(model()).generate(prompt, config).tokens == expected.tokens);
    }
    SUBCASE("one that is forced") {
        config.forced_eos_token_id = 65;
        config.ignore_eos = false;
        config.eos_token_id = 65;
        config.suppress_tokens.clear();
        CHECK(Session(model()).generate(prompt, config).tokens.back() == 65);
    }
}

TEST_CASE("likeness: the largest cosine") {
    gpt2::detail::HiddenStates states(20);
    std::vector<float> x(20);
    x[3] = 2.0f;
    states.set(0, x);
    x[17] = 2.0f;
    states.set(1, x);
    states.set(2, std::vector<float>(20));
    std::vector<float> y(20);
    y[17] = -0.5f;
    CHECK(states.likeness(y, 1) == 0.0);
    CHECK(states.likeness(y, 2) == 0.0);
    y[3] = 0.125f;
    CHECK(std::fabs(states.likeness(y, 1) - 0.125 / std::sqrt(0.265625)) < 1e-15);
    y[17] = 0.125f;
    CHECK(std::fabs(states.likeness(y, 1) - std::sqrt(0.5)) < 1e-15);
    CHECK(std::fabs(states.likeness(y, 3) - 1.0) < 1e-15);
    std::vector<float> opposite(20);
    opposite[3] = -1.0f;
    CHECK(states.likeness(opposite, 1) == -1.0);
    CHECK(states.likeness(std::vector<float>(20), 2) == 0.0);
}

TEST_CASE("what a session holds already counts as the begin of the prompt") {
    const auto all = tokens(80, 2);
    const GenerationConfig config = contrastive(0.6f, 4);
    const GenerationResult expected = Session(model()).generate(all, config);
    for (const std::size_t n : {1u, 40u, 64u, 79u, 80u}) {
        CAPTURE(n);
        Session session(model());
        session.forward(std::span(all).first(n));
        const GenerationResult found = session.generate(std::span(all).subspan(n), config);
        CHECK(found.tokens == expected.tokens);
        check_like_fresh(session, joined(all, std::span(found.tokens).first(found.tokens.size() - 1)));
    }
    Session session(model()); // after another text, and another kind of it
    const auto first = session.generate(all, {.max_new_tokens = 5, .ignore_eos = true});
    const auto next = joined(std::span(first.tokens).last(1), tokens(4, 3));
    const auto second = session.generate(next, config);
    const auto whole = joined(joined(all, first.tokens), std::span(next).subspan(1));
    CHECK(second.tokens == Session(model()).generate(whole, config).tokens);

    gpt2::PrefixCache cache(model());
    check_same(cache.generate(all, config), expected);
    check_same(cache.generate(all, config), expected);
    CHECK(cache.statistics().tokens_reused == 79);
}

TEST_CASE("the same for any number of threads, with logprobs of the model, and in every output") {
    const auto prompt = tokens(30, 4);
    GenerationConfig config = contrastive(0.6f, 6, 20);
    config.logprobs = true;
    config.repetition_penalty = 1.3f;
    Session session(model());
    std::string streamed;
    std::vector<TokenId> ids;
    std::vector<float> logprobs;
    const GenerationResult expected = session.generate(prompt, config, [&](const GeneratedToken& token) {
        streamed += token.text;
        ids.push_back(token.id);
        logprobs.push_back(token.logprob.value_or(1.0f));
        return Flow::proceed;
    });
    CHECK(streamed == expected.text);
    CHECK(ids == expected.tokens);
    CHECK(logprobs == expected.logprobs);
    CHECK(expected.finish_reason == FinishReason::length);
    CHECK(!expected.seed);
    CHECK(expected.prompt_tokens == 30);
    Session scored(model());
    scored.forward(prompt);
    CHECK(scored.score(expected.tokens) == expected.logprobs);
    for (const std::size_t n : {1u, 2u, 3u}) {
        Session other(model(), {.pool = std::make_shared<gpt2::ThreadPool>(n)});
        check_same(other.generate(prompt, config), expected);
    }
    check_same(model().generate("the king", config),
               Session(model()).generate(model().encode_prompt("the king"), config));
    config.max_new_tokens = 0;
    CHECK(session.generate(tokens(2), config).tokens.empty());
}

TEST_CASE("an observer sees what the session reads, each token once") {
    const auto prompt = tokens(30, 4);
    const Recorder::What everything{
        .hidden_states = true, .last_hidden_states = true, .attention = true, .logits = true};
    const auto recorder = std::make_shared<Recorder>(everything);
    Session session(model(), {.observer = recorder});
    session.forward(std::span(prompt).first(10));
    const auto text = session.generate(std::span(prompt).subspan(10), contrastive(0.6f, 4));
    CHECK(text.tokens == Session(model()).generate(prompt, contrastive(0.6f, 4)).tokens);

    const auto expected = std::make_shared<Recorder>(everything);
    Session plain(model(), {.observer = expected});
    plain.forward(prompt);
    for (std::size_t i = 0; i + 1 < text.tokens.size(); ++i) {
        plain.forward(std::span(text.tokens).subspan(i, 1));
    }
    REQUIRE(std::ranges::equal(session.tokens(), plain.tokens()));
    for (std::size_t i = 0; i < plain.position(); ++i) {
        CHECK(mismatch(recorder->last_hidden_state_at(i), expected->last_hidden_state_at(i)) == "");
        CHECK(mismatch(recorder->hidden_state_at(2, i), expected->hidden_state_at(2, i)) == "");
        CHECK(mismatch(recorder->attention_at(1, 3, i), expected->attention_at(1, 3, i)) == "");
    }
    CHECK(mismatch(recorder->logits_at(41 - 1), expected->logits_at(41 - 1)) == "");
    session.forward(tokens(1)); // the observer is the session's own again
    CHECK(recorder->last_hidden_state_at(41).size() == model().config().n_embd);
}

TEST_CASE("a text ends as any other") {
    const auto prompt = tokens(30, 4);
    GenerationConfig config = contrastive(0.6f, 6, 20);
    const GenerationResult whole = Session(model()).generate(prompt, config);
    Session session(model());
    const auto first = [&](std::size_t n) { return std::span(whole.tokens).first(n); };

    SUBCASE("the end of the text") {
        config.ignore_eos = false;
        config.eos_token_id = whole.tokens[5];
        const auto n =
            static_cast<std::size_t>(std::ranges::find(whole.tokens, whole.tokens[5]) - whole.tokens.begin());
        const auto found = session.generate(prompt, config);
        CHECK(found.finish_reason == FinishReason::eos);
        CHECK(std::ranges::equal(found.tokens, first(n + 1)));
        check_like_fresh(session, joined(prompt, first(n)));
    }
    SUBCASE("a stop string") {
        config.stop_strings = {std::string(model().tokenizer().token_bytes(whole.tokens[5]))};
        const auto found = session.generate(prompt, config);
        CHECK(found.finish_reason == FinishReason::stop_string);
        CHECK(found.tokens.size() <= 6);
        check_like_fresh(session, joined(prompt, first(found.tokens.size() - 1)));
    }
    SUBCASE("the callback") {
        const auto stop = [](const GeneratedToken& token) {
            return token.index == 4 ? Flow::stop : Flow::proceed;
        };
        const auto found = session.generate(prompt, config, stop);
        CHECK(found.finish_reason == FinishReason::callback);
        CHECK(std::ranges::equal(found.tokens, first(5)));
        check_like_fresh(session, joined(prompt, first(4)));
    }
    SUBCASE("an exception") {
        const auto fail = [](const GeneratedToken& token) {
            return token.index == 4 ? throw std::runtime_error("no") : Flow::proceed;
        };
        CHECK_THROWS_AS((void)session.generate(prompt, config, fail), std::runtime_error);
        check_like_fresh(session, joined(prompt, first(4)));
    }
    SUBCASE("a request to stop, while candidates are read") {
        std::stop_source source;
        config.cancellation = source.get_token();
        const auto found = session.generate(prompt, config, [&](const GeneratedToken& token) {
            if (token.index == 4) {
                source.request_stop();
            }
            return Flow::proceed;
        });
        CHECK(found.finish_reason == FinishReason::cancelled);
        CHECK(std::ranges::equal(found.tokens, first(5)));
        check_like_fresh(session, joined(prompt, first(4)));
    }
    SUBCASE("no time at all") {
        session.forward(std::span(prompt).first(10));
        config.max_time = 0.0;
        const auto found = session.generate(std::span(prompt).subspan(10), config);
        CHECK(found.finish_reason == FinishReason::max_time);
        CHECK(found.tokens.empty());
        check_like_fresh(session, std::span(prompt).first(10));
    }
}

TEST_CASE("up to the last position, and beyond it") {
    const auto prompt = tokens(200, 6);
    GenerationConfig config = contrastive(0.6f, 3, 10);
    Session session(model());
    const auto fits = session.generate(std::span(prompt).first(140), config);
    CHECK(fits.tokens.size() == 10);
    CHECK(session.position() == 149);
    CHECK_THROWS_AS((void)Session(model()).generate(std::span(prompt).first(141), config),
                    gpt2::ContextError);
    config.overflow = Overflow::truncate_left;
    const auto expected = Session(model()).generate(std::span(prompt).last(140), config);
    check_same(Session(model()).generate(prompt, config), expected);
    Session held(model());
    held.forward(std::span(prompt).first(120));
    CHECK(held.generate(std::span(prompt).subspan(120), config).tokens == expected.tokens);
    check_like_fresh(held, joined(std::span(prompt).last(140), std::span(expected.tokens).first(9)));
}

TEST_CASE("options that contradict each other name both") {
    const auto refused = [](const GenerationConfig& config, std::string_view a, std::string_view b) {
        check_throws<OptionError>([&] { (void)Session(model()).generate(tokens(3), config); }, {a, b});
    };
    GenerationConfig config = contrastive(0.6f, 4);
    const auto with = [&](auto&& change) {
        GenerationConfig changed = config;
        change(changed);
        return changed;
    };
    refused(with([](auto& c) { c.top_k.reset(); }), "penalty_alpha is 0.6", "top_k is not set");
    refused(with([](auto& c) { c.top_k = 1; }), "penalty_alpha is 0.6", "top_k is 1");
    refused(with([](auto& c) { c.do_sample = true; }), "penalty_alpha", "do_sample");
    refused(with([](auto& c) { c.num_beams = 2; }), "penalty_alpha", "num_beams");
    refused(with([](auto& c) { c.guidance_scale = 2.0f; }), "penalty_alpha", "guidance_scale");
    refused(with([](auto& c) { c.prompt_lookup_num_tokens = 2; }), "penalty_alpha",
            "prompt_lookup_num_tokens");
    refused(with([](auto& c) { c.assistant_model = std::make_shared<gpt2::PromptLookup>(); }),
            "penalty_alpha", "assistant_model");
    refused(with([](auto& c) { c.top_logprobs = 1; }), "penalty_alpha", "top_logprobs");
    refused(with([](auto& c) { c.prompt_logprobs = true; }), "penalty_alpha", "prompt_logprobs");
    refused(with([](auto& c) { c.overflow = Overflow::slide; }), "penalty_alpha", "overflow");
    refused(with([](auto& c) { c.mirostat.emplace(); }), "mirostat", "do_sample");
    refused(with([](auto& c) { c.temperature = 0.5f; }), "temperature", "do_sample");
    refused(with([](auto& c) { c.num_return_sequences = 2; }), "num_return_sequences is 2", "do_sample");
    refused(with([](auto& c) { c.penalty_alpha = 1.5f; }), "penalty_alpha is 1.5", "from 0 to 1");
    refused(with([](auto& c) { c.penalty_alpha = std::numeric_limits<float>::quiet_NaN(); }),
            "penalty_alpha is nan", "from 0 to 1");
    refused(with([](auto& c) { c.penalty_alpha = 0.0f; }), "top_k", "do_sample"); // off
    check_throws<OptionError>([&] { (void)model().generate_batch(std::vector<std::string>{"a"}, config); },
                              {"penalty_alpha", "generate_batch"});
    config.top_k.reset();
    config.penalty_alpha = 0.0f;
    CHECK(model().generate("a", config).tokens.size() == 12);
}
