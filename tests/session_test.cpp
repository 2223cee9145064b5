// SPDX-License-Identifier: MIT

// What sessions do besides computing: state, errors, scores, the generate loop.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

using gpt2::BatchItem;
using gpt2::ContextError;
using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::Logits;
using gpt2::NumericError;
using gpt2::OptionError;
using gpt2::Overflow;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::make_model;
using gpt2::test::mismatch;
namespace test = gpt2::test;

static_assert(!std::is_copy_constructible_v<Session> && !std::is_copy_assignable_v<Session>);
static_assert(std::is_move_constructible_v<Session> && std::is_move_assignable_v<Session>);
static_assert(std::is_copy_constructible_v<Gpt2Model> && std::is_copy_assignable_v<Gpt2Model>);

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()
constexpr std::size_t n_vocab = test::byte_vocabulary_size;

const Gpt2Model& model() {
    static const Gpt2Model loaded = make_model(test::odd_config());
    return loaded;
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, n_vocab, seed);
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

/// Logits after the last of some tokens, in a session of their own.
std::vector<float> fresh_logits(const Gpt2Model& of, std::span<const TokenId> all,
                                KvDtype cache = KvDtype::float32) {
    Session session(of, {.pool = nullptr, .kv_dtype = cache});
    return copy(session.forward(all));
}

/// Calls something that throws, and checks that it left no trace in the session: position, tokens, logits,
/// and what comes out when the session goes on.
template <class Exception, class Action>
void check_unchanged(const Gpt2Model& of, Session& session, Action&& action,
                     std::initializer_list<std::string_view> parts, KvDtype cache = KvDtype::float32) {
    const std::vector<TokenId> before(session.tokens().begin(), session.tokens().end());
    const std::vector<float> logits = copy(session.logits().flat());
    check_throws<Exception>(action, parts);
    CHECK(session.position() == before.size());
    CHECK(std::ranges::equal(session.tokens(), before));
    CHECK(copy(session.logits().flat()) == logits);
    if (before.size() < n_positions) {
        std::vector<TokenId> all = before;
        all.push_back(5);
        CHECK(mismatch(session.forward(std::span(all).last(1)), fresh_logits(of, all, cache)) == "");
        session.truncate(before.size() - 1);
        session.forward(std::span(before).last(1)); // the logits again, for the next check
    }
}

void forward(std::vector<BatchItem> items) {
    gpt2::forward(items);
}

} // namespace

TEST_CASE("errors of a batch leave every session as before") {
    const auto prompt = tokens(40);
    const auto more = tokens(3, 2);
    Session a(model());
    Session b(model());
    a.forward(prompt);
    b.forward(std::span(prompt).first(9));
    const std::vector<float> logits_of_b = copy(b.logits().flat());
    const auto check = [&]<class Exception>(std::optional<Exception>, std::function<void()> action,
                                            std::initializer_list<std::string_view> parts) {
        check_unchanged<Exception>(model(), a, action, parts);
        CHECK(b.position() == 9);
        CHECK(mismatch(b.logits().flat(), logits_of_b) == "");
    };
    const std::optional<OptionError> option;
    const std::optional<ContextError> context;
    check(option, [&] { forward({{&a, more}, {nullptr, more}}); }, {"session", "null"});
    check(option, [&] { forward({{nullptr, more}}); }, {"session", "null"});
    check(option, [&] { forward({{&a, more}, {&b, more}, {&a, more}}); }, {"once", "twice"});
    check(option, [&] { forward({{&a, more}, {&b, {}}}); }, {"at least one token"});
    check(option, [&] { a.forward({}); }, {"at least one token"});
    for (const TokenId id : {-1, static_cast<TokenId>(n_vocab), std::numeric_limits<TokenId>::max(),
                             std::numeric_limits<TokenId>::min()}) {
        const std::array bad{TokenId{1}, id, TokenId{2}};
        check(option, [&] { forward({{&a, more}, {&b, bad}}); }, {"259", std::to_string(id)});
        check(option, [&] { a.forward(bad); }, {"259", std::to_string(id)});
    }
    const auto many = tokens(n_positions - 8, 3);
    check(context, [&] { forward({{&a, more}, {&b, many}}); }, {"150", "141", "142"});
    check(context, [&] { a.forward(many); }, {"150", "110"});
    const Gpt2Model another = make_model(test::odd_config());
    Session c(another);
    check(option, [&] { forward({{&a, more}, {&c, more}}); }, {"one model"});
    CHECK(c.position() == 0);
    check(option, [&] { a.truncate(41); }, {"40", "41"});
    gpt2::forward({}); // nothing to do is no error
    CHECK(a.position() == 40);
}

namespace {

constexpr TokenId wild = 7;

/// A model in which the normalised input 3 of token `wild` is some 6.6 and that of all others next to
/// nothing, with this input's weights for the first query and the first key, in the first layer.
Gpt2Model make_wild(float query, float key) {
    const gpt2::Config config = test::odd_config();
    const std::size_t C = config.n_embd;
    return make_model(config, [=](std::string_view name, std::span<float> values) {
        if (name == "wte.weight" || name == "wpe.weight") {
            for (std::size_t i = 0; i < values.size(); ++i) {
                const bool is_wild = name == "wte.weight" && i / C == wild;
                values[i] = i % C == 3 ? (is_wild ? 1.0f : 0.0f) : (is_wild ? 0.0f : values[i]);
            }
        } else if (name == "h.0.attn.c_attn.weight") {
            values[3 * 3 * C] = query;
            values[3 * 3 * C + C] = key;
        }
    });
}

std::vector<TokenId> tame_tokens(std::size_t n) {
    std::vector<TokenId> result = tokens(n);
    std::ranges::replace(result, wild, TokenId{8});
    return result;
}

} // namespace

TEST_CASE("keys and values are float32 beside float32 weights, else float16; or what is asked for") {
    for (const auto weights :
         {gpt2::WeightType::float32, gpt2::WeightType::float16, gpt2::WeightType::bfloat16}) {
        const auto of = Gpt2Model::load(test::novella(), {.weights = weights, .isa = {}, .pool = nullptr});
        const bool wide = weights == gpt2::WeightType::float32;
        Session by_default(of);
        CHECK(by_default.kv_dtype() == (wide ? KvDtype::float32 : KvDtype::float16));
        const auto prompt = tokens(40);
        CHECK(mismatch(by_default.forward(prompt), fresh_logits(of, prompt, by_default.kv_dtype())) == "");
        CHECK(mismatch(fresh_logits(of, prompt, KvDtype::float16),
                       fresh_logits(of, prompt, KvDtype::float32)) != "");
        for (const auto asked : {KvDtype::float32, KvDtype::float16}) {
            CHECK(Session(of, {.pool = nullptr, .kv_dtype = asked}).kv_dtype() == asked);
        }
    }
}

TEST_CASE("numbers outside the type of the cache are an error, and every session is as before") {
    const Gpt2Model of = make_wild(0.0f, 3e4f); // a key of 2e5
    const gpt2::SessionOptions narrow{.pool = std::make_shared<gpt2::ThreadPool>(3),
                                      .kv_dtype = KvDtype::float16};
    std::vector<TokenId> prompt = tame_tokens(100);
    Session a(of, narrow);
    a.forward(std::span(prompt).first(20));
    CHECK(fresh_logits(of, std::array{TokenId{1}, wild}).size() == n_vocab); // float32 has room for it
    std::vector<TokenId> bad = prompt;
    bad.back() = wild;
    check_unchanged<NumericError>(
        of, a, [&] { a.forward(bad); }, {"layer 0", "float16", "KV cache"}, KvDtype::float16);
    check_unchanged<NumericError>(
        of, a, [&] { a.score(bad); }, {"float16"}, KvDtype::float16);
    check_unchanged<NumericError>(
        of, a, [&] { a.generate(bad, {.max_new_tokens = 1}); }, {"float16"}, KvDtype::float16);

    // Three sessions, more rows than one pass takes: the first two passes succeed and write to the caches.
    Session b(of, narrow);
    Session c(of, narrow);
    c.forward(std::span(prompt).first(3));
    check_unchanged<NumericError>(
        of, a,
        [&] {
            forward({{&a, prompt, Logits::all}, {&b, prompt}, {&c, bad, Logits::none}});
        },
        {"float16"}, KvDtype::float16);
    CHECK(b.position() == 0);
    CHECK(c.position() == 3);
    CHECK(mismatch(b.forward(prompt), fresh_logits(of, prompt, KvDtype::float16)) == "");
}

TEST_CASE("scores that exceed float32 are an error") {
    const Gpt2Model of = make_wild(8e18f, 8e18f); // their product is some 1e39
    std::vector<TokenId> prompt = tame_tokens(30);
    Session session(of);
    session.forward(prompt);
    check_unchanged<NumericError>(of, session,
                                  [&] {
                                      session.forward(std::array{wild, TokenId{1}});
                                  },
                                  {"expected", "found"});
}

TEST_CASE("a residual stream that layer norm cannot take is an error") {
    const Gpt2Model of = make_model(test::odd_config(), [](std::string_view name, std::span<float> values) {
        if (name == "wte.weight") {
            values[wild * test::odd_config().n_embd + 3] = 1e25f; // its square is infinite
        }
    });
    std::vector<TokenId> prompt = tame_tokens(30);
    Session session(of);
    session.forward(prompt);
    check_unchanged<NumericError>(of, session,
                                  [&] {
                                      session.forward(std::array{TokenId{1}, wild});
                                  },
                                  {"expected", "found"});
}

TEST_CASE("tokens may come from a session of the batch") {
    const auto prompt = tokens(30);
    Session a(model());
    Session b(model());
    a.forward(prompt);
    forward({{&a, a.tokens()}, {&b, a.tokens()}});
    std::vector<TokenId> twice = prompt;
    twice.insert(twice.end(), prompt.begin(), prompt.end());
    CHECK(std::ranges::equal(a.tokens(), twice));
    CHECK(std::ranges::equal(b.tokens(), prompt));
    CHECK(mismatch(a.logits().flat(), fresh_logits(model(), twice)) == "");
    CHECK(mismatch(b.logits().flat(), fresh_logits(model(), prompt)) == "");
}

TEST_CASE("tokens may be the session's own") {
    const auto prompt = tokens(70);
    std::vector<TokenId> twice = prompt;
    twice.insert(twice.end(), prompt.begin(), prompt.end());
    Session expected(model());
    const std::vector<float> scores = expected.score(twice);
    Session session(model());
    session.forward(prompt);
    CHECK(mismatch(session.score(session.tokens()), std::span(scores).last(70)) == "");
    CHECK(std::ranges::equal(session.tokens(), twice));
    session.truncate(70);
    CHECK(session.generate(session.tokens(), {.max_new_tokens = 5}).tokens ==
          Session(model()).generate(twice, {.max_new_tokens = 5}).tokens);
}

TEST_CASE("fork: two sessions that go their own ways") {
    for (const std::size_t length : {1u, 63u, 64u, 70u, 128u}) {
        const auto prompt = tokens(length);
        const auto left = tokens(20, 2);
        const auto right = tokens(15, 3);
        for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
            Session session(model(), {.pool = nullptr, .kv_dtype = cache});
            session.forward(prompt);
            Session fork = session.fork();
            CHECK(fork.kv_dtype() == cache);
            CHECK(std::ranges::equal(fork.tokens(), prompt));
            CHECK(mismatch(fork.logits().flat(), session.logits().flat()) == "");
            for (auto [which, more] : {std::pair(&session, &left), std::pair(&fork, &right)}) {
                std::vector<TokenId> all = prompt;
                all.insert(all.end(), more->begin(), more->end());
                CHECK(mismatch(which->forward(*more), fresh_logits(model(), all, cache)) == "");
            }
        }
    }
    Session empty = Session(model()).fork();
    CHECK(empty.position() == 0);
    CHECK(mismatch(empty.forward(tokens(3)), fresh_logits(model(), tokens(3))) == "");
}

TEST_CASE("follow: what fork would give, whatever the session held before") {
    const auto shared = tokens(100);
    const auto more = tokens(5, 2);
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        const gpt2::SessionOptions options{.pool = nullptr, .kv_dtype = cache};
        for (const std::size_t n_shared : {0u, 1u, 63u, 64u, 65u, 100u}) {
            for (const std::size_t n_left : {0u, 1u, 40u}) {
                for (const std::size_t n_right : {0u, 1u, 30u}) {
                    std::vector<TokenId> left(shared.begin(),
                                              shared.begin() + static_cast<std::ptrdiff_t>(n_shared));
                    std::vector<TokenId> right = left;
                    const auto left_end = tokens(n_left, 3);
                    const auto right_end = tokens(n_right, 4);
                    left.insert(left.end(), left_end.begin(), left_end.end());
                    right.insert(right.end(), right_end.begin(), right_end.end());
                    Session follower(model(), options);
                    Session leader(model(), options);
                    for (const auto& [session, all] :
                         {std::pair(&follower, &left), std::pair(&leader, &right)}) {
                        if (!all->empty()) {
                            session->forward(*all);
                        }
                    }
                    follower.follow(leader);
                    CHECK(std::ranges::equal(follower.tokens(), right));
                    CHECK(std::ranges::equal(follower.logits().flat(), leader.logits().flat()));
                    right.insert(right.end(), more.begin(), more.end());
                    CHECK(mismatch(follower.forward(more), fresh_logits(model(), right, cache)) == "");
                }
            }
        }
        Session itself(model(), options);
        itself.forward(shared);
        itself.follow(itself);
        CHECK(std::ranges::equal(itself.tokens(), shared));
    }
    Session session(model());
    session.forward(shared);
    const Gpt2Model another = make_model(test::odd_config());
    const Session stranger(another);
    const Session narrow(model(), {.pool = nullptr, .kv_dtype = KvDtype::float16});
    check_unchanged<OptionError>(model(), session, [&] { session.follow(stranger); },
                                 {"follow", "same model"});
    check_unchanged<OptionError>(model(), session, [&] { session.follow(narrow); }, {"follow", "same type"});
}

TEST_CASE("score") {
    const auto all = tokens(140);
    Session session(model());
    std::vector<float> expected = session.score(all);
    REQUIRE(expected.size() == all.size());
    CHECK(session.position() == all.size());
    CHECK(std::isnan(expected[0]));
    expected[0] = 0.0f;

    SUBCASE("is the log-softmax of the logits before") {
        Session other(model());
        std::vector<float> scratch;
        for (std::size_t i = 0; i + 1 < all.size(); ++i) {
            const auto logits = other.forward(std::span(all).subspan(i, 1));
            const double p =
                gpt2::log_softmax(logits, all[i + 1], gpt2::detail::exp_shifted_portable, scratch);
            CHECK(std::fabs(static_cast<double>(expected[i + 1]) - p) < 1e-6);
        }
    }
    SUBCASE("in parts, after truncate, after a pass without logits: the same bits") {
        for (const std::size_t cut : {1u, 2u, 63u, 64u, 65u, 100u, 139u}) {
            CAPTURE(cut);
            const auto rest = std::span(all).subspan(cut);
            const auto expected_rest = std::span<const float>(expected).subspan(cut);
            Session parts(model());
            parts.score(std::span(all).first(cut));
            CHECK(mismatch(parts.score(rest), expected_rest) == "");
            parts.truncate(cut);
            CHECK(mismatch(parts.score(rest), expected_rest) == "");
            CHECK(std::ranges::equal(parts.tokens(), all));
            Session silent(model());
            forward({{&silent, std::span(all).first(cut), Logits::none}});
            CHECK(mismatch(silent.score(rest), expected_rest) == "");
        }
        session.truncate(0);
        std::vector<float> again = session.score(all);
        CHECK(std::isnan(again[0]));
        again[0] = 0.0f;
        CHECK(mismatch(again, expected) == "");
    }
    SUBCASE("of nothing is nothing") {
        CHECK(session.score({}).empty());
        session.truncate(70);
        CHECK(session.score({}).empty());
        CHECK(session.position() == 70);
        CHECK(Session(model()).score({}).empty());
    }
    SUBCASE("that fails leaves the session as before") {
        session.truncate(0);
        session.forward(std::span(all).first(10));
        std::vector<TokenId> bad = all;
        bad[130] = static_cast<TokenId>(n_vocab);
        check_unchanged<OptionError>(model(), session, [&] { session.score(bad); }, {"259"});
        const auto many = tokens(141);
        check_unchanged<ContextError>(model(), session, [&] { session.score(many); }, {"150"});
        session.truncate(8);
        check_throws<OptionError>([&] { session.score(std::array{TokenId{-1}}); }, {"-1"});
        CHECK(std::ranges::equal(session.tokens(), std::span(all).first(8)));
        CHECK(mismatch(session.score(std::span(all).subspan(8, 9)),
                       std::span<const float>(expected).subspan(8, 9)) == "");
    }
}

TEST_CASE("move") {
    const auto prompt = tokens(30);
    const auto expected = fresh_logits(model(), prompt);
    std::optional<Session> moved;
    {
        Gpt2Model copy_of_model = model();
        Session session(copy_of_model);
        session.forward(std::span(prompt).first(20));
        moved.emplace(std::move(session));
        session = Session(model()); // what was moved from may be assigned
        CHECK(session.position() == 0);
        CHECK(mismatch(session.forward(prompt), expected) == "");
    }
    CHECK(moved->position() == 20);
    CHECK(mismatch(moved->forward(std::span(prompt).last(10)), expected) == "");
    std::vector<Session> many;
    for (std::size_t i = 0; i < 20; ++i) { // moves them as it grows
        many.emplace_back(model());
        many.back().forward(std::span(prompt).first(i + 1));
    }
    std::swap(many[0], many[19]);
    CHECK(mismatch(many[0].forward(std::span(prompt).last(10)), expected) == "");
    CHECK(many[19].position() == 1);
}

TEST_CASE("a session outlives its model's last handle and the other sessions of a batch") {
    const auto prompt = tokens(12);
    std::optional<Gpt2Model> handle = make_model(test::odd_config());
    Session session(*handle);
    std::vector<float> logits;
    {
        Session other(*handle);
        forward({{&other, prompt}, {&session, prompt}});
        logits = copy(other.logits().flat());
        handle.reset();
    }
    CHECK(mismatch(session.logits().flat(), logits) == "");
    CHECK(session.generate({}, {.max_new_tokens = 3, .ignore_eos = true}).tokens.size() == 3);
}

TEST_CASE("sessions with different pools share a batch") {
    const auto prompt = tokens(50);
    const auto expected = fresh_logits(model(), prompt);
    Session a(model(), {.pool = std::make_shared<gpt2::ThreadPool>(2), .kv_dtype = KvDtype::float32});
    Session b(model(), {.pool = std::make_shared<gpt2::ThreadPool>(3), .kv_dtype = KvDtype::float32});
    forward({{&a, prompt}, {&b, prompt}});
    CHECK(mismatch(a.logits().flat(), expected) == "");
    CHECK(mismatch(b.logits().flat(), expected) == "");
    forward({{&b, std::span(prompt).first(3)}, {&a, std::span(prompt).first(3)}});
    CHECK(mismatch(a.logits().flat(), b.logits().flat()) == "");
}

namespace {

/// The greedy choice, among tokens that the tokenizer knows.
TokenId best(std::span<const float> logits) {
    const auto known = logits.first(model().tokenizer().size());
    return static_cast<TokenId>(std::ranges::max_element(known) - known.begin());
}

const GenerationConfig greedy40{.max_new_tokens = 40, .ignore_eos = true};

std::vector<TokenId> greedy(std::span<const TokenId> prompt) {
    return Session(model()).generate(prompt, greedy40).tokens;
}

} // namespace

TEST_CASE("generate appends to the session all but the last token") {
    const auto prompt = tokens(20);
    Session session(model());
    const auto result = session.generate(prompt, greedy40);
    std::vector<TokenId> all = prompt;
    Session manual(model());
    manual.forward(prompt);
    for (std::size_t i = 0; i < 40; ++i) {
        all.push_back(best(manual.logits()[0].flat()));
        manual.forward(std::span(all).last(1));
    }
    CHECK(std::ranges::equal(result.tokens, std::span(all).last(40)));
    CHECK(std::ranges::equal(session.tokens(), std::span(all).first(59)));
    CHECK(result.prompt_tokens == 20);
    CHECK(result.finish_reason == FinishReason::length);
    CHECK_FALSE(result.seed);
    CHECK(result.bytes == model().tokenizer().decode(result.tokens));
    // A second turn: the token that was not read yet, and what is said next.
    const std::array next{all.back(), TokenId{65}};
    all.push_back(65);
    CHECK(session.generate(next, greedy40).tokens == greedy(all));
    CHECK(session.position() == 61 + 39);
}

TEST_CASE("a text that exceeds the context is an error before any work") {
    const auto prompt = tokens(111);
    std::size_t calls = 0;
    const auto count = [&calls](const GeneratedToken&) {
        ++calls;
        return Flow::proceed;
    };
    Session session(model());
    session.forward(std::span(prompt).first(10));
    check_unchanged<ContextError>(model(), session,
                                  [&] { session.generate(std::span(prompt).first(101), greedy40, count); },
                                  {"111", "40", "150", "max_new_tokens", "slide"});
    check_unchanged<ContextError>(
        model(), session,
        [&] {
            session.generate(prompt, {.max_new_tokens = std::numeric_limits<std::int64_t>::max()}, count);
        },
        {"n_positions"});
    check_throws<ContextError>([&] { model().generate(std::string(151, 'x'), {.max_new_tokens = 0}, count); },
                               {"151"});
    CHECK(calls == 0);
    CHECK(session.generate(std::span(prompt).first(100), greedy40, count).tokens.size() == 40);
    CHECK(calls == 40);
}

TEST_CASE("overflow = slide reads the last n_positions / 2 tokens again, from position 0") {
    const auto check = [](const Gpt2Model& of, std::size_t context, std::size_t n_prompt,
                          std::int64_t n_new) {
        CAPTURE(n_prompt);
        CAPTURE(context);
        std::vector<TokenId> all = tokens(n_prompt);
        Session session(of);
        const auto result = session.generate(
            all,
            {.max_new_tokens = n_new, .logprobs = true, .ignore_eos = true, .overflow = Overflow::slide});
        REQUIRE(result.tokens.size() == static_cast<std::size_t>(n_new));
        const std::size_t kept = std::max<std::size_t>(context / 2, 1);
        std::size_t begin = n_prompt > context ? n_prompt - kept : 0; // of the window in `all`
        std::vector<float> scratch;
        for (std::size_t i = 0; i < result.tokens.size(); ++i) {
            if (all.size() - begin > context) {
                begin = all.size() - kept;
            }
            const auto logits = fresh_logits(of, std::span(all).subspan(begin));
            REQUIRE(result.tokens[i] == best(logits));
            const double p =
                gpt2::log_softmax(logits, result.tokens[i], gpt2::detail::exp_shifted_portable, scratch);
            CHECK(std::fabs(static_cast<double>(result.logprobs[i]) - p) < 1e-6);
            all.push_back(result.tokens[i]);
        }
        all.pop_back(); // not read yet
        CHECK(std::ranges::equal(session.tokens(), std::span(all).subspan(begin)));
    };
    check(model(), n_positions, 20, 250); // slides twice
    check(model(), n_positions, 400, 90); // slides at once, and again
    check(model(), n_positions, 150, 2);
    check(model(), n_positions, 151, 1);
    gpt2::Config config = test::odd_config();
    for (const std::size_t context : {1u, 2u, 3u}) {
        config.n_positions = context;
        check(make_model(config), context, 5, 7);
    }
}

TEST_CASE("slide of a session that is not empty counts all its tokens") {
    const auto all = tokens(170);
    Session session(model());
    session.forward(std::span(all).first(120));
    const auto result = session.generate(
        std::span(all).subspan(120), {.max_new_tokens = 1, .ignore_eos = true, .overflow = Overflow::slide});
    CHECK(result.tokens[0] == best(fresh_logits(model(), std::span(all).last(75))));
    CHECK(std::ranges::equal(session.tokens(), std::span(all).last(75)));
}

TEST_CASE("overflow = truncate_left: as if the shorter prompt had been given") {
    GenerationConfig config{
        .max_new_tokens = 40, .repetition_penalty = 1.3f, .logprobs = true, .ignore_eos = true};
    const auto check = [&](Session& session, std::span<const TokenId> prompt, std::span<const TokenId> kept) {
        Session alone(model());
        config.overflow = Overflow::error;
        const auto expected = alone.generate(kept, config);
        config.overflow = Overflow::truncate_left;
        const auto result = session.generate(prompt, config);
        CHECK(result.tokens == expected.tokens);
        CHECK(result.logprobs == expected.logprobs);
        CHECK(result.prompt_tokens == std::min(prompt.size(), kept.size()));
        CHECK(std::ranges::equal(session.tokens(), alone.tokens()));
        CHECK(mismatch(session.logits().flat(), copy(alone.logits().flat())) == "");
    };
    const auto all = tokens(400);
    SUBCASE("a new session") {
        for (const std::size_t n : {1u, 109u, 110u, 111u, 150u, 151u, 400u}) {
            CAPTURE(n);
            Session session(model());
            const auto prompt = std::span(all).first(n);
            check(session, prompt, prompt.last(std::min<std::size_t>(n, 110)));
        }
    }
    SUBCASE("one that is not empty: its tokens are the oldest") {
        for (const std::size_t n : {20u, 110u, 111u, 150u}) {
            CAPTURE(n);
            Session session(model());
            session.forward(std::span(all).first(n));
            check(session, std::span(all).subspan(n, 95), std::span(all).first(n + 95).last(110));
        }
    }
    SUBCASE("no prompt") {
        Session session(model());
        session.forward(std::span(all).first(140));
        check(session, {}, std::span(all).first(140).last(110));
    }
    SUBCASE("one token is left, and none") {
        config.max_new_tokens = 149;
        Session session(model());
        check(session, all, std::span(all).last(1));
        config.max_new_tokens = 150;
        check_unchanged<ContextError>(model(), session,
                                      [&] { session.generate(std::span(all).first(1), config); },
                                      {"max_new_tokens is 150", "150 tokens (n_positions)", "truncate_left"});
    }
    SUBCASE("guidance: the negative prompt is cut too") {
        config.guidance_scale = 1.5f;
        config.overflow = Overflow::truncate_left;
        config.negative_prompt_ids = tokens(300, 5);
        const auto result = Session(model()).generate(all, config);
        config.overflow = Overflow::error;
        config.negative_prompt_ids.erase(config.negative_prompt_ids.begin(),
                                         config.negative_prompt_ids.begin() + 190);
        CHECK(Session(model()).generate(std::span(all).last(110), config).tokens == result.tokens);
    }
}

TEST_CASE("no new tokens: the prompt is read") {
    const auto prompt = tokens(20);
    Session session(model());
    std::size_t calls = 0;
    const auto result = session.generate(prompt, {.max_new_tokens = 0}, [&](const GeneratedToken&) {
        ++calls;
        return Flow::proceed;
    });
    CHECK(result.tokens.empty());
    CHECK(result.text.empty());
    CHECK(result.finish_reason == FinishReason::length);
    CHECK(calls == 0);
    CHECK(session.position() == 20);
    CHECK(session.generate({}, greedy40).tokens == greedy(prompt));
}

TEST_CASE("prompts") {
    SUBCASE("an empty one starts from <|endoftext|>") {
        const auto result = model().generate("", greedy40);
        CHECK(result.prompt_tokens == 1);
        CHECK(result.tokens == greedy(std::array{TokenId{256}}));
    }
    SUBCASE("an empty one, and a model without such a token") {
        const test::TemporaryDirectory directory;
        gpt2::Config config = test::odd_config();
        config.bos_token_id = config.eos_token_id = std::nullopt;
        test::write_model(directory.path(), config);
        test::write_file(directory / "vocab.json",
                         test::replaced(test::read_file(directory / "vocab.json"), "<|endoftext|>", "qqq"));
        const auto of = Gpt2Model::load(directory.path());
        check_throws<OptionError>([&] { of.generate(""); }, {"prompt is empty", "bos_token_id"});
        CHECK(of.generate("a", {.max_new_tokens = 2}).tokens.size() == 2);
    }
    SUBCASE("nothing to continue from") {
        Session session(model());
        check_throws<OptionError>([&] { session.generate({}); }, {"prompt", "logits"});
        session.forward(tokens(5));
        session.truncate(3);
        check_throws<OptionError>([&] { session.generate({}); }, {"prompt", "logits"});
        CHECK(session.position() == 3);
    }
    SUBCASE("white space, invalid UTF-8, NUL, a name of a special token") {
        for (const std::string_view prompt :
             {std::string_view(" "), std::string_view(" \n\t\r\n  "),
              std::string_view("\xff\xfe\x80 abc\xe2\x82"), std::string_view("a\0b\0", 4),
              std::string_view("<|endoftext|>")}) {
            const auto ids = model().tokenizer().encode(prompt);
            CHECK(model().tokenizer().decode(ids) == prompt);
            CHECK(std::ranges::count(ids, 256) == 0);
            const auto result = model().generate(prompt, greedy40);
            CHECK(result.prompt_tokens == ids.size());
            CHECK(result.tokens == greedy(ids));
        }
    }
}

TEST_CASE("options at the ends of their ranges") {
    const auto prompt = tokens(9);
    const GenerationConfig drawn{.max_new_tokens = 40, .do_sample = true, .seed = 5, .ignore_eos = true};
    const auto expected = Session(model()).generate(prompt, drawn).tokens;
    CHECK(expected != greedy(prompt));
    const auto check = [&](auto change, const std::vector<TokenId>& same_as) {
        GenerationConfig config = drawn;
        change(config);
        CHECK(Session(model()).generate(prompt, config).tokens == same_as);
    };
    check([](GenerationConfig& c) { c.temperature = 1.0f; }, expected);
    check([](GenerationConfig& c) { c.top_k = 0; }, expected);
    check([](GenerationConfig& c) { c.top_k = n_vocab; }, expected);
    check([](GenerationConfig& c) { c.top_k = std::numeric_limits<std::int64_t>::max(); }, expected);
    check([](GenerationConfig& c) { c.top_p = 1.0f; }, expected);
    check([](GenerationConfig& c) { c.min_p = 0.0f; }, expected);
    check([](GenerationConfig& c) { c.temperature = 0.0f; }, greedy(prompt));
    check([](GenerationConfig& c) { c.top_k = 1; }, greedy(prompt));
    check([](GenerationConfig& c) { c.top_p = 0.0f; }, greedy(prompt));
    check([](GenerationConfig& c) { c.min_p = 1.0f; }, greedy(prompt));
    check(
        [](GenerationConfig& c) {
            c.do_sample = false;
            c.seed.reset();
            c.temperature = 0.0f;
        },
        greedy(prompt));
}

TEST_CASE("nonsense is refused before any work, by name") {
    Session session(model());
    session.forward(tokens(10));
    const auto prompt = tokens(5);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const auto check = [&](const GenerationConfig& config, std::initializer_list<std::string_view> parts) {
        check_unchanged<OptionError>(
            model(), session, [&] { session.generate(prompt, config); }, parts);
    };
    check({.max_new_tokens = -1}, {"max_new_tokens", "-1"});
    check({.do_sample = true, .temperature = -0.5f}, {"temperature", "-0.5"});
    check({.do_sample = true, .temperature = nan}, {"temperature", "nan"});
    check({.do_sample = true, .top_k = -2}, {"top_k", "-2"});
    check({.do_sample = true, .top_p = -0.1f}, {"top_p", "-0.1"});
    check({.do_sample = true, .top_p = 1.5f}, {"top_p", "1.5"});
    check({.do_sample = true, .min_p = nan}, {"min_p", "nan"});
    check({.repetition_penalty = 0.0f}, {"repetition_penalty", "0"});
    check({.top_k = 4}, {"top_k", "do_sample"});
    check({.seed = 4}, {"seed", "do_sample"});
    check({.stop_strings = {"a", ""}}, {"stop_strings[1]"});
    check({.eos_token_id = static_cast<TokenId>(n_vocab)}, {"eos_token_id", "259"});
    check({.eos_token_id = 3, .ignore_eos = true}, {"eos_token_id", "ignore_eos"});
}

TEST_CASE("streamed text in one piece is the result's text") {
    // A model without training gives random bytes: much of it is no UTF-8, and what is spans tokens.
    std::size_t replaced = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        CAPTURE(seed);
        const auto prompt = tokens(4, static_cast<std::uint32_t>(seed));
        std::string text;
        std::string bytes;
        std::vector<TokenId> ids;
        std::vector<float> logprobs;
        const auto result = Session(model()).generate(prompt,
                                                      {.max_new_tokens = 60,
                                                       .do_sample = true,
                                                       .seed = seed,
                                                       .stop_strings = {"\n", "e"},
                                                       .logprobs = true},
                                                      [&](const GeneratedToken& token) {
                                                          CHECK(token.index == ids.size());
                                                          text += token.text;
                                                          bytes += token.bytes;
                                                          ids.push_back(token.id);
                                                          logprobs.push_back(token.logprob.value());
                                                          return Flow::proceed;
                                                      });
        CHECK(text == result.text);
        CHECK(bytes == result.bytes);
        CHECK(ids == result.tokens);
        CHECK(logprobs == result.logprobs);
        gpt2::Utf8Stream utf8; // leaves valid text as it is
        CHECK(utf8.push(text) + utf8.flush() == text);
        replaced += text.find("\xef\xbf\xbd") != std::string::npos ? 1 : 0;
        CHECK(result.text.find_first_of("\ne") == std::string::npos);
        CHECK((result.finish_reason == FinishReason::stop_string) == !result.stop_string.empty());
    }
    CHECK(replaced > 0);
}

TEST_CASE("a text ends at a stop string, at the end-of-text token, or when the callback says so") {
    const auto prompt = tokens(20);
    const auto full = Session(model()).generate(prompt, greedy40);
    REQUIRE(full.tokens.size() == 40);
    SUBCASE("stop string") {
        const std::string stop = full.bytes.substr(10, 3);
        const std::size_t at = full.bytes.find(stop);
        GenerationConfig config = greedy40;
        config.stop_strings = {"never found", stop};
        Session session(model());
        const auto result = session.generate(prompt, config);
        CHECK(result.finish_reason == FinishReason::stop_string);
        CHECK(result.stop_string == stop);
        CHECK(result.bytes.starts_with(full.bytes.substr(0, at + 3)));
        CHECK(std::equal(result.tokens.begin(), result.tokens.end(), full.tokens.begin()));
        CHECK(session.position() == 20 + result.tokens.size() - 1);
    }
    SUBCASE("end of text") {
        const auto result =
            Session(model()).generate(prompt, {.max_new_tokens = 40, .eos_token_id = full.tokens[5]});
        const std::size_t n =
            static_cast<std::size_t>(std::ranges::find(full.tokens, full.tokens[5]) - full.tokens.begin()) +
            1;
        CHECK(result.finish_reason == FinishReason::eos);
        CHECK(std::ranges::equal(result.tokens, std::span(full.tokens).first(n)));
        CHECK(result.bytes == model().tokenizer().decode(std::span(full.tokens).first(n - 1)));
    }
    SUBCASE("callback") {
        Session session(model());
        const auto result = session.generate(prompt, greedy40, [](const GeneratedToken& token) {
            return token.index == 2 ? Flow::stop : Flow::proceed;
        });
        CHECK(result.finish_reason == FinishReason::callback);
        CHECK(std::ranges::equal(result.tokens, std::span(full.tokens).first(3)));
        CHECK(session.position() == 22);
    }
    SUBCASE("an exception from the callback reaches the caller, and the session goes on") {
        Session session(model());
        CHECK_THROWS_AS(session.generate(prompt, greedy40,
                                         [](const GeneratedToken& token) {
                                             if (token.index == 3) {
                                                 throw std::runtime_error("enough");
                                             }
                                             return Flow::proceed;
                                         }),
                        std::runtime_error);
        CHECK(session.position() == 23);
        GenerationConfig rest = greedy40;
        rest.max_new_tokens = 37;
        CHECK(std::ranges::equal(session.generate({}, rest).tokens, std::span(full.tokens).last(37)));
    }
    SUBCASE("a callback may use another session of the model") {
        std::vector<TokenId> inner;
        const auto result = Session(model()).generate(prompt, greedy40, [&](const GeneratedToken& token) {
            if (token.index == 1) {
                inner = greedy(prompt);
            }
            return Flow::proceed;
        });
        CHECK(result.tokens == full.tokens);
        CHECK(inner == full.tokens);
    }
}

TEST_CASE("guidance: what two sessions side by side give") {
    const auto prompt = tokens(7);
    const auto negative = tokens(4, 9);
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true};
    config.guidance_scale = 2.5f;
    config.negative_prompt_ids = negative;
    Session session(model());
    const auto result = session.generate(prompt, config);

    Session guided(model());
    Session unguided(model());
    std::vector<float> c = copy(guided.forward(prompt));
    std::vector<float> u = copy(unguided.forward(negative));
    std::vector<float> scratch;
    for (const TokenId token : result.tokens) {
        std::vector<double> scores(n_vocab);
        for (std::size_t i = 0; i < n_vocab; ++i) {
            const auto id = static_cast<TokenId>(i);
            const auto exp = gpt2::detail::exp_shifted_portable;
            const double log_c = gpt2::log_softmax(c, id, exp, scratch);
            const double log_u = gpt2::log_softmax(u, id, exp, scratch);
            scores[i] = 2.5 * (log_c - log_u) + log_u;
        }
        CHECK(token == std::max_element(scores.begin(), scores.end()) - scores.begin());
        c = copy(guided.forward({&token, 1}));
        u = copy(unguided.forward({&token, 1}));
    }
    CHECK(session.position() == prompt.size() + result.tokens.size() - 1);

    // 0 follows the negative prompt alone; without one, the last token of the prompt stands for it.
    config.guidance_scale = 0.0f;
    CHECK(Session(model()).generate(prompt, config).tokens ==
          Session(model()).generate(negative, {.max_new_tokens = 12, .ignore_eos = true}).tokens);
    config.negative_prompt_ids.clear();
    CHECK(Session(model()).generate(prompt, config).tokens ==
          Session(model())
              .generate(std::span(prompt).last(1), {.max_new_tokens = 12, .ignore_eos = true})
              .tokens);
}

TEST_CASE("guidance at the end of the context") {
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true};
    config.guidance_scale = 1.5f;
    config.negative_prompt_ids = tokens(n_positions - 11, 2);
    CHECK_THROWS_AS((void)Session(model()).generate(tokens(5), config), ContextError);
    config.overflow = Overflow::slide;
    CHECK(Session(model()).generate(tokens(5), config).tokens.size() == 12);
    CHECK(Session(model()).generate(tokens(n_positions - 3), config).tokens.size() == 12);
}
