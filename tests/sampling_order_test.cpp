// SPDX-License-Identifier: MIT
#include "gpt2/sampling/order.hpp"

#include "support/sampling.hpp"

#include <gpt2/generation_checks.hpp>
#include <gpt2/presets.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

using gpt2::GenerationConfig;
using gpt2::Sampler;
using gpt2::TokenId;
using gpt2::sampling::ProcessorKind;
using gpt2::test::Case;
using gpt2::test::Distribution;
using gpt2::test::Numbers;
using gpt2::test::sweep;

namespace {

void refused(const std::vector<std::string>& order, const std::string& message) {
    const GenerationConfig config{
        .do_sample = true, .temperature = 0.5f, .top_k = 3, .top_p = 1.0f, .processor_order = order};
    CHECK_THROWS_WITH_AS(gpt2::validate(config, {}), message.c_str(), gpt2::OptionError);
}

std::size_t candidates_of(const GenerationConfig& config) {
    const Sampler sampler(config, {.size = 100, .eos = 5});
    const auto found = sampler.candidates();
    return found ? found->k : 0;
}

} // namespace

TEST_CASE("the default order is Hugging Face's") {
    const auto place = [](ProcessorKind kind) { return static_cast<int>(kind); };
    using K = ProcessorKind;
    const std::vector<K> hugging_face{K::guidance_scale,
                                      K::sequence_bias,
                                      K::repetition_penalty,
                                      K::no_repeat_ngram_size,
                                      K::bad_words_ids,
                                      K::min_new_tokens,
                                      K::forced_bos_token_id,
                                      K::forced_eos_token_id,
                                      K::exponential_decay_length_penalty,
                                      K::suppress_tokens,
                                      K::begin_suppress_tokens,
                                      K::logits_processors,
                                      K::temperature,
                                      K::top_k,
                                      K::top_p,
                                      K::min_p,
                                      K::typical_p,
                                      K::epsilon_cutoff,
                                      K::eta_cutoff};
    CHECK(std::is_sorted(hugging_face.begin(), hugging_face.end(),
                         [&](K a, K b) { return place(a) < place(b); }));
    for (const K kind : gpt2::sampling::all_processor_kinds) {
        const std::vector<std::string> name{std::string(to_string(kind))};
        CHECK(gpt2::sampling::parse_order(name) == std::vector<K>{kind});
    }
}

TEST_CASE("orders that are none") {
    refused({"temperature", "topk"},
            "processor_order[1] is \"topk\", expected the name of a processor, such as top_k");
    refused({"top_k", "temperature", "top_k"},
            "processor_order[2] is \"top_k\", which has been named before; expected each name once");
    refused({"top_p", "top_k"},
            "temperature is set but processor_order, which names all that are, leaves it out");
    CHECK_NOTHROW(gpt2::validate({.do_sample = true, .top_k = 3, .processor_order = {"dry", "top_k"}}, {}));
    CHECK_THROWS_WITH_AS(
        gpt2::validate({.do_sample = true,
                        .temperature = 0.5f,
                        .mirostat = gpt2::sampling::Mirostat{},
                        .processor_order = {"mirostat", "top_k", "temperature"}},
                       {}),
        "processor_order: expected mirostat, which is set, after all that are, found temperature behind it",
        gpt2::OptionError);
}

TEST_CASE("an order is followed") {
    sweep(
        1,
        [](Numbers& random, Case& given) {
            given.prompt = random.tokens(random.below(20), given.logits.size());
            given.config.repetition_penalty = random.between(1.1, 3.0);
            given.config.temperature = random.between(0.3, 3.0);
            given.config.logit_bias = {{random.token(given.logits.size()), random.between(-5.0, 5.0)}};
            given.config.processor_order = {"temperature", "logit_bias", "repetition_penalty"};
        },
        [](const Case& given, Distribution& d) {
            const auto r = static_cast<double>(*given.config.repetition_penalty);
            for (double& s : d.scores) {
                s /= static_cast<double>(*given.config.temperature);
            }
            for (const auto& [token, bias] : given.config.logit_bias) {
                d[token] += static_cast<double>(bias);
            }
            for (std::size_t i = 0; i < d.size(); ++i) {
                const bool seen =
                    std::count(given.prompt.begin(), given.prompt.end(), static_cast<TokenId>(i)) > 0;
                const double s = d.scores[i];
                d.scores[i] = !seen ? s : s < 0.0 ? s * r : s / r;
            }
        });
}

TEST_CASE("logits are screened only where a few of them decide") {
    CHECK(candidates_of({}) == 1);
    CHECK(candidates_of({.repetition_penalty = 1.5f}) == 1);
    CHECK(candidates_of({.do_sample = true, .top_k = 7}) == 7);
    CHECK(candidates_of({.do_sample = true, .temperature = 0.5f, .top_k = 7, .top_p = 0.9f}) == 7);
    CHECK(candidates_of({.do_sample = true, .top_k = 7, .min_p = 0.1f, .repetition_penalty = 1.5f}) == 7);
    CHECK(candidates_of({.do_sample = true, .top_k = 7, .typical_p = 0.5f}) == 7);
    CHECK(candidates_of({.do_sample = true, .top_k = 7, .top_k_ties = gpt2::sampling::TopKTies::cut}) == 7);
    CHECK(candidates_of(gpt2::preset("huggingface")) == 50);
    CHECK(candidates_of(gpt2::preset("llama.cpp")) == 40);

    CHECK(candidates_of({.do_sample = true}) == 0);
    CHECK(candidates_of({.do_sample = true, .top_k = 100}) == 0);
    CHECK(candidates_of({.do_sample = true, .top_k = 7, .top_n_sigma = 1.0f}) == 0);
    CHECK(candidates_of({.guidance_scale = 1.5f}) == 0);
    CHECK(candidates_of({.presence_penalty = 0.1f}) == 0);
    CHECK(candidates_of({.frequency_penalty = 0.1f}) == 0);
    CHECK(candidates_of({.no_repeat_ngram_size = 2}) == 0);
    CHECK(candidates_of({.bad_words_ids = {{1, 2}}}) == 0);
    CHECK(candidates_of({.suppress_tokens = {1}}) == 0);
    CHECK(candidates_of({.begin_suppress_tokens = {1}}) == 0);
    CHECK(candidates_of({.forced_bos_token_id = 1}) == 0);
    CHECK(candidates_of({.forced_eos_token_id = 1}) == 0);
    CHECK(candidates_of({.sequence_bias = {{{1}, 1.0f}}}) == 0);
    CHECK(candidates_of({.logit_bias = {{1, 1.0f}}}) == 0);
    CHECK(candidates_of({.min_new_tokens = 1}) == 0);
    CHECK(candidates_of({.exponential_decay_length_penalty = {{1, 1.1f}}}) == 0);
    CHECK(candidates_of({.dry = gpt2::sampling::Dry{}}) == 0);
    CHECK(candidates_of({.do_sample = true, .mirostat = gpt2::sampling::Mirostat{}}) == 0);
    CHECK(candidates_of({.logits_processors = {[](std::span<const TokenId>, std::span<float>) {}}}) == 0);
    CHECK(candidates_of(
              {.do_sample = true, .top_k = 7, .top_p = 0.9f, .processor_order = {"top_p", "top_k"}}) == 0);
    CHECK(candidates_of({.do_sample = true,
                         .top_k = 7,
                         .repetition_penalty = 1.5f,
                         .processor_order = {"top_k", "repetition_penalty"}}) == 7);

    // With a window, the penalty is for the tokens inside.
    Sampler sampler({.repetition_penalty = 1.5f, .penalty_last_n = 2}, {.size = 100});
    sampler.note(std::vector<TokenId>{7, 8, 9, 8});
    const auto penalized = sampler.candidates()->penalized;
    std::vector<TokenId> tokens(penalized.begin(), penalized.end());
    std::sort(tokens.begin(), tokens.end());
    CHECK(tokens == std::vector<TokenId>{8, 9});
}

TEST_CASE("the same token with and without what candidates() leaves out") {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Numbers random(2);
    for (int i = 0; i < 500; ++i) {
        Case given{.logits = gpt2::test::random_logits(random, 60)};
        given.prompt = random.tokens(10, 60);
        given.config.repetition_penalty = random.between(0.6, 1.6);
        given.config.penalty_last_n = 1 + static_cast<std::int64_t>(random.below(12));
        given.config.temperature = random.between(0.0, 1.0) < 0.2f ? 0.0f : 0.8f;
        given.config.top_k = 1 + static_cast<std::int64_t>(random.below(10));
        given.config.top_k_ties =
            random.next() < 0.5 ? gpt2::sampling::TopKTies::cut : gpt2::sampling::TopKTies::keep;
        given.config.xtc = {{0.5f, 0.1f}};
        Sampler sampler = given.sampler();
        const auto wanted = sampler.candidates();
        REQUIRE(wanted.has_value());
        std::vector<float> scores = given.logits;
        for (const TokenId token : wanted->penalized) {
            float& s = scores[static_cast<std::size_t>(token)];
            s = gpt2::detail::penalized(s, wanted->repetition_penalty);
        }
        std::vector<float> sorted = scores;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        std::vector<float> screened = given.logits;
        for (std::size_t j = 0; j < scores.size(); ++j) {
            screened[j] = scores[j] < sorted[wanted->k - 1] ? -infinity : screened[j];
        }
        const double u = random.next();
        const double u_xtc = random.next();
        CHECK(sampler.next(screened, u, u_xtc) == sampler.next(given.logits, u, u_xtc));
    }
}

TEST_CASE("preset openai: all tokens, as they come") {
    const GenerationConfig config = gpt2::preset("openai");
    CHECK(config.do_sample);
    CHECK(config.ignore_eos);
    CHECK_NOTHROW(gpt2::validate(config, {}));
    Case given{.logits = {2.0f, 1.3f, 0.6f, 0.6f}, .config = config};
    CHECK(given.sampler().probabilities(given.logits) ==
          Case{.logits = given.logits}.sampler().probabilities(given.logits));
    given.config.top_p = 0.6f; // the first has 0.46, the second crosses
    CHECK(given.sampler().probabilities(given.logits) == std::vector<double>{1, 0, 0, 0});
    given.config.top_p = 1.0f;
    given.config.top_k = 3;
    CHECK(given.sampler().probabilities(given.logits)[3] > 0.0); // a tie
}

TEST_CASE("preset huggingface: top_k 50") {
    const GenerationConfig config = gpt2::preset("huggingface");
    CHECK_NOTHROW(gpt2::validate(config, {}));
    std::vector<float> logits(200);
    for (std::size_t i = 0; i < logits.size(); ++i) {
        logits[i] = -0.01f * static_cast<float>(i);
    }
    const auto p = Case{.logits = logits, .config = config}.sampler().probabilities(logits);
    CHECK(p[49] > 0.0);
    CHECK(p[50] == 0.0);
    CHECK_FALSE(config.ignore_eos);
}

TEST_CASE("preset llama.cpp: its chain, the temperature last") {
    const auto config = [](Case& given) {
        given.config = gpt2::preset("llama.cpp");
        given.config.repetition_penalty = 1.3f; // of the last 64 tokens
    };
    sweep(
        3,
        [&](Numbers& random, Case& given) {
            config(given);
            given.prompt = random.tokens(random.below(150), given.logits.size());
        },
        [](const Case& given, Distribution& d) {
            const std::size_t window = std::min<std::size_t>(given.prompt.size(), 64);
            for (std::size_t i = 0; i < d.size(); ++i) {
                const double s = d.scores[i];
                const auto begin = given.prompt.end() - static_cast<std::ptrdiff_t>(window);
                const bool seen = std::count(begin, given.prompt.end(), static_cast<TokenId>(i)) > 0;
                d.scores[i] = !seen ? s : s <= 0.0 ? s * double{1.3f} : s / double{1.3f};
            }
            const auto order = d.falling();
            for (std::size_t i = 40; i < order.size(); ++i) {
                (void)d.less(d.scores[order[i]], d.scores[order[39]]);
                d.scores[order[i]] = Distribution::removed;
            }
            const auto p = d.softmax();
            double sum = 0.0;
            for (const std::size_t i : order) { // the first with which 0.95 is reached is the last to stay
                d.borderline = d.borderline || std::fabs(sum - double{0.95f}) < 2e-6;
                d.scores[i] = sum >= double{0.95f} ? Distribution::removed : d.scores[i];
                sum += p[i];
            }
            const double most = d.scores[order[0]];
            for (double& s : d.scores) {
                s = d.less(s, most + std::log(double{0.05f})) ? Distribution::removed : s;
                s /= double{0.8f};
            }
        });
    Case given;
    config(given);
    CHECK_NOTHROW(gpt2::validate(given.config, {}));
    CHECK(given.config.processor_order.size() == gpt2::sampling::processor_names.size());
    given.config.mirostat = gpt2::sampling::Mirostat{};
    CHECK_THROWS_AS(gpt2::validate(given.config, {}), gpt2::OptionError);
}

TEST_CASE("presets have names") {
    for (const std::string_view name : gpt2::preset_names) {
        CHECK_NOTHROW((void)gpt2::preset(name));
    }
    CHECK_THROWS_WITH_AS((void)gpt2::preset("llama"),
                         "the preset is \"llama\", expected \"openai\", \"huggingface\" or \"llama.cpp\"",
                         gpt2::OptionError);
}
