// SPDX-License-Identifier: MIT

// Several texts in one call: each is the one that it would be alone.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using gpt2::ContextError;
using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::OptionError;
using gpt2::Session;
using gpt2::SessionOptions;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::loaded_novella;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()

const Gpt2Model& model() {
    return test::loaded_odd();
}

/// Prompts of different lengths, one of them longer than a block of keys and one of a single token.
std::vector<std::vector<TokenId>> prompts() {
    std::vector<std::vector<TokenId>> out;
    for (const std::size_t n : {7u, 1u, 70u, 64u}) {
        out.push_back(test::some_tokens(n, 256, static_cast<std::uint32_t>(n)));
    }
    return out;
}

/// What must not depend on the company.
void check_same(const GenerationResult& found, const GenerationResult& expected) {
    CHECK(found.tokens == expected.tokens);
    CHECK(found.text == expected.text);
    CHECK(found.bytes == expected.bytes);
    CHECK(found.logprobs == expected.logprobs);
    CHECK(found.finish_reason == expected.finish_reason);
    CHECK(found.stop_string == expected.stop_string);
    CHECK(found.seed == expected.seed);
    CHECK(found.prompt_tokens == expected.prompt_tokens);
}

/// All at once, and each alone. @returns what came out
std::vector<GenerationResult> check_batch(const Gpt2Model& of, const std::vector<std::vector<TokenId>>& given,
                                          const GenerationConfig& config,
                                          const SessionOptions& options = {}) {
    std::vector<GenerationResult> found = of.generate_batch(given, config, {}, options);
    const auto n = static_cast<std::size_t>(config.num_return_sequences);
    REQUIRE(found.size() == given.size() * n);
    for (std::size_t i = 0; i < found.size(); ++i) {
        GenerationConfig alone = config;
        alone.num_return_sequences = 1;
        alone.sample += i % n;
        CAPTURE(i);
        check_same(found[i], Session(of, options).generate(given[i / n], alone));
    }
    return found;
}

/// Draws, and ends at different times.
GenerationConfig drawing() {
    return {.max_new_tokens = 40,
            .do_sample = true,
            .temperature = 0.9f,
            .top_k = 50,
            .seed = 42,
            .logprobs = true,
            .logit_bias = {{256, 3.0f}}};
}

} // namespace

TEST_CASE("each text of a batch is the one that it would be alone") {
    GenerationConfig config = drawing();
    SUBCASE("greedy") {
        config = {.max_new_tokens = 30, .logprobs = true, .ignore_eos = true};
        check_batch(model(), prompts(), config);
    }
    SUBCASE("drawn, ended by the model at different times") {
        const auto found = check_batch(model(), prompts(), config);
        std::set<std::size_t> lengths;
        for (const GenerationResult& result : found) {
            lengths.insert(result.tokens.size());
        }
        CHECK(lengths.size() > 1);
    }
    SUBCASE("several samples of each prompt") {
        config.num_return_sequences = 3;
        config.sample = 5;
        const auto found = check_batch(model(), prompts(), config);
        CHECK(found[0].tokens != found[1].tokens);
    }
    SUBCASE("with everything that reads the text") {
        config.num_return_sequences = 2;
        config.repetition_penalty = 1.3f;
        config.no_repeat_ngram_size = 2;
        config.dry = gpt2::sampling::Dry{};
        config.top_k.reset();
        config.mirostat = gpt2::sampling::Mirostat{};
        check_batch(model(), prompts(), config);
    }
    SUBCASE("with guidance, by a negative prompt and by the last token") {
        config.num_return_sequences = 2;
        config.guidance_scale = 1.5f;
        config.max_new_tokens = 15;
        check_batch(model(), prompts(), config);
        config.negative_prompt_ids = test::some_tokens(9, 256, 9);
        check_batch(model(), prompts(), config);
    }
    SUBCASE("in a context that slides, each when it is full") {
        config.max_new_tokens = 200;
        config.ignore_eos = true;
        config.num_return_sequences = 2;
        config.overflow = gpt2::Overflow::slide;
        auto given = prompts();
        given.push_back(test::some_tokens(n_positions + 20, 256, 3)); // does not fit at all
        const auto found = check_batch(model(), given, config);
        CHECK(found.back().tokens.size() == 200);
        config.max_new_tokens = 90;
        config.guidance_scale = 1.2f;
        check_batch(model(), given, config);
    }
    SUBCASE("keys and values in float16, several threads") {
        config.num_return_sequences = 2;
        check_batch(model(), prompts(), config,
                    {.pool = std::make_shared<gpt2::ThreadPool>(3), .kv_dtype = KvDtype::float16});
    }
}

TEST_CASE("texts of the default model, and its stop strings") {
    const std::vector<std::string> texts{"There was once a poor woodcutter who", "", "The", "The"};
    GenerationConfig config{.max_new_tokens = 40,
                            .do_sample = true,
                            .top_k = 40,
                            .seed = 1,
                            .stop_strings = {", ", "\n"},
                            .num_return_sequences = 3};
    const auto found = loaded_novella().generate_batch(texts, config);
    REQUIRE(found.size() == 12);
    config.num_return_sequences = 1;
    for (std::size_t i = 0; i < found.size(); ++i) {
        config.sample = i % 3;
        CAPTURE(i);
        check_same(found[i], loaded_novella().generate(texts[i / 3], config));
    }
    CHECK(found[0].finish_reason == FinishReason::stop_string);
    CHECK(found[6].text == found[9].text); // the same prompt
}

TEST_CASE("a screened model writes the same texts") {
    const auto screened =
        Gpt2Model::load(test::novella(), {.weights = {}, .isa = {}, .pool = nullptr, .screen_head = true});
    const std::vector<std::string> texts{"The king", "A forest"};
    const GenerationConfig config{.max_new_tokens = 20, .do_sample = true, .top_k = 40, .seed = 1};
    const auto found = screened.generate_batch(texts, config);
    for (std::size_t i = 0; i < found.size(); ++i) {
        check_same(found[i], screened.generate(texts[i], config));
        CHECK(found[i].screening.tokens == 0);
    }
}

TEST_CASE("one forward pass for a token of each text, and one for all prompts") {
    const auto profile = std::make_shared<gpt2::Profile>();
    GenerationConfig config{.max_new_tokens = 10, .do_sample = true, .ignore_eos = true};
    config.num_return_sequences = 3;
    (void)model().generate_batch(prompts(), config, {}, {.pool = {}, .kv_dtype = {}, .profile = profile});
    std::size_t passes = 0;
    for (const auto& total : profile->totals()) {
        passes += total.name == std::string_view("forward") ? total.calls : 0;
    }
    CHECK(passes == 10); // the last tokens are not read
}

TEST_CASE("without a seed all texts share a fresh one") {
    GenerationConfig config = drawing();
    config.seed.reset();
    config.num_return_sequences = 2;
    const auto found = model().generate_batch(prompts(), config);
    REQUIRE(found[0].seed.has_value());
    for (const GenerationResult& result : found) {
        CHECK(result.seed == found[0].seed);
    }
    CHECK(model().generate_batch(prompts(), config)[0].seed != found[0].seed);
    config.seed = found[0].seed;
    const auto again = check_batch(model(), prompts(), config);
    check_same(again[5], found[5]);
}

TEST_CASE("the callback knows the text, and ends no other") {
    GenerationConfig config = drawing();
    config.num_return_sequences = 2;
    const auto all = model().generate_batch(prompts(), config);
    REQUIRE(all[3].tokens.size() > 3);
    std::vector<std::string> texts(all.size());
    std::vector<std::size_t> counts(all.size());
    const auto found =
        model().generate_batch(prompts(), config, [&](std::size_t i, const GeneratedToken& token) {
            CHECK(token.index == counts[i]++);
            texts[i] += token.text;
            return i == 3 && token.index == 2 ? Flow::stop : Flow::proceed;
        });
    for (std::size_t i = 0; i < all.size(); ++i) {
        CAPTURE(i);
        CHECK(texts[i] == found[i].text);
        CHECK(counts[i] == found[i].tokens.size());
        if (i != 3) {
            check_same(found[i], all[i]);
        }
    }
    CHECK(found[3].finish_reason == FinishReason::callback);
    CHECK(std::ranges::equal(found[3].tokens, std::span(all[3].tokens).first(3)));
    CHECK_THROWS_AS((void)model().generate_batch(prompts(), config,
                                                 [](std::size_t i, const GeneratedToken&) -> Flow {
                                                     if (i == 2) {
                                                         throw std::runtime_error("enough");
                                                     }
                                                     return Flow::proceed;
                                                 }),
                    std::runtime_error);
}

TEST_CASE("a stop ends all texts that go on, with what they have") {
    GenerationConfig config = drawing();
    config.num_return_sequences = 2;
    config.logit_bias.clear();
    config.ignore_eos = true;
    std::stop_source source;
    config.cancellation = source.get_token();
    const auto whole = check_batch(model(), prompts(), config);

    SUBCASE("before the prompts") {
        source.request_stop();
        for (const GenerationResult& result : model().generate_batch(prompts(), config)) {
            CHECK(result.tokens.empty());
            CHECK(result.finish_reason == FinishReason::cancelled);
        }
    }
    SUBCASE("no time for the prompts") {
        config.max_time = 0.0;
        for (const GenerationResult& result : model().generate_batch(prompts(), config)) {
            CHECK(result.tokens.empty());
            CHECK(result.finish_reason == FinishReason::max_time);
        }
    }
    SUBCASE("in a callback") {
        const auto found =
            model().generate_batch(prompts(), config, [&](std::size_t i, const GeneratedToken& token) {
                if (i == 3 && token.index == 6) {
                    source.request_stop();
                }
                return Flow::proceed;
            });
        std::size_t n_ended = 0;
        for (std::size_t i = 0; i < found.size(); ++i) {
            const std::size_t n = std::min<std::size_t>(whole[i].tokens.size(), 7);
            CHECK(found[i].tokens == std::vector(whole[i].tokens.begin(),
                                                 whole[i].tokens.begin() + static_cast<std::ptrdiff_t>(n)));
            n_ended += found[i].finish_reason == FinishReason::cancelled ? 1 : 0;
        }
        CHECK(n_ended > 1);
    }
}

TEST_CASE("prompts that are too long lose their beginning") {
    GenerationConfig config = drawing();
    config.overflow = gpt2::Overflow::truncate_left;
    auto given = prompts();
    given.push_back(test::some_tokens(200, 256, 9));
    check_batch(model(), given, config);
    config.guidance_scale = 1.5f;
    config.negative_prompt_ids = test::some_tokens(180, 256, 4);
    check_batch(model(), given, config);
}

TEST_CASE("nothing to do") {
    CHECK(model().generate_batch(std::vector<std::string>(), drawing()).empty());
    GenerationConfig config = drawing();
    config.max_new_tokens = 0;
    config.num_return_sequences = 2;
    for (const GenerationResult& result : check_batch(model(), prompts(), config)) {
        CHECK(result.tokens.empty());
    }
}

TEST_CASE("what makes no sense is refused by name, before any work") {
    const auto refused = [](const std::vector<std::vector<TokenId>>& given, const GenerationConfig& config,
                            const char* message) {
        const auto never = [](std::size_t, const GeneratedToken&) -> Flow {
            throw std::logic_error("work was done");
        };
        CHECK_THROWS_WITH_AS((void)model().generate_batch(given, config, never), message, OptionError);
    };
    refused(prompts(), {.num_return_sequences = 0}, "num_return_sequences is 0, expected 1 or more");
    refused(prompts(), {.num_return_sequences = 2},
            "num_return_sequences is 2, expected 1 while num_beams is 1 and do_sample is false: all texts "
            "would be the same");
    refused(prompts(), {.do_sample = true, .temperature = 0.0f, .num_return_sequences = 2},
            "num_return_sequences is 2, expected 1 while num_beams is 1 and temperature is 0: all texts "
            "would be the same");
    refused({{1, 2}, {}}, {}, "prompts[1]: expected at least one token, found none");
    refused({{1}, {1, 259}}, {}, "token 259: expected an id below 259");
    refused(
        {{1}, {1, 2}}, {.forced_bos_token_id = 3},
        "forced_bos_token_id is set but has no effect after 2 tokens, expected 1, as an empty prompt has");
    check_throws<ContextError>(
        [] {
            (void)model().generate_batch(std::vector{test::some_tokens(3, 256), test::some_tokens(140, 256)});
        },
        {"prompts[1]: the prompt (140 tokens) and max_new_tokens (20) exceed the context of 150 tokens"});
    check_throws<ContextError>(
        [] {
            (void)model().generate_batch(
                prompts(), {.guidance_scale = 2.0f, .negative_prompt_ids = test::some_tokens(140, 256)});
        },
        {"(140 tokens)"});

    const GenerationConfig several{.do_sample = true, .num_return_sequences = 3};
    const char* const message = "num_return_sequences is 3, expected 1: generate() returns one text, "
                                "Gpt2Model::generate_batch() returns several";
    CHECK_THROWS_WITH_AS((void)model().generate("a", several), message, OptionError);
    CHECK_THROWS_WITH_AS((void)Session(model()).generate(prompts()[0], several), message, OptionError);
}

TEST_CASE("requests with options of their own: each text is the one that it would be alone") {
    std::vector<gpt2::BatchRequest> requests;
    for (const std::vector<TokenId>& prompt : prompts()) {
        for (const std::uint64_t seed : {1u, 2u}) {
            requests.push_back({prompt, drawing()});
            requests.back().config.seed = seed;
        }
    }
    requests[0].config = {.max_new_tokens = 30, .logprobs = true, .ignore_eos = true};
    requests[1].config.num_return_sequences = 3;
    requests[2].config.guidance_scale = 1.5f;
    requests[3].config.repetition_penalty = 1.4f;
    requests[4].config = {.max_new_tokens = 120, .logprobs = true, .overflow = gpt2::Overflow::truncate_left};
    requests[5].config.max_new_tokens = 0;
    requests[6].config.prompt_logprobs = true;
    requests[7].config.num_return_sequences = 2;
    requests[7].config.guidance_scale = 0.5f;
    const std::vector<GenerationResult> found = model().generate_batch(requests);
    std::size_t i = 0;
    for (const gpt2::BatchRequest& request : requests) {
        for (std::int64_t k = 0; k < request.config.num_return_sequences; ++k, ++i) {
            GenerationConfig alone = request.config;
            alone.num_return_sequences = 1;
            alone.sample += static_cast<std::uint64_t>(k);
            CAPTURE(i);
            REQUIRE(i < found.size());
            check_same(found[i], Session(model()).generate(request.prompt, alone));
        }
    }
    CHECK(i == found.size());
    CHECK(model().generate_batch(std::vector<gpt2::BatchRequest>()).empty());
}

TEST_CASE("requests: a fresh seed for each, and what is refused") {
    std::vector<gpt2::BatchRequest> requests(3, {{1, 2, 3}, drawing()});
    for (gpt2::BatchRequest& request : requests) {
        request.config.seed.reset();
    }
    const auto found = model().generate_batch(requests);
    CHECK(found[0].seed != found[1].seed);
    for (std::size_t i = 0; i < requests.size(); ++i) {
        REQUIRE(found[i].seed.has_value());
        GenerationConfig again = drawing();
        again.seed = found[i].seed;
        CAPTURE(i);
        check_same(found[i], Session(model()).generate(requests[i].prompt, again));
    }
    const auto refused = [&](const auto& change, std::initializer_list<std::string_view> parts) {
        auto changed = requests;
        change(changed[1]);
        check_throws<OptionError>([&] { (void)model().generate_batch(changed); }, parts);
    };
    using Request = gpt2::BatchRequest;
    refused([](Request& r) { r.prompt.clear(); }, {"requests[1]", "at least one token"});
    refused([](Request& r) { r.config.temperature = -1.0f; }, {"requests[1]", "temperature is -1"});
    refused([](Request& r) { r.config = {.num_beams = 2}; }, {"requests[1]", "num_beams is 2, expected 1"});
    refused([](Request& r) { r.config.max_time = 1e6; }, {"requests[1]", "max_time and cancellation"});
    refused([](Request& r) { r.config.prompt_lookup_num_tokens = 2; },
            {"requests[1]", "prompt_lookup_num_tokens"});
    requests[2].prompt = test::some_tokens(140, 256);
    check_throws<ContextError>([&] { (void)model().generate_batch(requests); },
                               {"requests[2]", "140 tokens"});
}
