// SPDX-License-Identifier: MIT
#include "gpt2/generation.hpp"

#include "../tools/byte_vocabulary.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

using gpt2::FinishReason;
using gpt2::Generation;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::TokenId;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr TokenId eos = 256;

/// Token b is byte b for b < 256; then end of text.
const gpt2::Tokenizer tokenizer =
    gpt2::Tokenizer::from_memory(gpt2::tools::byte_vocabulary_json({"<|endoftext|>"}), "#version: 0.2\n");

gpt2::Config model() {
    gpt2::Config config;
    config.vocab_size = 257;
    config.n_positions = 64;
    config.eos_token_id = eos;
    return config;
}

/// The text that always the same logits give.
GenerationResult text_of(const std::vector<float>& logits, const GenerationConfig& config,
                         const std::vector<TokenId>& context = {'x', 'y'}) {
    Generation generation(model(), tokenizer, gpt2::detail::exp_shifted_portable, config, {}, context,
                          context.size());
    while (generation.step(logits)) {
    }
    return std::move(generation).finish();
}

/// 'a' is most probable, then the end of the text, then 'b', 'c' and the rest.
std::vector<float> falling_logits() {
    std::vector<float> logits(257, 0.0f);
    logits['a'] = 4.0f;
    logits[eos] = 3.0f;
    logits['b'] = 2.0f;
    logits['c'] = 1.0f;
    return logits;
}

void refused(const GenerationConfig& config, const std::string& message) {
    CHECK_THROWS_WITH_AS(gpt2::validate(config, model()), message.c_str(), gpt2::OptionError);
}

} // namespace

TEST_CASE("what the processors do to a text") {
    const std::vector<float> logits = falling_logits();
    CHECK(text_of(logits, {.max_new_tokens = 4}).text == "aaaa");
    CHECK(text_of(logits, {.suppress_tokens = {'a'}}).finish_reason == FinishReason::eos);
    const auto longer = text_of(logits, {.suppress_tokens = {'a'}, .min_new_tokens = 3});
    CHECK(longer.text == "bbb");
    CHECK(longer.finish_reason == FinishReason::eos);
    CHECK(text_of(logits, {.max_new_tokens = 3, .begin_suppress_tokens = {'a', eos}}).text == "baa");
    const auto forced = text_of(logits, {.max_new_tokens = 4, .forced_eos_token_id = eos});
    CHECK(forced.text == "aaa");
    CHECK(forced.tokens.size() == 4);
    CHECK(forced.finish_reason == FinishReason::eos);
    CHECK(text_of(logits, {.max_new_tokens = 3, .forced_eos_token_id = '!'}).finish_reason ==
          FinishReason::length);
    CHECK(text_of(logits, {.max_new_tokens = 3, .forced_bos_token_id = '*'}, {eos}).text == "*aa");
    CHECK(text_of(logits,
                  {.max_new_tokens = 3, .begin_suppress_tokens = {'a', eos}, .forced_bos_token_id = '*'},
                  {eos})
              .text == "*ba");
    CHECK(text_of(logits, {.max_new_tokens = 5, .ignore_eos = true, .no_repeat_ngram_size = 2}).text ==
          "aa<|endoftext|>ab");
    CHECK(text_of(logits, {.max_new_tokens = 4, .ignore_eos = true, .bad_words_ids = {{'a', 'a'}}}).text ==
          "a<|endoftext|>a<|endoftext|>");
    CHECK(text_of(logits, {.max_new_tokens = 3, .logit_bias = {{'c', 3.5f}}}).text == "ccc");
    CHECK(text_of(logits, {.max_new_tokens = 3, .sequence_bias = {{{'a', 'c'}, 3.5f}}}).text == "aca");
    const auto ended = text_of(logits, {.exponential_decay_length_penalty = {{.start = 2, .factor = 1.2f}}});
    CHECK(ended.text == "aaaa"); // 3 * 1.2^2 > 4
    CHECK(ended.finish_reason == FinishReason::eos);
    // The prompt counts.
    CHECK(text_of(logits, {.max_new_tokens = 2, .presence_penalty = 2.5f, .min_new_tokens = 2}, {'a'}).text ==
          "ba");
    CHECK(text_of(logits, {.max_new_tokens = 3, .min_new_tokens = 3, .dry = {{.multiplier = 3.0f}}},
                  {'b', 'a', 'a', 'b', 'a'})
              .text == "bba");
}

TEST_CASE("a forced first token is for a prompt of one") {
    CHECK_THROWS_WITH_AS(
        (void)text_of(falling_logits(), {.forced_bos_token_id = '*'}, {'x', 'y'}),
        "forced_bos_token_id is set but has no effect after 2 tokens, expected 1, as an empty prompt has",
        gpt2::OptionError);
}

TEST_CASE("the user's own processor sees the whole text") {
    std::vector<std::size_t> lengths;
    GenerationConfig config{.max_new_tokens = 3};
    config.logits_processors = {[&](std::span<const TokenId> tokens, std::span<float> scores) {
        lengths.push_back(tokens.size());
        scores[static_cast<std::size_t>(tokens.back())] = -infinity;
    }};
    config.ignore_eos = true;
    CHECK(text_of(falling_logits(), config).text == "a<|endoftext|>a");
    CHECK(lengths == std::vector<std::size_t>{2, 3, 4});
}

TEST_CASE("xtc and mirostat: the seed gives the text again") {
    for (GenerationConfig config :
         {GenerationConfig{.max_new_tokens = 60, .do_sample = true, .xtc = {{0.5f, 0.05f}}},
          GenerationConfig{.max_new_tokens = 60, .do_sample = true, .mirostat = {{2.0f, 0.3f}}}}) {
        config.ignore_eos = true;
        config.seed = 42;
        const auto text = text_of(falling_logits(), config);
        CHECK(text_of(falling_logits(), config).tokens == text.tokens);
        config.seed = 43;
        CHECK(text_of(falling_logits(), config).tokens != text.tokens);
    }
    // xtc's own chance: with 0 the text is the one without it.
    const GenerationConfig plain{.max_new_tokens = 60, .do_sample = true, .seed = 1, .ignore_eos = true};
    GenerationConfig never = plain;
    never.xtc = {{0.0f, 0.05f}};
    GenerationConfig always = plain;
    always.xtc = {{1.0f, 0.05f}};
    CHECK(text_of(falling_logits(), never).tokens == text_of(falling_logits(), plain).tokens);
    CHECK(text_of(falling_logits(), always).tokens != text_of(falling_logits(), plain).tokens);
}

TEST_CASE("numbers out of range are refused") {
    refused({.do_sample = true, .typical_p = 0.0f},
            "typical_p is 0, expected a number above 0 and at most 1");
    refused({.do_sample = true, .typical_p = 1.5f},
            "typical_p is 1.5, expected a number above 0 and at most 1");
    refused({.do_sample = true, .epsilon_cutoff = 1.0f},
            "epsilon_cutoff is 1, expected a number from 0 to below 1");
    refused({.do_sample = true, .eta_cutoff = not_a_number},
            "eta_cutoff is nan, expected a number from 0 to below 1");
    refused({.do_sample = true, .top_n_sigma = 0.0f}, "top_n_sigma is 0, expected a finite number above 0");
    refused({.do_sample = true, .top_n_sigma = infinity},
            "top_n_sigma is inf, expected a finite number above 0");
    refused({.guidance_scale = not_a_number}, "guidance_scale is nan, expected a finite number");
    refused({.presence_penalty = infinity}, "presence_penalty is inf, expected a finite number");
    refused({.frequency_penalty = not_a_number}, "frequency_penalty is nan, expected a finite number");
    refused({.repetition_penalty = 1.1f, .penalty_last_n = 0}, "penalty_last_n is 0, expected 1 or more");
    refused({.no_repeat_ngram_size = -1}, "no_repeat_ngram_size is -1, expected 0 or more");
    refused({.min_new_tokens = -1}, "min_new_tokens is -1, expected 0 or more");
    refused({.dry = {{.multiplier = -1.0f}}}, "dry.multiplier is -1, expected a finite number, 0 or more");
    refused({.dry = {{.base = 0.5f}}}, "dry.base is 0.5, expected a finite number, 1 or more");
    refused({.dry = {{.allowed_length = 0}}}, "dry.allowed_length is 0, expected 1 or more");
    refused({.dry = {{.penalty_last_n = 0}}}, "dry.penalty_last_n is 0, expected 1 or more");
    refused({.dry = {{.sequence_breakers = {"\n", ""}}}},
            "dry.sequence_breakers[1] is empty, expected at least one byte");
    refused({.do_sample = true, .xtc = {{.probability = 1.1f}}},
            "xtc.probability is 1.1, expected a number from 0 to 1");
    refused({.do_sample = true, .xtc = {{.threshold = 0.6f}}},
            "xtc.threshold is 0.6, expected a number from 0 to 0.5");
    refused({.do_sample = true, .mirostat = {{.tau = 0.0f}}},
            "mirostat.tau is 0, expected a finite number above 0");
    refused({.do_sample = true, .mirostat = {{.eta = -0.1f}}},
            "mirostat.eta is -0.1, expected a finite number, 0 or more");
    refused({.exponential_decay_length_penalty = {{.start = -1}}},
            "exponential_decay_length_penalty.start is -1, expected 0 or more");
    refused({.exponential_decay_length_penalty = {{.start = 1, .factor = 0.0f}}},
            "exponential_decay_length_penalty.factor is 0, expected a finite number above 0");
    refused({.logit_bias = {{'a', not_a_number}}},
            "logit_bias of token 97 is nan, expected a finite number or -infinity");
    refused({.logit_bias = {{'a', infinity}}},
            "logit_bias of token 97 is inf, expected a finite number or -infinity");
    refused({.sequence_bias = {{{}, 1.0f}}},
            "sequence_bias: found 0 tokens with the bias 1, expected at least one with a finite number or "
            "-infinity");
    refused({.sequence_bias = {{{1, 2}, not_a_number}}},
            "sequence_bias: found 2 tokens with the bias nan, expected at least one with a finite number or "
            "-infinity");
    refused({.logits_processors = {{}}}, "logits_processors[0] is empty, expected something to call");
}

TEST_CASE("tokens outside the vocabulary are refused") {
    refused({.bad_words_ids = {{1}, {1, 257}}},
            "bad_words_ids[1]: found token 257, expected an id below 257");
    refused({.bad_words_ids = {{}}}, "bad_words_ids[0] is empty, expected at least one token");
    refused({.guidance_scale = 2.0f, .negative_prompt_ids = {3, 257}},
            "negative_prompt_ids: found token 257, expected an id below 257");
    refused({.suppress_tokens = {-1}}, "suppress_tokens: found token -1, expected an id below 257");
    refused({.begin_suppress_tokens = {300}},
            "begin_suppress_tokens: found token 300, expected an id below 257");
    refused({.forced_bos_token_id = 257}, "forced_bos_token_id: found token 257, expected an id below 257");
    refused({.forced_eos_token_id = -2}, "forced_eos_token_id: found token -2, expected an id below 257");
    refused({.sequence_bias = {{{1, 999}, 1.0f}}},
            "sequence_bias: found token 999, expected an id below 257");
    refused({.logit_bias = {{257, 1.0f}}}, "logit_bias: found token 257, expected an id below 257");
}

TEST_CASE("options that contradict each other are refused, both named") {
    const gpt2::sampling::Mirostat mirostat;
    const auto both = [](const std::string& name) {
        return "mirostat and " + name +
               " are both set, expected one of them: each says how many tokens to draw from";
    };
    refused({.do_sample = true, .top_k = 40, .mirostat = mirostat}, both("top_k"));
    refused({.do_sample = true, .top_p = 0.9f, .mirostat = mirostat}, both("top_p"));
    refused({.do_sample = true, .min_p = 0.1f, .mirostat = mirostat}, both("min_p"));
    refused({.do_sample = true, .typical_p = 0.9f, .mirostat = mirostat}, both("typical_p"));
    refused({.do_sample = true, .epsilon_cutoff = 0.1f, .mirostat = mirostat}, both("epsilon_cutoff"));
    refused({.do_sample = true, .eta_cutoff = 0.1f, .mirostat = mirostat}, both("eta_cutoff"));
    refused({.do_sample = true, .top_n_sigma = 1.0f, .mirostat = mirostat}, both("top_n_sigma"));
    refused({.do_sample = true, .xtc = gpt2::sampling::Xtc{}, .mirostat = mirostat}, both("xtc"));
    for (const auto& [name, config] : {std::pair{"typical_p", GenerationConfig{.typical_p = 0.5f}},
                                       std::pair{"epsilon_cutoff", GenerationConfig{.epsilon_cutoff = 0.1f}},
                                       std::pair{"eta_cutoff", GenerationConfig{.eta_cutoff = 0.1f}},
                                       std::pair{"top_n_sigma", GenerationConfig{.top_n_sigma = 1.0f}},
                                       std::pair{"xtc", GenerationConfig{.xtc = gpt2::sampling::Xtc{}}},
                                       std::pair{"mirostat", GenerationConfig{.mirostat = mirostat}}}) {
        refused(config, std::string(name) + " is set but has no effect while do_sample is false");
    }
    refused({.negative_prompt_ids = {1}},
            "negative_prompt_ids is set but has no effect without guidance_scale");
    refused({.max_new_tokens = 3, .min_new_tokens = 4},
            "min_new_tokens is 4, expected at most max_new_tokens, 3");
    refused({.ignore_eos = true, .min_new_tokens = 4},
            "min_new_tokens is set but has no effect while ignore_eos is true");
    refused({.ignore_eos = true, .exponential_decay_length_penalty = {{1, 1.1f}}},
            "exponential_decay_length_penalty is set but has no effect while ignore_eos is true");
    refused({.ignore_eos = true, .forced_eos_token_id = eos},
            "forced_eos_token_id is set but has no effect while ignore_eos is true");
    refused({.suppress_tokens = {7}, .forced_eos_token_id = 7},
            "forced_eos_token_id is 7, which suppress_tokens forbids");
    refused({.suppress_tokens = {7}, .forced_bos_token_id = 7},
            "forced_bos_token_id is 7, which suppress_tokens forbids");
    refused({.bad_words_ids = {{1}, {eos}}},
            "bad_words_ids[1] is the token that ends the text; set ignore_eos, min_new_tokens or "
            "suppress_tokens instead");
    CHECK_NOTHROW(gpt2::validate({.ignore_eos = true, .bad_words_ids = {{eos}}}, model()));
    gpt2::Config endless = model();
    endless.eos_token_id.reset();
    CHECK_THROWS_WITH_AS(
        gpt2::validate({.min_new_tokens = 2}, endless),
        "min_new_tokens is set but the model has no token that ends a text, and eos_token_id names none",
        gpt2::OptionError);
    CHECK_NOTHROW(gpt2::validate({.eos_token_id = 3, .min_new_tokens = 2}, endless));
}

TEST_CASE("neutral values switch off, and are accepted everywhere") {
    const std::vector<float> logits = falling_logits();
    GenerationConfig config{.max_new_tokens = 30, .do_sample = true, .seed = 7, .ignore_eos = true};
    const auto plain = text_of(logits, config);
    config.temperature = 1.0f;
    config.top_k = 0;
    config.top_p = 1.0f;
    config.min_p = 0.0f;
    config.repetition_penalty = 1.0f;
    config.typical_p = 1.0f;
    config.epsilon_cutoff = 0.0f;
    config.eta_cutoff = 0.0f;
    config.guidance_scale = 1.0f;
    config.presence_penalty = 0.0f;
    config.frequency_penalty = 0.0f;
    config.no_repeat_ngram_size = 0;
    config.min_new_tokens = 0;
    config.dry = gpt2::sampling::Dry{.multiplier = 0.0f};
    config.xtc = gpt2::sampling::Xtc{.probability = 0.0f};
    CHECK(text_of(logits, config).tokens == plain.tokens);
    config.mirostat = gpt2::sampling::Mirostat{.tau = 100.0f}; // a surprise that no token has
    CHECK(text_of(logits, config).tokens == plain.tokens);
}
