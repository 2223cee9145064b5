// SPDX-License-Identifier: MIT

// Log-probabilities in results, of the text, of the prompt and of the most probable tokens: against the
// softmax in double of what Session::forward gives token by token, and that they change nothing.

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
#include <numeric>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

using gpt2::FinishReason;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::OptionError;
using gpt2::Overflow;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::TokenLogprob;
using gpt2::test::check_throws;
using gpt2::test::joined;
using gpt2::test::loaded_novella;
using gpt2::test::make_model;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()

const Gpt2Model& model() {
    return test::loaded_odd();
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, 256, seed);
}

/// The log-probabilities of all tokens at each place of a text but the first, token by token.
std::vector<std::vector<double>> reference(const Gpt2Model& of, const std::vector<TokenId>& text) {
    std::vector<std::vector<double>> rows(1);
    Session session(of);
    for (const TokenId token : std::span(text).first(text.size() - 1)) {
        const std::span<const float> logits = session.forward({&token, 1});
        const double largest = static_cast<double>(*std::ranges::max_element(logits));
        double sum = 0.0;
        for (const float logit : logits) {
            sum += std::exp(static_cast<double>(logit) - largest);
        }
        std::vector<double>& row = rows.emplace_back();
        for (const float logit : logits) {
            row.push_back(static_cast<double>(logit) - largest - std::log(sum));
        }
    }
    return rows;
}

constexpr double accuracy = 1e-6; // of the exponentials in float, and of a float near 10

void check_top(const std::vector<TokenLogprob>& found, const std::vector<double>& row, std::size_t n) {
    std::vector<TokenId> ids(row.size());
    std::iota(ids.begin(), ids.end(), 0);
    const auto at = [&](TokenId id) { return row[static_cast<std::size_t>(id)]; };
    std::ranges::stable_sort(ids, [&](TokenId a, TokenId b) { return at(a) > at(b); });
    REQUIRE(found.size() == std::min(n, row.size()));
    for (std::size_t i = 0; i < found.size(); ++i) {
        REQUIRE(found[i].id == ids[i]);
        REQUIRE(std::fabs(static_cast<double>(found[i].logprob) - at(ids[i])) < accuracy);
    }
}

/// Checks the lists beside the log-probabilities of the tokens. @param rows  of reference(), at the same
/// places
void check_places(const std::vector<TokenId>& text, const std::vector<float>& logprobs,
                  const std::vector<std::vector<TokenLogprob>>& top,
                  std::span<const std::vector<double>> rows, std::size_t n) {
    REQUIRE(logprobs.size() == text.size());
    REQUIRE(top.size() == text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        CAPTURE(i);
        if (rows[i].empty()) {
            CHECK(std::isnan(logprobs[i]));
            CHECK(top[i].empty());
            continue;
        }
        const auto logprob = static_cast<double>(logprobs[i]);
        REQUIRE(std::fabs(logprob - rows[i][static_cast<std::size_t>(text[i])]) < accuracy);
        check_top(top[i], rows[i], n);
        const auto same = std::ranges::find(top[i], text[i], &TokenLogprob::id);
        CHECK((same == top[i].end() || same->logprob == logprobs[i])); // to the last bit
    }
}

GenerationConfig drawing() {
    return {.max_new_tokens = 30,
            .do_sample = true,
            .temperature = 0.9f,
            .top_k = 20,
            .repetition_penalty = 1.3f,
            .seed = 42,
            .ignore_eos = true};
}

GenerationConfig with_all(GenerationConfig config, std::int64_t n = 5) {
    config.logprobs = true;
    config.top_logprobs = n;
    config.prompt_logprobs = true;
    return config;
}

/// Equal to the last bit, but that nothing is before a token at position 0.
void check_equal(std::vector<float> found, std::vector<float> expected) {
    if (found.empty() && expected.empty()) {
        return;
    }
    for (std::vector<float>* const list : {&found, &expected}) {
        if (!list->empty() && std::isnan(list->front())) {
            list->front() = -1e30f;
        }
    }
    CHECK(mismatch(found, expected) == "");
}

void check_same(const GenerationResult& found, const GenerationResult& expected) {
    CHECK(found.tokens == expected.tokens);
    CHECK(found.text == expected.text);
    CHECK(found.logprobs == expected.logprobs);
    CHECK(found.top_logprobs == expected.top_logprobs);
    check_equal(found.prompt_logprobs, expected.prompt_logprobs);
    CHECK(found.prompt_top_logprobs == expected.prompt_top_logprobs);
}

/// Requests a stop when a position is read.
class Stopper : public gpt2::Observer {
public:
    explicit Stopper(std::size_t position) : position_(position) {}
    void hidden_state(std::size_t, std::size_t position, std::span<const float>) override {
        if (position == position_) {
            source.request_stop();
        }
    }
    std::stop_source source;

private:
    std::size_t position_;
};

} // namespace

TEST_CASE("logprobs of text and prompt against the reference; the text is the same without") {
    const Gpt2Model* of = &model();
    std::vector<TokenId> prompt = tokens(100); // more than are read at once
    GenerationConfig config = drawing();
    SUBCASE("drawn, with a penalty that they do not see") {}
    SUBCASE("greedy") {
        config = {.max_new_tokens = 30, .ignore_eos = true};
    }
    SUBCASE("a prompt of one token") {
        prompt = tokens(1);
    }
    SUBCASE("as many as are read at once") {
        prompt = tokens(64);
    }
    SUBCASE("guidance: of the prompt's own distribution") {
        config.guidance_scale = 1.5f;
    }
    SUBCASE("overflow slide, where all of it fits") {
        config.overflow = Overflow::slide;
    }
    SUBCASE("the default model") {
        of = &loaded_novella();
        prompt = of->tokenizer().encode("It was a dark and stormy night, and the old woodcutter sat");
    }
    Session plain_session(*of);
    const GenerationResult plain = plain_session.generate(prompt, config);
    CHECK(plain.logprobs.empty());
    CHECK(plain.top_logprobs.empty());
    CHECK(plain.prompt_logprobs.empty());
    CHECK(plain.prompt_top_logprobs.empty());

    Session session(*of);
    std::vector<std::vector<TokenLogprob>> told;
    const GenerationResult found =
        session.generate(prompt, with_all(config), [&](const gpt2::GeneratedToken& token) {
            told.emplace_back(token.top_logprobs.begin(), token.top_logprobs.end());
            return gpt2::Flow::proceed;
        });
    CHECK(found.tokens == plain.tokens);
    CHECK(found.text == plain.text);
    CHECK(mismatch(session.logits().flat(), plain_session.logits().flat()) == "");
    CHECK(told == found.top_logprobs);

    const auto rows = reference(*of, joined(prompt, found.tokens));
    check_places(prompt, found.prompt_logprobs, found.prompt_top_logprobs, rows, 5);
    check_places(found.tokens, found.logprobs, found.top_logprobs, std::span(rows).subspan(prompt.size()), 5);
    check_equal(found.prompt_logprobs, Session(*of).score(prompt));
}

TEST_CASE("each of the three options alone") {
    const auto prompt = tokens(20);
    const GenerationResult all = Session(model()).generate(prompt, with_all(drawing()));
    GenerationConfig config = drawing();
    config.top_logprobs = 5;
    const GenerationResult top = Session(model()).generate(prompt, config);
    CHECK(top.top_logprobs == all.top_logprobs);
    CHECK(top.logprobs.empty());
    CHECK(top.prompt_logprobs.empty());
    CHECK(top.prompt_top_logprobs.empty());
    config = drawing();
    config.prompt_logprobs = true;
    config.max_new_tokens = 0;
    const GenerationResult of_prompt = Session(model()).generate(prompt, config);
    check_equal(of_prompt.prompt_logprobs, all.prompt_logprobs);
    CHECK(of_prompt.prompt_top_logprobs.empty());
    CHECK(of_prompt.top_logprobs.empty());
}

TEST_CASE("top_logprobs: ties, more than there are, tokens that the tokenizer does not know") {
    const Gpt2Model flat = make_model(test::odd_config(), [](std::string_view name, std::span<float> values) {
        if (name == "wte.weight") {
            std::ranges::fill(values, 0.0f);
        }
    });
    GenerationConfig config{.max_new_tokens = 2, .ignore_eos = true};
    config.top_logprobs = 3;
    const float each = -std::log(static_cast<float>(test::byte_vocabulary_size));
    for (const auto& top : Session(flat).generate(tokens(2), config).top_logprobs) {
        REQUIRE(top.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) {
            CHECK(top[i].id == static_cast<TokenId>(i));
            CHECK(top[i].logprob == doctest::Approx(each).epsilon(1e-6));
        }
    }
    gpt2::Config padded_config = test::odd_config();
    padded_config.vocab_size = 300;
    const Gpt2Model padded = make_model(padded_config);
    config.top_logprobs = std::numeric_limits<std::int64_t>::max();
    for (const auto& top : Session(padded).generate(tokens(2), config).top_logprobs) {
        CHECK(top.size() == test::byte_vocabulary_size);
        CHECK(std::ranges::max_element(top, {}, &TokenLogprob::id)->id ==
              static_cast<TokenId>(test::byte_vocabulary_size) - 1);
    }
}

TEST_CASE("prompt_logprobs of a session that goes on: the tokens of the call, given all before") {
    const auto first = tokens(30);
    const auto second = tokens(66, 2);
    GenerationConfig config = with_all(drawing());
    config.max_new_tokens = 10;
    Session session(model());
    SUBCASE("with logits") {
        session.forward(first);
    }
    SUBCASE("without, after truncate()") {
        session.forward(joined(first, tokens(5, 3)));
        session.truncate(first.size());
    }
    const GenerationResult found = session.generate(second, config);
    const auto rows = reference(model(), joined(joined(first, second), found.tokens));
    check_places(second, found.prompt_logprobs, found.prompt_top_logprobs,
                 std::span(rows).subspan(first.size()), 5);
    check_places(found.tokens, found.logprobs, found.top_logprobs,
                 std::span(rows).subspan(first.size() + second.size()), 5);
    const GenerationResult no_prompt = session.generate({}, config);
    CHECK(no_prompt.prompt_logprobs.empty());
    CHECK(no_prompt.top_logprobs.size() == no_prompt.tokens.size());
}

TEST_CASE("prompt_logprobs with truncate_left: of what is left of the prompt") {
    GenerationConfig config = with_all(drawing());
    config.overflow = Overflow::truncate_left;
    const std::size_t room = n_positions - 30;
    const auto check = [&](const GenerationResult& found, const std::vector<TokenId>& all,
                           std::size_t n_prompt) {
        const std::vector<TokenId> context(all.end() - static_cast<std::ptrdiff_t>(room), all.end());
        const auto rows = reference(model(), context);
        REQUIRE(found.prompt_tokens == n_prompt);
        check_places({context.end() - static_cast<std::ptrdiff_t>(n_prompt), context.end()},
                     found.prompt_logprobs, found.prompt_top_logprobs, std::span(rows).last(n_prompt), 5);
    };
    const auto long_prompt = tokens(140);
    check(Session(model()).generate(long_prompt, config), long_prompt, room);
    Session session(model());
    session.forward(long_prompt);
    const auto more = tokens(8, 2);
    check(session.generate(more, config), joined(long_prompt, more), more.size());
}

TEST_CASE("prompt_logprobs of a prompt that a prefix cache knows are those of all of it") {
    const auto prompt = tokens(80);
    const GenerationConfig config = with_all(drawing());
    const GenerationResult expected = Session(model()).generate(prompt, config);
    gpt2::PrefixCache cache(model());
    for (int time = 0; time < 2; ++time) {
        const GenerationResult found = cache.generate(prompt, config);
        CHECK(found.prompt_logprobs.size() == found.prompt_tokens);
        check_same(found, expected);
    }
}

TEST_CASE("in a batch each text has what it would have alone") {
    std::vector<std::vector<TokenId>> prompts;
    for (const std::size_t n : {7u, 1u, 70u, 64u}) {
        prompts.push_back(tokens(n, static_cast<std::uint32_t>(n)));
    }
    GenerationConfig config = with_all(drawing(), 3);
    SUBCASE("several samples") {
        config.num_return_sequences = 3;
    }
    SUBCASE("guided") {
        config.guidance_scale = 1.5f;
    }
    SUBCASE("the prompts truncated") {
        config.overflow = Overflow::truncate_left;
        config.max_new_tokens = 120;
    }
    SUBCASE("of the prompts alone") {
        config = {.max_new_tokens = 0, .prompt_logprobs = true};
    }
    const auto found = model().generate_batch(prompts, config);
    const auto n = static_cast<std::size_t>(config.num_return_sequences);
    REQUIRE(found.size() == prompts.size() * n);
    for (std::size_t i = 0; i < found.size(); ++i) {
        GenerationConfig alone = config;
        alone.num_return_sequences = 1;
        alone.sample += i % n;
        CAPTURE(i);
        check_same(found[i], Session(model()).generate(prompts[i / n], alone));
    }
}

TEST_CASE("with proposals, and with a screened head") {
    const auto prompt =
        loaded_novella().tokenizer().encode("The king said no. The king said no. The king said no. The king");
    GenerationConfig config = with_all({.max_new_tokens = 30, .ignore_eos = true});
    const GenerationResult expected = Session(loaded_novella()).generate(prompt, config);
    config.prompt_lookup_num_tokens = 4;
    const GenerationResult found = Session(loaded_novella()).generate(prompt, config);
    CHECK(found.speculation.accepted > 0);
    check_same(found, expected);

    const Gpt2Model screened = Gpt2Model::load(test::novella(), {.screen_head = true});
    const auto text = screened.tokenizer().encode("It was a dark and stormy night");
    config = {.max_new_tokens = 10, .ignore_eos = true};
    config.top_logprobs = 4;
    const GenerationResult exact = Session(screened).generate(text, config);
    CHECK(exact.screening.tokens == 0);
    check_same(exact, Session(loaded_novella()).generate(text, config));
    config.top_logprobs = 0;
    CHECK(Session(screened).generate(text, config).screening.tokens > 0);
}

TEST_CASE("an end in the middle of the prompt leaves the session as it was, and no logprobs") {
    const auto first = tokens(10);
    const auto prompt = tokens(100, 2);
    const auto stopper = std::make_shared<Stopper>(90); // in the second part
    Session session(model(), {.observer = stopper});
    session.forward(first);
    const std::vector<float> logits(session.logits().flat().begin(), session.logits().flat().end());
    GenerationConfig config = with_all(drawing());
    config.cancellation = stopper->source.get_token();
    const GenerationResult result = session.generate(prompt, config);
    CHECK(result.finish_reason == FinishReason::cancelled);
    CHECK(result.prompt_logprobs.empty());
    CHECK(result.prompt_top_logprobs.empty());
    CHECK(std::ranges::equal(session.tokens(), first));
    CHECK(mismatch(session.logits().flat(), logits) == "");
}

TEST_CASE("what makes no sense is refused, naming both") {
    const auto prompt = tokens(100);
    Session session(model());
    GenerationConfig config{.max_new_tokens = 2};
    config.top_logprobs = -1;
    check_throws<OptionError>([&] { (void)session.generate(prompt, config); },
                              {"top_logprobs is -1", "expected 0 or more"});
    config = {.max_new_tokens = 2, .num_beams = 2};
    config.top_logprobs = 1;
    check_throws<OptionError>(
        [&] { (void)model().generate_batch(std::vector<std::vector<TokenId>>{prompt}, config); },
        {"top_logprobs", "num_beams"});
    config.top_logprobs = 0;
    config.prompt_logprobs = true;
    check_throws<OptionError>(
        [&] { (void)model().generate_batch(std::vector<std::vector<TokenId>>{prompt}, config); },
        {"prompt_logprobs", "num_beams"});
    config = {.max_new_tokens = 2, .overflow = Overflow::slide};
    config.prompt_logprobs = true;
    session.forward(tokens(51));
    check_throws<OptionError>([&] { (void)session.generate(prompt, config); },
                              {"prompt_logprobs", "overflow is slide", "99", "found 100"});
    CHECK(session.position() == 51);
    check_throws<OptionError>(
        [&] {
            (void)model().generate_batch(std::vector{tokens(100), tokens(151)}, config);
        },
        {"prompts[1]", "prompt_logprobs", "150", "found 151"});
}
