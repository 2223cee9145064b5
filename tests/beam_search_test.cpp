// SPDX-License-Identifier: MIT

// Beam search with a model: against the definition in double precision, with logits of fresh forward passes.

#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::NumericError;
using gpt2::OptionError;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::sampling::EarlyStopping;
using gpt2::test::loaded_novella;
using gpt2::test::make_model;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()
constexpr TokenId eos = 256;
constexpr double forbidden = -std::numeric_limits<double>::infinity();

/// Some tokens are much more probable than others.
const Gpt2Model& model() {
    const auto edit = [](std::string_view name, std::span<float> values) {
        test::enlarge_matrices(name, values);
        for (float& value : values) {
            value *= name == "ln_f.weight" ? 15.0f : 1.0f;
        }
    };
    static const Gpt2Model loaded = make_model(test::odd_config(), edit);
    return loaded;
}

const std::vector<TokenId>& prompt() {
    static const std::vector<TokenId> tokens = test::some_tokens(61, 256); // a block of keys ends soon
    return tokens;
}

std::vector<GenerationResult> search(const GenerationConfig& config, const Gpt2Model& of = model(),
                                     const std::vector<TokenId>& from = prompt()) {
    return of.generate_batch(std::span(&from, 1), config);
}

struct Text {
    std::vector<TokenId> tokens;
    double sum = 0.0;
    double score = 0.0;
};

/// Changes log-probabilities [V], knowing the text so far.
using Change = std::function<void(const std::vector<TokenId>& text, std::vector<double>& scores)>;

/// Log-probabilities after a prompt and a text, from a session of their own that slides when it is full.
std::vector<double> log_probabilities(const Gpt2Model& of, const std::vector<TokenId>& from,
                                      const std::vector<TokenId>& text) {
    std::vector<TokenId> window = from;
    for (const TokenId token : text) {
        window.push_back(token);
        if (window.size() > n_positions) {
            window.erase(window.begin(), window.end() - n_positions / 2);
        }
    }
    Session session(of);
    const std::span<const float> logits = session.forward(window);
    const double largest = static_cast<double>(*std::ranges::max_element(logits));
    double sum = 0.0;
    for (const float logit : logits) {
        sum += std::exp(static_cast<double>(logit) - largest);
    }
    std::vector<double> out;
    for (const float logit : logits) {
        out.push_back(static_cast<double>(logit) - largest - std::log(sum));
    }
    return out;
}

/// Which candidates are looked at: the best 2 * n, unless the test draws them.
using Choose = std::function<void(std::size_t step, std::vector<Text>& candidates)>;

void best_first(std::vector<Text>& texts, double Text::*by) {
    std::ranges::stable_sort(texts, std::greater<>(), by);
}

/// The definition, for groups of beams: after each step the candidates with the largest sums are looked at,
/// the best first. One of the first n that ends is complete; the first n that do not end go on.
std::vector<Text> expected_texts(const GenerationConfig& config, const Change& change = {},
                                 const Choose& choose = {}, const std::vector<TokenId>& from = prompt(),
                                 const Gpt2Model& of = model()) {
    const auto n_groups = static_cast<std::size_t>(config.num_beam_groups);
    const std::size_t n = static_cast<std::size_t>(config.num_beams) / n_groups;
    const auto max_length = static_cast<std::size_t>(config.max_new_tokens);
    const double penalty = static_cast<double>(config.length_penalty.value_or(1.0f));
    const auto score_of = [&](double sum, std::size_t length) {
        return sum / std::pow(static_cast<double>(length), penalty);
    };
    struct Group {
        std::vector<Text> beams{Text{}};
        std::vector<Text> complete;
        bool done = false;
    };
    std::vector<Group> groups(n_groups);
    for (std::size_t length = 1; length <= max_length; ++length) {
        std::map<TokenId, int> chosen;
        for (Group& group : groups) {
            if (group.done) {
                continue;
            }
            std::vector<Text> candidates;
            for (const Text& beam : group.beams) {
                std::vector<double> scores = log_probabilities(of, from, beam.tokens);
                for (const auto& [token, count] : chosen) {
                    scores[static_cast<std::size_t>(token)] -=
                        static_cast<double>(*config.diversity_penalty) * count;
                }
                if (change) {
                    change(beam.tokens, scores);
                }
                for (std::size_t v = 0; v < scores.size(); ++v) {
                    if (scores[v] > forbidden) {
                        Text text = beam;
                        text.tokens.push_back(static_cast<TokenId>(v));
                        text.sum += scores[v];
                        candidates.push_back(text);
                    }
                }
            }
            if (choose) {
                choose(length - 1, candidates);
            }
            best_first(candidates, &Text::sum);
            candidates.resize(std::min(candidates.size(), 2 * n));
            group.beams.clear();
            for (std::size_t rank = 0; rank < candidates.size() && group.beams.size() < n; ++rank) {
                Text& text = candidates[rank];
                text.score = score_of(text.sum, length);
                if (text.tokens.back() != eos || config.ignore_eos) {
                    group.beams.push_back(text);
                } else if (rank < n) {
                    group.complete.push_back(text);
                    best_first(group.complete, &Text::score);
                    group.complete.resize(std::min(group.complete.size(), n));
                }
            }
            if (group.complete.size() == n) {
                const bool never = config.early_stopping == EarlyStopping::never && penalty > 0.0;
                group.done = config.early_stopping == EarlyStopping::on ||
                             group.complete.back().score >=
                                 score_of(candidates.front().sum, never ? max_length : length);
            }
            for (const Text& beam : group.beams) {
                ++chosen[beam.tokens.back()];
            }
        }
    }
    std::vector<Text> out;
    for (Group& group : groups) {
        if (!group.done) {
            group.complete.insert(group.complete.end(), group.beams.begin(), group.beams.end());
            best_first(group.complete, &Text::score);
            group.complete.resize(std::min(group.complete.size(), n));
        }
        out.insert(out.end(), group.complete.begin(), group.complete.end());
    }
    best_first(out, &Text::score);
    return out;
}

void check_texts(const std::vector<GenerationResult>& found, const std::vector<Text>& expected) {
    REQUIRE(found.size() <= expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK(found[i].tokens == expected[i].tokens);
        REQUIRE(found[i].score.has_value());
        CHECK(*found[i].score == doctest::Approx(expected[i].score).epsilon(1e-5));
        CHECK((i == 0 || *found[i].score <= *found[i - 1].score));
    }
}

/// Makes the end of the text probable enough to come up.
const std::map<TokenId, float> some_ends{{eos, 2.5f}};

void bias_ends(const std::vector<TokenId>&, std::vector<double>& scores) {
    scores[eos] += 2.5;
}

} // namespace

TEST_CASE("texts and scores are those of the definition") {
    std::set<std::size_t> lengths;
    for (const std::int64_t n : {2, 3, 5}) {
        for (const float penalty : {-0.5f, 0.0f, 1.0f, 1.5f}) {
            for (const EarlyStopping when : {EarlyStopping::off, EarlyStopping::on, EarlyStopping::never}) {
                GenerationConfig config{.max_new_tokens = 9, .logit_bias = some_ends};
                config.num_return_sequences = config.num_beams = n;
                config.length_penalty = penalty;
                config.early_stopping = when;
                CAPTURE(n);
                CAPTURE(penalty);
                CAPTURE(static_cast<int>(when));
                const auto found = search(config);
                check_texts(found, expected_texts(config, bias_ends));
                for (const GenerationResult& result : found) {
                    lengths.insert(result.tokens.size());
                    CHECK(result.finish_reason ==
                          (result.tokens.back() == eos ? FinishReason::eos : FinishReason::length));
                    CHECK_FALSE(result.seed.has_value());
                    CHECK(result.prompt_tokens == prompt().size());
                }
            }
        }
    }
    CHECK(lengths.size() > 2);
}

TEST_CASE("without options, and where the model does not end the text") {
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true, .num_beams = 4};
    const auto expected = expected_texts(config);
    check_texts(search(config), expected);
    const GenerationResult one = loaded_novella().generate("The king", config);
    const auto several = loaded_novella().generate_batch(std::vector<std::string>{"The king"}, config);
    CHECK(one.tokens == several.at(0).tokens);
    CHECK(one.score == several.at(0).score);
    // Now and then a more probable text than the greedy one.
    config.num_beams = 1;
    std::size_t n_better = 0;
    for (const std::string text : {"The king", "It was a dark", "Once upon a time", "She"}) {
        const auto greedy = loaded_novella().generate(text, config);
        CHECK_FALSE(greedy.score.has_value());
        Session session(loaded_novella());
        session.forward(loaded_novella().encode_prompt(text));
        double sum = 0.0;
        for (const float logprob : session.score(greedy.tokens)) {
            sum += static_cast<double>(logprob);
        }
        GenerationConfig beams = config;
        beams.num_beams = 4;
        n_better += *loaded_novella().generate(text, beams).score > sum / 12.0 + 1e-3 ? 1 : 0;
    }
    CHECK(n_better > 0);
}

TEST_CASE("processors change the scores, log-probabilities are those of the model") {
    GenerationConfig config{.max_new_tokens = 8, .repetition_penalty = 1.4f, .logprobs = true};
    config.logit_bias = some_ends;
    config.min_new_tokens = 3;
    config.suppress_tokens = {17, 99};
    config.num_beams = config.num_return_sequences = 4;
    const Change change = [](const std::vector<TokenId>& text, std::vector<double>& scores) {
        bias_ends(text, scores);
        std::set<TokenId> seen(prompt().begin(), prompt().end());
        seen.insert(text.begin(), text.end());
        for (const TokenId token : seen) {
            double& s = scores[static_cast<std::size_t>(token)];
            s = s < 0.0 ? s * static_cast<double>(1.4f) : s / static_cast<double>(1.4f);
        }
        scores[17] = scores[99] = forbidden;
        if (text.size() < 3) {
            scores[eos] = forbidden;
        }
    };
    const auto found = search(config);
    check_texts(found, expected_texts(config, change));
    for (const GenerationResult& result : found) {
        Session session(model());
        session.forward(prompt());
        CHECK(result.logprobs == session.score(result.tokens));
    }
}

TEST_CASE("a user's processor sees the text of each beam") {
    GenerationConfig config{
        .max_new_tokens = 6, .ignore_eos = true, .num_return_sequences = 3, .num_beams = 3};
    config.logits_processors.push_back([](std::span<const TokenId> tokens, std::span<float> scores) {
        CHECK(std::ranges::equal(tokens.first(prompt().size()), prompt()));
        scores[static_cast<std::size_t>(tokens.back() + 1) % 256] += 3.0f;
    });
    check_texts(search(config), expected_texts(config, [](const std::vector<TokenId>& text, auto& scores) {
                    const TokenId last = text.empty() ? prompt().back() : text.back();
                    scores[static_cast<std::size_t>(last + 1) % 256] += 3.0;
                }));
}

TEST_CASE("with room for everything: the best of all texts") {
    // Three tokens and the end are allowed, at most five of them: every text is tried.
    GenerationConfig config{.max_new_tokens = 5};
    for (TokenId token = 0; token < 259; ++token) {
        if (token != eos && token != 65 && token != 66 && token != 67) {
            config.suppress_tokens.push_back(token);
        }
    }
    config.num_beams = 600;
    config.early_stopping = EarlyStopping::never;
    config.num_return_sequences = 10;
    std::vector<Text> all;
    const std::function<void(const Text&)> visit = [&](const Text& text) {
        if (text.tokens.size() == 5 || (!text.tokens.empty() && text.tokens.back() == eos)) {
            all.push_back(text);
            all.back().score = text.sum / static_cast<double>(text.tokens.size());
            return;
        }
        const std::vector<double> scores = log_probabilities(model(), {1, 2, 3}, text.tokens);
        for (const TokenId token : {65, 66, 67, eos}) {
            Text next = text;
            next.tokens.push_back(token);
            next.sum += scores[static_cast<std::size_t>(token)];
            visit(next);
        }
    };
    visit({});
    CHECK(all.size() == 1 + 3 + 9 + 27 + 81 * 4);
    best_first(all, &Text::score);
    check_texts(search(config, model(), {1, 2, 3}), all);
    config.num_beams = config.num_return_sequences = static_cast<std::int64_t>(all.size()) + 1;
    CHECK_THROWS_WITH_AS((void)search(config, model(), {1, 2, 3}),
                         "num_return_sequences is 365, found 364 texts that the other options allow",
                         NumericError);
}

TEST_CASE("a stop ends the search with the best so far") {
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true};
    config.num_beams = 3;
    config.num_return_sequences = 2;
    std::stop_source source;
    config.cancellation = source.get_token();
    const auto check_all = [&](std::size_t n, FinishReason reason) {
        const auto found = search(config);
        REQUIRE(found.size() == 2);
        for (const GenerationResult& result : found) {
            CHECK(result.tokens.size() == n);
            CHECK(result.finish_reason == reason);
        }
        return found;
    };
    SUBCASE("before the prompt") {
        source.request_stop();
        check_all(0, FinishReason::cancelled);
    }
    SUBCASE("no time for the prompt") {
        config.max_time = 0.0;
        check_all(0, FinishReason::max_time);
    }
    SUBCASE("after the fifth token: as a search for five tokens") {
        std::size_t calls = 0; // one for each beam from the second token on
        config.logits_processors.push_back([&](std::span<const TokenId> tokens, std::span<float>) {
            calls += tokens.size() == prompt().size() + 4 ? 1 : 0;
            if (calls == 3) {
                source.request_stop();
            }
        });
        const auto found = check_all(5, FinishReason::cancelled);
        GenerationConfig five = config;
        five.cancellation = {};
        five.max_new_tokens = 5;
        const auto expected = search(five);
        for (std::size_t i = 0; i < 2; ++i) {
            CHECK(found[i].tokens == expected[i].tokens);
            CHECK(found[i].score == expected[i].score);
        }
    }
}

TEST_CASE("several prompts: each as if it were alone, on any threads, with any cache") {
    std::vector<std::vector<TokenId>> prompts{prompt(), {5}, test::some_tokens(70, 256, 2)};
    GenerationConfig config{.max_new_tokens = 10, .logprobs = true, .logit_bias = some_ends};
    config.num_beams = 4;
    config.num_return_sequences = 2;
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        const gpt2::SessionOptions options{.pool = std::make_shared<gpt2::ThreadPool>(3), .kv_dtype = cache};
        const auto together = model().generate_batch(prompts, config, {}, options);
        REQUIRE(together.size() == 6);
        for (std::size_t i = 0; i < 6; ++i) {
            const auto alone = model().generate_batch(std::span(prompts).subspan(i / 2, 1), config, {},
                                                      {.pool = nullptr, .kv_dtype = cache});
            CHECK(together[i].tokens == alone[i % 2].tokens);
            CHECK(together[i].score == alone[i % 2].score);
            CHECK(together[i].logprobs == alone[i % 2].logprobs);
        }
    }
    CHECK(model().generate_batch(std::vector<std::string>(), config).empty());
}

TEST_CASE("beams in a context that slides") {
    GenerationConfig config{.max_new_tokens = 30, .ignore_eos = true, .overflow = gpt2::Overflow::slide};
    config.num_beams = config.num_return_sequences = 3;
    const std::vector<TokenId> from = test::some_tokens(n_positions - 10, 256, 8);
    check_texts(search(config, model(), from), expected_texts(config, {}, {}, from));
}

TEST_CASE("stop strings end a text as its last token does") {
    GenerationConfig config{.max_new_tokens = 25, .stop_strings = {" the", ","}, .num_return_sequences = 4};
    config.num_beams = 4;
    std::size_t n_stopped = 0;
    const std::vector<std::string> prompts{"The king", "It was a dark"};
    const auto results = loaded_novella().generate_batch(prompts, config);
    REQUIRE(results.size() == 8);
    for (std::size_t i = 0; i < 8; ++i) {
        const GenerationResult& result = results[i];
        const bool stopped = result.finish_reason == FinishReason::stop_string;
        n_stopped += stopped ? 1 : 0;
        CHECK(result.text.find(',') == std::string::npos);
        CHECK(result.text.find(" the") == std::string::npos);
        CHECK(stopped == !result.stop_string.empty());
        CHECK(stopped == (result.bytes.size() > result.text.size()));
        // Its score is that of all its tokens, the last included.
        Session session(loaded_novella());
        session.forward(loaded_novella().encode_prompt(prompts[i / 4]));
        double sum = 0.0;
        for (const float logprob : session.score(result.tokens)) {
            sum += static_cast<double>(logprob);
        }
        CHECK(*result.score ==
              doctest::Approx(sum / static_cast<double>(result.tokens.size())).epsilon(1e-5));
    }
    CHECK(n_stopped > 1);
    // A stop string of one byte is an end of text like any other.
    GenerationConfig ends{
        .max_new_tokens = 9, .logit_bias = {{65, 2.5f}}, .num_return_sequences = 3, .num_beams = 3};
    ends.ignore_eos = true;
    ends.stop_strings = {"A"};
    GenerationConfig token = ends;
    token.stop_strings.clear();
    token.ignore_eos = false;
    token.eos_token_id = 65;
    const auto found = search(ends);
    const auto expected = search(token);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(found[i].tokens == expected[i].tokens);
        CHECK(found[i].score == expected[i].score);
        CHECK(found[i].text == expected[i].text);
    }
}

TEST_CASE("drawn beams are those of the definition with the library's random numbers") {
    GenerationConfig config{.max_new_tokens = 8, .do_sample = true, .seed = 11, .sample = 2};
    config.logit_bias = some_ends;
    config.num_beams = config.num_return_sequences = 3;
    config.temperature = 1.5f;
    std::set<std::vector<TokenId>> different;
    for (const std::uint64_t seed : {11u, 12u, 13u, 14u}) {
        config.seed = seed;
        const Change change = [](const std::vector<TokenId>& text, std::vector<double>& scores) {
            bias_ends(text, scores);
            for (double& s : scores) {
                s /= 1.5;
            }
        };
        const Choose choose = [&](std::size_t step, std::vector<Text>& candidates) {
            std::vector<Text> drawn;
            for (std::size_t i = 0; i < 6; ++i) {
                double whole = 0.0;
                for (const Text& text : candidates) {
                    whole += std::exp(text.sum);
                }
                double left = gpt2::uniform(seed, 2, 6 * step + i) * whole;
                auto chosen = candidates.begin();
                while (left >= std::exp(chosen->sum)) {
                    left -= std::exp(chosen->sum);
                    ++chosen;
                }
                drawn.push_back(*chosen);
                candidates.erase(chosen);
            }
            candidates = drawn;
        };
        const auto found = search(config);
        check_texts(found, expected_texts(config, change, choose));
        CHECK(found[0].seed == seed);
        different.insert(found[2].tokens);
    }
    CHECK(different.size() > 1);
    config.temperature = 0.0f; // nothing is drawn
    GenerationConfig plain{
        .max_new_tokens = 8, .logit_bias = some_ends, .num_return_sequences = 3, .num_beams = 3};
    CHECK(search(config)[2].tokens == search(plain)[2].tokens);
    config.temperature = 1.0f;
    config.top_k = 5;
    config.xtc = gpt2::sampling::Xtc{};
    config.seed.reset();
    const auto fresh = search(config);
    REQUIRE(fresh[1].seed.has_value());
    config.seed = fresh[1].seed;
    CHECK(search(config)[1].tokens == fresh[1].tokens);
}

TEST_CASE("groups keep away from each other") {
    for (const auto& shape : {std::pair{2, 2}, std::pair{6, 2}, std::pair{6, 3}}) {
        for (const EarlyStopping when : {EarlyStopping::off, EarlyStopping::on}) {
            GenerationConfig config{.max_new_tokens = 8, .logit_bias = some_ends};
            config.num_beams = config.num_return_sequences = shape.first;
            config.num_beam_groups = shape.second;
            config.diversity_penalty = 0.7f;
            config.early_stopping = when;
            CAPTURE(shape.first);
            CAPTURE(shape.second);
            check_texts(search(config), expected_texts(config, bias_ends));
        }
    }
    // The penalty is what makes them differ.
    GenerationConfig config{
        .max_new_tokens = 1, .ignore_eos = true, .num_return_sequences = 3, .num_beams = 3};
    config.num_beam_groups = 3;
    config.diversity_penalty = 1e-6f;
    const auto same = search(config);
    CHECK((same[0].tokens == same[1].tokens && same[1].tokens == same[2].tokens));
    config.diversity_penalty = 100.0f;
    const auto different = search(config);
    CHECK((different[0].tokens != different[1].tokens && different[1].tokens != different[2].tokens));
}

TEST_CASE("the callback is told of the texts that were found") {
    GenerationConfig config{.max_new_tokens = 9, .logprobs = true, .logit_bias = some_ends};
    config.num_beams = 4;
    config.num_return_sequences = 3;
    const auto all = search(config);
    std::vector<std::string> texts(3);
    std::vector<std::vector<TokenId>> tokens(3);
    const auto found = model().generate_batch(
        std::span(&prompt(), 1), config, [&](std::size_t i, const GeneratedToken& token) {
            CHECK(token.index == tokens[i].size());
            CHECK(token.logprob == all[i].logprobs[token.index]);
            tokens[i].push_back(token.id);
            texts[i] += token.text;
            return i == 1 && token.index == 0 ? Flow::stop : Flow::proceed;
        });
    for (const std::size_t i : {0u, 2u}) {
        CHECK(tokens[i] == all[i].tokens);
        CHECK(texts[i] == all[i].text);
        CHECK(found[i].text == all[i].text);
    }
    CHECK(tokens[1] == std::vector<TokenId>{all[1].tokens[0]});
    std::string streamed;
    config.num_return_sequences = 1;
    const auto one = loaded_novella().generate("The king", config, [&](const GeneratedToken& token) {
        streamed += token.text;
        return Flow::proceed;
    });
    CHECK(one.text == streamed);
    CHECK(one.ttft <= one.total);
    CHECK(one.tpot.count() == 0.0);
}

TEST_CASE("the prompt is read once, and a token of all beams in one pass") {
    const auto profile = std::make_shared<gpt2::Profile>();
    GenerationConfig config{.max_new_tokens = 10, .ignore_eos = true, .num_beams = 5};
    (void)model().generate_batch(std::span(&prompt(), 1), config, {},
                                 {.pool = {}, .kv_dtype = {}, .profile = profile});
    std::size_t passes = 0;
    for (const auto& total : profile->totals()) {
        passes += total.name == std::string_view("forward") ? total.calls : 0;
    }
    CHECK(passes == 10);
}

TEST_CASE("options that contradict each other are refused, both named") {
    const auto refused = [](const GenerationConfig& config, const char* message) {
        CHECK_THROWS_WITH_AS((void)search(config), message, OptionError);
    };
    refused({.num_beams = 0}, "num_beams is 0, expected 1 or more");
    refused({.num_return_sequences = 5, .num_beams = 4},
            "num_return_sequences is 5, expected at most num_beams, 4");
    refused({.length_penalty = 1.0f}, "length_penalty is set but has no effect while num_beams is 1");
    refused({.early_stopping = EarlyStopping::on},
            "early_stopping is set but has no effect while num_beams is 1");
    refused({.num_beams = 2, .length_penalty = std::numeric_limits<float>::infinity()},
            "length_penalty is inf, expected a finite number");
    refused({.num_beams = 2, .early_stopping = static_cast<EarlyStopping>(3)},
            "early_stopping is 3, expected off, on or never");
    refused({.max_new_tokens = 0, .num_beams = 2},
            "num_beams is 2 but has no effect while max_new_tokens is 0");
    refused(
        {.guidance_scale = 2.0f, .num_beams = 2},
        "guidance_scale and num_beams are both set, expected one of them: a beam has one sequence, guidance "
        "needs two");
    refused({.do_sample = true, .mirostat = gpt2::sampling::Mirostat{}, .num_beams = 2},
            "mirostat and num_beams are both set, expected one of them: it follows the surprise of one text");
    refused({.num_beam_groups = 2}, "num_beam_groups is set but has no effect while num_beams is 1");
    refused({.diversity_penalty = 1.0f}, "diversity_penalty is set but has no effect while num_beams is 1");
    refused({.num_beams = 4, .num_beam_groups = 0}, "num_beam_groups is 0, expected 1 or more");
    refused({.num_beams = 4, .num_beam_groups = 3},
            "num_beam_groups is 3, expected a divisor of num_beams, 4");
    refused({.num_beams = 4, .num_beam_groups = 8},
            "num_beam_groups is 8, expected a divisor of num_beams, 4");
    refused({.num_beams = 4, .num_beam_groups = 2},
            "num_beam_groups is 2 but diversity_penalty is not set: all groups would be the same");
    refused({.num_beams = 4, .diversity_penalty = 1.0f},
            "diversity_penalty is set but has no effect while num_beam_groups is 1");
    refused({.num_beams = 4, .num_beam_groups = 2, .diversity_penalty = 0.0f},
            "diversity_penalty is 0, expected a finite number above 0");
    refused({.do_sample = true, .num_beams = 4, .num_beam_groups = 2, .diversity_penalty = 1.0f},
            "num_beam_groups and do_sample are both set, expected one of them: each makes the texts differ");
    CHECK_THROWS_WITH_AS((void)Session(model()).generate(prompt(), {.num_beams = 2}),
                         "num_beams is 2, expected 1: a session has one text; Gpt2Model::generate() and "
                         "generate_batch() search with beams",
                         OptionError);
    CHECK_THROWS_WITH_AS((void)model().generate("a", {.num_return_sequences = 2, .num_beams = 2}),
                         "num_return_sequences is 2, expected 1: generate() returns one text, "
                         "Gpt2Model::generate_batch() returns several",
                         OptionError);
    CHECK_THROWS_AS((void)search({.max_new_tokens = 100, .num_beams = 2}), gpt2::ContextError);
}
