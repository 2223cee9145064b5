// SPDX-License-Identifier: MIT

// What ends a forward pass or a text before it is complete, and what is left then. To be run under the thread
// sanitizer too.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stop_token>
#include <string_view>
#include <thread>
#include <vector>

using gpt2::BatchItem;
using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::Interrupt;
using gpt2::InterruptCause;
using gpt2::Interrupted;
using gpt2::Profile;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::make_model;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_layer = 3; // of test::odd_config()

const Gpt2Model& model() {
    static const Gpt2Model loaded = make_model(test::odd_config());
    return loaded;
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, test::byte_vocabulary_size, seed);
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

/// A clock that counts how often it is asked, and is at the deadline from one of these times on.
struct CountingClock {
    static inline std::size_t looks = 0;
    static inline std::size_t ends_at = 0;

    static Interrupt::Clock::time_point now() {
        return ++looks >= ends_at ? Interrupt::Clock::time_point::max() : Interrupt::Clock::time_point::min();
    }

    /// @param look  the first that finds the time over, counted from 1
    static Interrupt that_ends_at(std::size_t look) {
        looks = 0;
        ends_at = look;
        Interrupt interrupt;
        interrupt.deadline = Interrupt::Clock::time_point::max();
        interrupt.now = now;
        return interrupt;
    }
};

/// Requests the stop when the token of this index is there.
gpt2::StreamCallback stop_at(std::stop_source& source, std::size_t index) {
    return [&source, index](const GeneratedToken& token) {
        if (token.index == index) {
            source.request_stop();
        }
        return Flow::proceed;
    };
}

/// Layers that the passes of a session have begun.
std::size_t layers(const Profile& profile) {
    const auto events = profile.events();
    return static_cast<std::size_t>(std::ranges::count_if(
        events, [](const Profile::Event& event) { return std::string_view(event.name) == "h"; }));
}

/// Checks that a session is as one that has read @p all, bit for bit, and that it goes on like that.
void check_like_fresh(const Gpt2Model& of, Session& session, std::span<const TokenId> all) {
    REQUIRE(std::ranges::equal(session.tokens(), all));
    Session fresh(of);
    if (!all.empty()) {
        fresh.forward(all);
    }
    REQUIRE(session.logits().dim(0) == fresh.logits().dim(0));
    if (!all.empty()) {
        CHECK(mismatch(session.logits().flat(), fresh.logits().flat()) == "");
    }
    const auto more = tokens(3, 7);
    CHECK(mismatch(session.forward(more), copy(fresh.forward(more))) == "");
}

GenerationConfig some_text(std::int64_t n = 12) {
    return {.max_new_tokens = n,
            .do_sample = true,
            .temperature = 0.9f,
            .top_k = 50,
            .seed = 7,
            .logprobs = true,
            .ignore_eos = true};
}

/// Checks a text that ended early, and that the session goes on as if it had not.
void check_begin_of(const GenerationResult& result, FinishReason reason, Session& session,
                    std::span<const TokenId> prompt, const GenerationConfig& config) {
    const GenerationResult whole = Session(model()).generate(prompt, config);
    const std::size_t n = result.tokens.size();
    CHECK(result.finish_reason == reason);
    REQUIRE(n <= whole.tokens.size());
    CHECK(std::ranges::equal(result.tokens, std::span(whole.tokens).first(n)));
    CHECK(result.logprobs.size() == (config.logprobs ? n : 0));
    CHECK(whole.bytes.starts_with(result.bytes));
    CHECK(whole.text.starts_with(result.text));
    std::vector<TokenId> read(prompt.begin(), prompt.end());
    if (n == 0) {
        read.clear();
    } else {
        read.insert(read.end(), result.tokens.begin(), result.tokens.end() - 1);
    }
    check_like_fresh(model(), session, read);
}

} // namespace

TEST_CASE("a deadline: a pass ends before any layer, or before the head, and no session moves") {
    const auto prompt = tokens(20);
    const auto more = tokens(5, 2);
    for (std::size_t look = 1; look <= n_layer + 1; ++look) {
        CAPTURE(look);
        const auto profile = std::make_shared<Profile>();
        Session a(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
        Session b(model());
        a.forward(prompt);
        b.forward(std::span(prompt).first(9));
        profile->clear();
        const std::array items{BatchItem{&a, more}, BatchItem{&b, more}};
        const Interrupt interrupt = CountingClock::that_ends_at(look);
        try {
            gpt2::forward(items, interrupt);
            FAIL_CHECK("nothing was thrown");
        } catch (const Interrupted& interrupted) {
            CHECK(interrupted.cause() == InterruptCause::max_time);
        }
        CHECK(CountingClock::looks == look);
        CHECK(layers(*profile) == look - 1);
        check_like_fresh(model(), a, prompt);
        check_like_fresh(model(), b, std::span(prompt).first(9));
    }
}

TEST_CASE("a deadline that is not reached changes nothing") {
    const auto prompt = tokens(20);
    Session session(model());
    session.forward(prompt, CountingClock::that_ends_at(n_layer + 2));
    CHECK(CountingClock::looks == n_layer + 1);
    check_like_fresh(model(), session, prompt);
    Interrupt interrupt;
    CHECK_FALSE(interrupt.possible());
    CHECK_NOTHROW(interrupt.check());
    interrupt.deadline = Interrupt::Clock::time_point::max();
    CHECK(interrupt.possible());
    CHECK_NOTHROW(interrupt.check());
    interrupt.deadline = Interrupt::Clock::time_point::min();
    CHECK_THROWS_AS(interrupt.check(), Interrupted);
}

TEST_CASE("a deadline in a prompt of several passes") {
    gpt2::Config config = test::odd_config();
    config.n_positions = 700; // three times gpt2::detail::rows_per_pass, nearly
    const Gpt2Model large = make_model(config);
    const auto prompt = tokens(700);
    for (const std::size_t part : {0u, 1u, 2u}) {
        CAPTURE(part);
        const auto profile = std::make_shared<Profile>();
        Session session(large, {.pool = nullptr, .kv_dtype = {}, .profile = profile});
        session.forward(std::span(prompt).first(100));
        profile->clear();
        const std::size_t look = part * (n_layer + 1) + 2;
        CHECK_THROWS_AS(
            (void)session.forward(std::span(prompt).subspan(100, 590), CountingClock::that_ends_at(look)),
            Interrupted);
        CHECK(layers(*profile) == part * n_layer + 1);
        check_like_fresh(large, session, std::span(prompt).first(100));
    }
}

TEST_CASE("max_time is over before the prompt is read") {
    GenerationConfig config = some_text();
    config.max_time = 0.0;
    std::size_t calls = 0;
    const auto count = [&calls](const GeneratedToken&) {
        ++calls;
        return Flow::proceed;
    };
    const auto profile = std::make_shared<Profile>();
    Session session(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
    SUBCASE("a new session") {
        const auto prompt = tokens(20);
        const auto result = session.generate(prompt, config, count);
        CHECK(result.prompt_tokens == 20);
        check_begin_of(result, FinishReason::max_time, session, prompt, some_text());
    }
    SUBCASE("one that has read something, with a prompt and without") {
        const auto before = tokens(9);
        session.forward(before);
        profile->clear();
        for (const auto& prompt : {tokens(5, 2), std::vector<TokenId>()}) {
            const auto result = session.generate(prompt, config, count);
            CHECK(result.finish_reason == FinishReason::max_time);
            CHECK(result.tokens.empty());
            CHECK(result.text.empty());
        }
        CHECK(layers(*profile) == 0);
        check_like_fresh(model(), session, before);
    }
    SUBCASE("no new tokens were wanted") {
        config.max_new_tokens = 0;
        CHECK(session.generate(tokens(5), config, count).finish_reason == FinishReason::max_time);
        CHECK(session.position() == 0);
    }
    SUBCASE("a negative prompt") {
        config.guidance_scale = 1.5f;
        CHECK(session.generate(tokens(5), config, count).finish_reason == FinishReason::max_time);
        CHECK(session.position() == 0);
    }
    CHECK(calls == 0);
}

TEST_CASE("max_time is over while a callback runs") {
    const auto prompt = tokens(20);
    GenerationConfig config = some_text();
    config.max_time = 0.02;
    Session session(model());
    const auto wait = [](const GeneratedToken& token) {
        const auto begin = Interrupt::Clock::now();
        while (token.index == 3 && Interrupt::Clock::now() - begin <= std::chrono::milliseconds(20)) {
        }
        return Flow::proceed;
    };
    const auto result = session.generate(prompt, config, wait);
    CHECK(result.tokens.size() <= 4); // the fourth, unless this machine took as long as that before
    check_begin_of(result, FinishReason::max_time, session, prompt, some_text());
}

TEST_CASE("max_time that is not over changes nothing") {
    const auto prompt = tokens(20);
    for (const double seconds : {1e6, 1e300, std::numeric_limits<double>::infinity()}) {
        GenerationConfig config = some_text();
        config.max_time = seconds;
        Session session(model());
        const auto result = session.generate(prompt, config);
        CHECK(result.tokens.size() == 12);
        check_begin_of(result, FinishReason::length, session, prompt, some_text());
    }
}

TEST_CASE("cancelled before it begins: no work") {
    std::stop_source source;
    source.request_stop();
    const auto before = tokens(9);
    const auto more = tokens(5, 2);
    const auto profile = std::make_shared<Profile>();
    Session session(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
    session.forward(before);
    profile->clear();
    GenerationConfig config = some_text();
    config.cancellation = source.get_token();
    SUBCASE("alone") {}
    SUBCASE("and max_time is over: the request counts") {
        config.max_time = 0.0;
    }
    for (const auto& prompt : {more, std::vector<TokenId>()}) {
        const auto result = session.generate(prompt, config);
        CHECK(result.finish_reason == FinishReason::cancelled);
        CHECK(result.tokens.empty());
        CHECK(result.prompt_tokens == prompt.size());
    }
    try {
        session.forward(more, {.cancellation = source.get_token()});
        FAIL_CHECK("nothing was thrown");
    } catch (const Interrupted& interrupted) {
        CHECK(interrupted.cause() == InterruptCause::cancelled);
    }
    CHECK(layers(*profile) == 0);
    check_like_fresh(model(), session, before);
    config.max_new_tokens = -1; // an option that makes no sense is one all the same
    CHECK_THROWS_AS((void)session.generate(more, config), gpt2::OptionError);
}

TEST_CASE("a callback requests the stop: the text up to its token") {
    const auto prompt = tokens(20);
    for (const bool logprobs : {false, true}) {
        GenerationConfig config = some_text();
        config.logprobs = logprobs;
        std::stop_source source;
        GenerationConfig with = config;
        with.cancellation = source.get_token();
        const auto profile = std::make_shared<Profile>();
        Session session(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
        const auto result = session.generate(prompt, with, stop_at(source, 4));
        CHECK(result.tokens.size() == 5);
        CHECK(layers(*profile) == 5 * n_layer); // the prompt and four tokens
        check_begin_of(result, FinishReason::cancelled, session, prompt, config);
    }
}

TEST_CASE("a stop that is requested with the last token comes too late") {
    const auto prompt = tokens(20);
    std::stop_source source;
    GenerationConfig config = some_text();
    config.cancellation = source.get_token();
    Session session(model());
    const auto result = session.generate(prompt, config, stop_at(source, 11));
    CHECK(result.tokens.size() == 12);
    check_begin_of(result, FinishReason::length, session, prompt, some_text());
}

TEST_CASE("a screened head: the logits are complete after a stop") {
    const Gpt2Model screened = make_model(test::odd_config(), {}, {.screen_head = true});
    const auto prompt = tokens(20);
    const GenerationConfig plain{.max_new_tokens = 12, .ignore_eos = true};
    std::stop_source source;
    GenerationConfig config = plain;
    config.cancellation = source.get_token();
    Session session(screened);
    const auto result = session.generate(prompt, config, stop_at(source, 4));
    CHECK(result.tokens.size() == 5);
    CHECK(result.screening.tokens > 0);
    check_begin_of(result, FinishReason::cancelled, session, prompt, plain);
}

TEST_CASE("a stop while the window slides leaves the session empty, and usable") {
    gpt2::Config shape = test::odd_config();
    shape.n_positions = 20;
    const Gpt2Model small = make_model(shape);
    std::stop_source source;
    GenerationConfig config = some_text();
    config.overflow = gpt2::Overflow::slide;
    config.cancellation = source.get_token();
    Session session(small);
    const auto result =
        session.generate(tokens(18), config, stop_at(source, 2)); // which finds the context full
    CHECK(result.finish_reason == FinishReason::cancelled);
    CHECK(result.tokens.size() == 3);
    check_like_fresh(small, session, {});
}

TEST_CASE("guidance: a stop leaves the session of the prompt without the token") {
    gpt2::Config shape = test::odd_config();
    shape.n_positions = 30;
    const Gpt2Model small = make_model(shape);
    GenerationConfig config = some_text();
    config.guidance_scale = 1.5f;
    config.negative_prompt_ids = tokens(28, 3); // its session is full after two tokens
    config.overflow = gpt2::Overflow::slide;
    const auto prompt = tokens(10);
    for (const std::size_t index : {1u, 2u}) {
        CAPTURE(index);
        std::stop_source source;
        config.cancellation = source.get_token();
        Session session(small);
        const auto result = session.generate(prompt, config, stop_at(source, index));
        CHECK(result.finish_reason == FinishReason::cancelled);
        std::vector<TokenId> read = prompt;
        read.insert(read.end(), result.tokens.begin(), result.tokens.end() - 1);
        CHECK(read.size() == 10 + index);
        check_like_fresh(small, session, read);
    }
}

TEST_CASE("a draft model's pass ends too") {
    const auto prompt = tokens(20, 3);
    const auto profile = std::make_shared<Profile>();
    GenerationConfig config = some_text();
    const auto expected = Session(model()).generate(prompt, config).tokens;
    std::stop_source source;
    config.cancellation = source.get_token();
    config.assistant_model = std::make_shared<gpt2::DraftModel>(
        make_model(test::odd_config(), {}, {}, 5), gpt2::SessionOptions{.pool = nullptr, .profile = profile});
    config.num_assistant_tokens = 1; // so that each token of this draft, which is bad at it, has a pass
    std::size_t before = 0;
    Session session(model());
    const auto result = session.generate(prompt, config, [&](const GeneratedToken& token) {
        if (token.index == 4) {
            source.request_stop();
            before = layers(*profile);
        }
        return Flow::proceed;
    });
    CHECK(result.finish_reason == FinishReason::cancelled);
    CHECK(std::ranges::equal(result.tokens, std::span(expected).first(5)));
    CHECK(before > 0);
    CHECK(layers(*profile) == before);
    CHECK(result.speculation.accepted <= result.speculation.proposed);
    std::vector<TokenId> all = prompt;
    all.insert(all.end(), expected.begin(), expected.begin() + 4);
    check_like_fresh(model(), session, all);
}

TEST_CASE("a stop of somebody else's pass, in a callback, is an exception like any other") {
    std::stop_source source;
    source.request_stop();
    Session session(model());
    Session other(model());
    const auto interrupted = [&](const GeneratedToken&) {
        other.forward(tokens(3), {.cancellation = source.get_token()});
        return Flow::proceed;
    };
    CHECK_THROWS_AS((void)session.generate(tokens(5), some_text(), interrupted), Interrupted);
}

TEST_CASE("another thread requests the stop in the middle of a pass: it ends before the next layer") {
    const auto prompt = tokens(20);
    for (std::size_t look = 1; look <= n_layer; ++look) {
        CAPTURE(look);
        static std::stop_source* source = nullptr;
        static std::size_t looks_left = 0;
        std::stop_source here;
        source = &here;
        looks_left = look;
        const Interrupt interrupt{
            .cancellation = here.get_token(), .deadline = Interrupt::Clock::time_point::max(), .now = [] {
                if (--looks_left == 0) {
                    std::thread([] { source->request_stop(); }).join();
                }
                return Interrupt::Clock::time_point::min();
            }};
        const auto profile = std::make_shared<Profile>();
        Session session(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
        session.forward(prompt);
        profile->clear();
        CHECK_THROWS_AS((void)session.forward(tokens(5, 2), interrupt), Interrupted);
        CHECK(layers(*profile) == look);
        check_like_fresh(model(), session, prompt);
    }
}

TEST_CASE("another thread requests the stop while a pass waits for its turn") {
    const auto prompt = tokens(20);
    const auto pool = std::make_shared<gpt2::ThreadPool>(2);
    const auto profile = std::make_shared<Profile>();
    std::stop_source source;
    GenerationConfig config = some_text();
    config.cancellation = source.get_token();
    Session session(model(), {.pool = pool, .kv_dtype = {}, .profile = profile});
    GenerationResult result;
    std::thread worker;
    {
        const auto turn = pool->take_turn();
        worker = std::thread([&] { result = session.generate(prompt, config); });
        source.request_stop(); // wherever the worker is
    }
    worker.join();
    CHECK(layers(*profile) == 0);
    check_begin_of(result, FinishReason::cancelled, session, prompt, some_text());
}

TEST_CASE("another thread requests the stop at any time: the begin of the text, and the session goes on") {
    const auto prompt = tokens(40);
    const GenerationConfig config = some_text(30);
    for (std::size_t begun = 0; begun < 40; begun += 3) { // layers; all are 90
        CAPTURE(begun);
        const auto profile = std::make_shared<Profile>();
        std::stop_source source;
        GenerationConfig with = config;
        with.cancellation = source.get_token();
        Session session(model(), {.pool = nullptr, .kv_dtype = {}, .profile = profile});
        std::thread stopper([&] {
            while (layers(*profile) < begun) {
                std::this_thread::yield();
            }
            source.request_stop();
        });
        const GenerationResult result = session.generate(prompt, with);
        stopper.join();
        check_begin_of(result, result.tokens.size() == 30 ? FinishReason::length : FinishReason::cancelled,
                       session, prompt, config);
    }
}

TEST_CASE("deadlines") {
    using Clock = Interrupt::Clock;
    const Clock::time_point start{std::chrono::hours(10)};
    CHECK(gpt2::deadline_after(start, 0.0) == start);
    CHECK(gpt2::deadline_after(start, 1.5) == start + std::chrono::milliseconds(1500));
    CHECK(gpt2::deadline_after(start, 1e8) == start + std::chrono::seconds(100'000'000));
    CHECK_FALSE(gpt2::deadline_after(start, 1e9));
    CHECK_FALSE(gpt2::deadline_after(start, std::numeric_limits<double>::infinity()));
    GenerationConfig config;
    CHECK_FALSE(gpt2::interrupt_of(config).possible());
    config.max_time = std::numeric_limits<double>::infinity();
    CHECK_FALSE(gpt2::interrupt_of(config).possible());
    config.max_time = 1.0;
    CHECK(gpt2::interrupt_of(config).possible());
    const std::stop_source source;
    config = {};
    config.cancellation = source.get_token();
    CHECK(gpt2::interrupt_of(config).possible());
}
