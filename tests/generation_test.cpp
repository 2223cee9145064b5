// SPDX-License-Identifier: MIT
#include "gpt2/generation.hpp"

#include "../tools/byte_vocabulary.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::Generation;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::TokenId;

namespace {

constexpr TokenId eos = 256;
constexpr TokenId token_ab = 257;
constexpr TokenId token_abc = 258;

/// Token b is byte b for b < 256; then end of text, "ab" and "abc".
gpt2::Tokenizer byte_tokenizer() {
    return gpt2::Tokenizer::from_memory(gpt2::tools::byte_vocabulary_json({"<|endoftext|>", "ab", "abc"}),
                                        "#version: 0.2\na b\nab c\n");
}

const gpt2::Tokenizer tokenizer = byte_tokenizer();

gpt2::Config model() {
    gpt2::Config config;
    config.vocab_size = 259;
    config.n_positions = 64;
    config.eos_token_id = eos;
    return config;
}

std::vector<float> logits_for(TokenId token) {
    std::vector<float> logits(259, 0.0f);
    logits[static_cast<std::size_t>(token)] = 10.0f;
    return logits;
}

struct Run {
    GenerationResult result;
    std::vector<GeneratedToken> tokens; ///< the views are void
    std::vector<std::string> texts;
    std::vector<std::string> bytes;
    std::string streamed;
};

/// Greedy over a script of tokens; @p stop_at: the callback stops at this token.
Run run(const std::vector<TokenId>& script, GenerationConfig config, std::size_t stop_at = ~std::size_t{0}) {
    Run out;
    Generation generation(
        model(), tokenizer, gpt2::detail::exp_shifted_portable, std::move(config),
        [&](const GeneratedToken& token) {
            out.tokens.push_back(token);
            out.texts.emplace_back(token.text);
            out.bytes.emplace_back(token.bytes);
            out.streamed += token.text;
            return token.index == stop_at ? Flow::stop : Flow::proceed;
        },
        std::vector<TokenId>{1, 2, 3}, 2);
    std::size_t i = 0;
    while (!generation.done()) {
        REQUIRE(i < script.size());
        const std::optional<TokenId> token = generation.step(logits_for(script[i]));
        REQUIRE(token.has_value() == !generation.done());
        if (token) {
            CHECK(*token == script[i]);
        }
        ++i;
    }
    CHECK_FALSE(generation.step(logits_for(0)).has_value());
    out.result = std::move(generation).finish();
    CHECK(out.result.text == out.streamed);
    CHECK(out.result.tokens.size() == out.tokens.size());
    return out;
}

std::vector<TokenId> bytes_of(std::string_view text) {
    std::vector<TokenId> out;
    for (const char c : text) {
        out.push_back(static_cast<unsigned char>(c));
    }
    return out;
}

void refused(const GenerationConfig& config, const std::string& message) {
    CHECK_THROWS_WITH_AS(gpt2::validate(config, model()), message.c_str(), gpt2::OptionError);
    CHECK_THROWS_AS(Generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, config, {}, {}, 0),
                    gpt2::OptionError);
}

} // namespace

TEST_CASE("max_new_tokens ends the text") {
    const Run r = run(bytes_of("hello world"), {.max_new_tokens = 5});
    CHECK(r.result.text == "hello");
    CHECK(r.result.bytes == "hello");
    CHECK(r.result.tokens == bytes_of("hello"));
    CHECK(r.result.finish_reason == FinishReason::length);
    CHECK(r.result.prompt_tokens == 2);
    CHECK(r.result.logprobs.empty());
    CHECK(r.result.stop_string.empty());
    CHECK_FALSE(r.result.seed.has_value());
    CHECK(r.texts == std::vector<std::string>{"h", "e", "l", "l", "o"});
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(r.tokens[i].index == i);
        CHECK(r.tokens[i].id == r.result.tokens[i]);
        CHECK_FALSE(r.tokens[i].logprob.has_value());
    }
    CHECK(r.result.ttft.count() >= 0.0);
    CHECK(r.result.tpot.count() >= 0.0);
    CHECK(r.result.total >= r.result.ttft);
}

TEST_CASE("no new tokens: nothing happens") {
    const Run r = run({}, {.max_new_tokens = 0});
    CHECK(r.tokens.empty());
    CHECK(r.result.text.empty());
    CHECK(r.result.finish_reason == FinishReason::length);
    CHECK(r.result.ttft.count() == 0.0);
}

TEST_CASE("end of text: in tokens, not in text; it brings what was held back") {
    const Run r = run({'a', 0xe2, 0x82, eos}, {});
    CHECK(r.result.text == "a\xef\xbf\xbd");
    CHECK(r.result.bytes == "a\xe2\x82");
    CHECK(r.result.tokens == std::vector<TokenId>{'a', 0xe2, 0x82, eos});
    CHECK(r.result.finish_reason == FinishReason::eos);
    CHECK(r.texts == std::vector<std::string>{"a", "", "", "\xef\xbf\xbd"});
    CHECK(r.bytes == std::vector<std::string>{"a", "\xe2", "\x82", ""});

    CHECK(run({eos}, {}).result.text.empty());
    CHECK(run({'s', 't', 'o', eos}, {.stop_strings = {"stop"}}).result.text == "sto");
    // The last token is EOS and the limit at once: it ended the text.
    CHECK(run({'s', eos}, {.max_new_tokens = 2}).result.finish_reason == FinishReason::eos);
}

TEST_CASE("another end of text, or none") {
    CHECK(run({'a', eos, 'b'}, {.eos_token_id = 'b'}).result.text == "a<|endoftext|>");
    const Run r = run({'a', eos, 'b'}, {.max_new_tokens = 3, .ignore_eos = true});
    CHECK(r.result.text == "a<|endoftext|>b");
    CHECK(r.result.bytes == "a<|endoftext|>b");
    CHECK(r.result.finish_reason == FinishReason::length);
}

TEST_CASE("the last token brings what was held back") {
    const Run r = run({'a', 'b', 0xc3}, {.max_new_tokens = 3, .stop_strings = {"bcd"}});
    CHECK(r.texts == std::vector<std::string>{"a", "", "b\xef\xbf\xbd"});
    CHECK(run({'a', 'b', 'c'}, {.max_new_tokens = 3, .stop_strings = {"bcd"}}).texts.back() == "bc");
}

TEST_CASE("a stop string over several tokens") {
    const Run r = run({'x', token_ab, 'c', token_abc, token_ab, 'x'}, {.stop_strings = {"cabca", "zzz"}});
    CHECK(r.result.text == "xab");
    CHECK(r.result.bytes == "xabcabcab"); // with the stop string, and the rest of its last token
    CHECK(r.result.tokens == std::vector<TokenId>{'x', token_ab, 'c', token_abc, token_ab});
    CHECK(r.result.finish_reason == FinishReason::stop_string);
    CHECK(r.result.stop_string == "cabca");
    CHECK(r.texts == std::vector<std::string>{"x", "ab", "", "", ""});
    // Found with the last token that was allowed: still the reason.
    CHECK(run({'a', 'b'}, {.max_new_tokens = 2, .stop_strings = {"b"}}).result.finish_reason ==
          FinishReason::stop_string);
}

TEST_CASE("the callback stops: text is what was streamed, and it is not called again") {
    for (std::size_t at = 0; at < 4; ++at) {
        const Run r = run({'a', 0xe2, 0x82, 0xac, 'b', 'c'}, {.max_new_tokens = 6}, at);
        CHECK(r.tokens.size() == at + 1);
        CHECK(r.result.tokens.size() == at + 1);
        CHECK(r.result.finish_reason == FinishReason::callback);
        CHECK(r.result.text == (at == 3 ? "a\xe2\x82\xac" : "a"));
        CHECK(r.result.bytes.size() == at + 1);
    }
    // The text was over anyway.
    CHECK(run({'a', 'b'}, {.max_new_tokens = 2}, 1).result.finish_reason == FinishReason::length);
}

TEST_CASE("no callback, and one that throws") {
    Generation quiet(model(), tokenizer, gpt2::detail::exp_shifted_portable, {.max_new_tokens = 2}, {}, {},
                     0);
    CHECK(quiet.step(logits_for('a')) == 'a');
    CHECK(quiet.tokens().size() == 1);
    CHECK_FALSE(quiet.step(logits_for('b')).has_value());
    CHECK(std::move(quiet).finish().text == "ab");

    Generation throwing(
        model(), tokenizer, gpt2::detail::exp_shifted_portable, {},
        [](const GeneratedToken&) -> Flow { throw std::runtime_error("mine"); }, {}, 0);
    CHECK_THROWS_WITH((void)throwing.step(logits_for('a')), "mine");
}

TEST_CASE("a caller who ends early gets what there is") {
    Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, {}, {}, {}, 0);
    CHECK(generation.step(logits_for('a')) == 'a');
    const GenerationResult result = std::move(generation).finish();
    CHECK(result.text == "a");
    CHECK(result.finish_reason == FinishReason::callback);
}

TEST_CASE("log-probabilities are the model's own, before any processor") {
    const Run r = run({'a', 'b'}, {.max_new_tokens = 2,
                                   .do_sample = true,
                                   .temperature = 0.1f,
                                   .top_k = 1,
                                   .repetition_penalty = 1.1f,
                                   .logprobs = true});
    const double expected = 10.0 - std::log(std::exp(10.0) + 258.0);
    REQUIRE(r.result.logprobs.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
        CHECK(r.result.logprobs[i] == doctest::Approx(expected).epsilon(1e-6));
        CHECK(r.tokens[i].logprob == r.result.logprobs[i]);
    }
}

TEST_CASE("the seed of the result gives the text again; sample and draw matter") {
    const std::vector<float> flat(259, 1.0f);
    const auto sampled = [&](GenerationConfig config) {
        config.max_new_tokens = 12;
        config.ignore_eos = true;
        Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, config, {}, {}, 0);
        while (generation.step(flat)) {
        }
        return std::move(generation).finish();
    };
    const GenerationResult first = sampled({.do_sample = true});
    REQUIRE(first.seed.has_value());
    const GenerationResult again = sampled({.do_sample = true, .seed = first.seed});
    CHECK(again.tokens == first.tokens);
    CHECK(again.seed == first.seed);
    CHECK(sampled({.do_sample = true}).tokens != first.tokens);
    CHECK(sampled({.do_sample = true, .seed = 42}).tokens !=
          sampled({.do_sample = true, .seed = 42, .sample = 1}).tokens);
    // Token n is the one of draw n: all equal logits make it floor(u V).
    const GenerationResult result = sampled({.do_sample = true, .seed = 42, .sample = 3});
    for (std::size_t n = 0; n < result.tokens.size(); ++n) {
        CHECK(result.tokens[n] == static_cast<TokenId>(gpt2::uniform(42, 3, n) * 259.0));
    }
}

TEST_CASE("the repetition penalty holds for the context and for what was generated") {
    std::vector<float> logits(259, 0.0f);
    logits['a'] = 3.0f;
    logits['b'] = 2.5f;
    logits['c'] = 2.0f;
    Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable,
                          {.repetition_penalty = 2.0f}, {}, std::vector<TokenId>{'a'}, 1);
    CHECK(generation.step(logits) == 'b');
    CHECK(generation.step(logits) == 'c');
    CHECK(generation.step(logits) == 'a');
    CHECK_THROWS_AS(Generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, {}, {},
                               std::vector<TokenId>{259}, 1),
                    gpt2::OptionError);
}

TEST_CASE("bad logits are errors") {
    Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, {}, {}, {}, 0);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        std::vector<float> logits(259, 0.0f);
        logits[17] = bad;
        CHECK_THROWS_WITH_AS((void)generation.step(logits), doctest::Contains("token 17"),
                             gpt2::NumericError);
    }
    CHECK_THROWS_AS((void)generation.step(std::vector<float>(258)), gpt2::OptionError);
}

TEST_CASE("tokens that the tokenizer lacks are never chosen") {
    gpt2::Config padded = model();
    padded.vocab_size = 320;
    std::vector<float> logits(320, 0.0f);
    logits[300] = 50.0f;
    logits['a'] = 1.0f;
    Generation generation(padded, tokenizer, gpt2::detail::exp_shifted_portable, {}, {}, {}, 0);
    CHECK(generation.step(logits) == 'a');
}

TEST_CASE("options that mean nothing are refused, both named where two contradict") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    refused({.max_new_tokens = -1}, "max_new_tokens is -1, expected 0 or more");
    refused({.do_sample = true, .temperature = -0.5f},
            "temperature is -0.5, expected a finite number, 0 or more");
    refused({.do_sample = true, .temperature = nan},
            "temperature is nan, expected a finite number, 0 or more");
    refused({.do_sample = true, .temperature = infinity},
            "temperature is inf, expected a finite number, 0 or more");
    refused({.do_sample = true, .top_k = -40}, "top_k is -40, expected 0 (all tokens) or more");
    refused({.do_sample = true, .top_p = 1.5f}, "top_p is 1.5, expected a number from 0 to 1");
    refused({.do_sample = true, .top_p = -0.1f}, "top_p is -0.1, expected a number from 0 to 1");
    refused({.do_sample = true, .top_p = nan}, "top_p is nan, expected a number from 0 to 1");
    refused({.do_sample = true, .min_p = 1.01f}, "min_p is 1.01, expected a number from 0 to 1");
    refused({.do_sample = true, .min_p = nan}, "min_p is nan, expected a number from 0 to 1");
    refused({.repetition_penalty = 0.0f}, "repetition_penalty is 0, expected a finite number above 0");
    refused({.repetition_penalty = nan}, "repetition_penalty is nan, expected a finite number above 0");
    refused({.repetition_penalty = infinity}, "repetition_penalty is inf, expected a finite number above 0");
    refused({.stop_strings = {"x", ""}}, "stop_strings[1] is empty, expected at least one byte");
    refused({.eos_token_id = 259}, "eos_token_id is 259, expected an id below 259");
    refused({.eos_token_id = -1}, "eos_token_id is -1, expected an id below 259");
    refused({.eos_token_id = 1, .ignore_eos = true},
            "eos_token_id is set but has no effect while ignore_eos is true");
    refused({.overflow = static_cast<gpt2::Overflow>(7)},
            "overflow is 7, expected error, slide or truncate_left");
    refused({.temperature = 0.7f}, "temperature is set but has no effect while do_sample is false");
    refused({.top_k = 40}, "top_k is set but has no effect while do_sample is false");
    refused({.top_p = 0.9f}, "top_p is set but has no effect while do_sample is false");
    refused({.min_p = 0.1f}, "min_p is set but has no effect while do_sample is false");
    refused({.seed = 42}, "seed is set but has no effect while do_sample is false");
    refused({.sample = 1}, "sample is set but has no effect while do_sample is false");
    refused({.max_time = -0.5}, "max_time is -0.5, expected a number of seconds, 0 or more");
    refused({.max_time = std::numeric_limits<double>::quiet_NaN()},
            "max_time is nan, expected a number of seconds, 0 or more");
}

TEST_CASE("options at their ends are accepted") {
    for (const GenerationConfig& config :
         {GenerationConfig{}, GenerationConfig{.max_new_tokens = 0}, GenerationConfig{.temperature = 0.0f},
          GenerationConfig{.do_sample = true, .temperature = 0.0f, .top_k = 40, .seed = 1},
          GenerationConfig{.do_sample = true, .top_k = 0, .seed = 1},
          GenerationConfig{.do_sample = true, .top_k = std::numeric_limits<std::int64_t>::max(), .seed = 1},
          GenerationConfig{.do_sample = true, .top_p = 0.0f, .min_p = 0.0f},
          GenerationConfig{.do_sample = true, .top_p = 1.0f, .min_p = 1.0f, .seed = 1},
          GenerationConfig{.max_new_tokens = std::numeric_limits<std::int64_t>::max(),
          .repetition_penalty = 1e-30f,
          .overflow = gpt2::Overflow::slide}}) {
        CHECK_NOTHROW(gpt2::validate(config, model()));
        Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, config, {}, {}, 0);
        if (!generation.done()) {
            (void)generation.step(logits_for('a'));
            CHECK(generation.tokens()[0] == 'a');
        }
    }
}

TEST_CASE("room in the context, and what sliding keeps") {
    CHECK_NOTHROW(gpt2::require_room(44, {}, model()));
    CHECK_THROWS_WITH_AS(gpt2::require_room(45, {}, model()),
                         "the prompt (45 tokens) and max_new_tokens (20) exceed the context of 64 tokens "
                         "(n_positions); shorten one of them or set overflow to slide or truncate_left",
                         gpt2::ContextError);
    CHECK_THROWS_AS(gpt2::require_room(65, {.max_new_tokens = 0}, model()), gpt2::ContextError);
    CHECK_NOTHROW(gpt2::require_room(64, {.max_new_tokens = 0}, model()));
    CHECK_THROWS_AS(
        gpt2::require_room(1, {.max_new_tokens = std::numeric_limits<std::int64_t>::max()}, model()),
        gpt2::ContextError);
    CHECK_NOTHROW(gpt2::require_room(1000, {.overflow = gpt2::Overflow::slide}, model()));

    const std::vector<TokenId> tokens{1, 2, 3, 4, 5, 6, 7};
    CHECK(gpt2::slide_window(tokens, 6).size() == 3);
    CHECK(gpt2::slide_window(tokens, 6).front() == 5);
    CHECK(gpt2::slide_window(tokens, 1).size() == 1);
    CHECK(gpt2::slide_window(tokens, 14).size() == 7);
    CHECK(gpt2::slide_window(tokens, 1024).size() == 7);

    const GenerationConfig truncate{.max_new_tokens = 63, .overflow = gpt2::Overflow::truncate_left};
    CHECK_NOTHROW(gpt2::require_room(1000, truncate, model()));
    CHECK_THROWS_WITH_AS(
        gpt2::require_room(1, {.max_new_tokens = 64, .overflow = gpt2::Overflow::truncate_left}, model()),
        "max_new_tokens is 64, expected less than the context of 64 tokens (n_positions): overflow is "
        "truncate_left, and no token of the prompt would be left",
        gpt2::ContextError);
    CHECK(gpt2::context_of(tokens, truncate, 64).size() == 1);
    CHECK(gpt2::context_of(tokens, truncate, 64).front() == 7);
    CHECK(gpt2::context_of(tokens, truncate, 69).front() == 2);
    CHECK(gpt2::context_of(tokens, truncate, 70).size() == 7);
    CHECK(gpt2::context_of(tokens, {.max_new_tokens = 63}, 64).size() == 7);
}

TEST_CASE("finish reasons have names") {
    CHECK(gpt2::to_string(FinishReason::length) == "length");
    CHECK(gpt2::to_string(FinishReason::eos) == "eos");
    CHECK(gpt2::to_string(FinishReason::stop_string) == "stop_string");
    CHECK(gpt2::to_string(FinishReason::callback) == "callback");
    CHECK(gpt2::to_string(FinishReason::max_time) == "max_time");
    CHECK(gpt2::to_string(FinishReason::cancelled) == "cancelled");
}
