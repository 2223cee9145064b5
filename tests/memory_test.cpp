// SPDX-License-Identifier: MIT

// What is kept in memory: the prefix cache, which changes no result and stays within its bound; and that the
// memory of long work ends to grow.

#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GPT2_TEST_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GPT2_TEST_SANITIZED
#endif
#if defined(__GLIBC__) && !defined(GPT2_TEST_SANITIZED) // a sanitizer has an allocator of its own
#if __GLIBC_PREREQ(2, 33)
#include <malloc.h>
#define GPT2_TEST_MALLINFO
#endif
#endif

using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::OptionError;
using gpt2::Overflow;
using gpt2::PrefixCache;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::joined;
using gpt2::test::make_model;
namespace test = gpt2::test;

namespace {

const Gpt2Model& model() {
    static const Gpt2Model loaded = make_model();
    return loaded;
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, test::byte_vocabulary_size, seed);
}

/// The memory that a block of the default cache is counted with.
std::size_t block_bytes() {
    PrefixCache cache(model());
    Session session(model());
    session.forward(tokens(1));
    cache.store(session);
    REQUIRE(cache.statistics().blocks == 1);
    return cache.statistics().bytes;
}

PrefixCache cache_of(std::size_t n_blocks) {
    return PrefixCache(model(), {.max_bytes = n_blocks * block_bytes()});
}

void store(PrefixCache& cache, std::span<const TokenId> text) {
    Session session(model());
    session.forward(text);
    cache.store(session);
}

/// What the cache knows of a text, which is given a token more, as the last is never taken from it.
std::size_t known(PrefixCache& cache, std::span<const TokenId> text) {
    return cache.session(joined({text.begin(), text.end()}, std::vector<TokenId>{0})).position();
}

GenerationConfig some_text(std::uint64_t sample, std::int64_t n = 8) {
    return {.max_new_tokens = n,
            .do_sample = true,
            .temperature = 0.9f,
            .repetition_penalty = 1.2f,
            .seed = 7,
            .sample = sample,
            .logprobs = true,
            .ignore_eos = true};
}

void check_same(const GenerationResult& found, const GenerationResult& expected) {
    CHECK(found.tokens == expected.tokens);
    CHECK(found.logprobs == expected.logprobs);
    CHECK(found.text == expected.text);
    CHECK(found.prompt_tokens == expected.prompt_tokens);
    CHECK(found.finish_reason == expected.finish_reason);
}

/// Prompts that share what they begin with, in any lengths.
class Prompts {
public:
    std::vector<TokenId> next() {
        std::vector<TokenId> prompt;
        if (!earlier_.empty()) {
            const auto& one = earlier_[random_() % earlier_.size()];
            prompt.assign(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(random_() % one.size()));
        }
        const std::size_t more = 1 + random_() % (140 - prompt.size());
        prompt = joined(std::move(prompt), tokens(more, static_cast<std::uint32_t>(random_())));
        earlier_.push_back(prompt);
        return prompt;
    }

private:
    std::mt19937 random_{3};
    std::vector<std::vector<TokenId>> earlier_;
};

} // namespace

TEST_CASE("prefix cache: every result is the one without it, and bytes stay within the bound") {
    for (const std::size_t n_blocks : {1u, 2u, 5u, 1000u}) {
        for (const KvDtype dtype : {KvDtype::float32, KvDtype::float16}) {
            CAPTURE(n_blocks);
            CAPTURE(gpt2::to_string(dtype));
            const gpt2::SessionOptions options{.pool = nullptr, .kv_dtype = dtype};
            const std::size_t most = n_blocks * block_bytes();
            PrefixCache cache(model(), {.max_bytes = most, .session = options});
            Prompts prompts;
            for (std::uint64_t i = 0; i < 40; ++i) {
                const std::vector<TokenId> prompt = prompts.next();
                check_same(cache.generate(prompt, some_text(i)),
                           Session(model(), options).generate(prompt, some_text(i)));
                CHECK(cache.statistics().bytes <= most);
            }
            const gpt2::PrefixCacheStatistics found = cache.statistics();
            CHECK(found.sessions == 40);
            CHECK(found.hits > 0);
            CHECK((found.evicted_blocks == 0) == (n_blocks == 1000));
        }
    }
}

TEST_CASE("prefix cache: reuses all that any earlier text had in common") {
    PrefixCache cache(model());
    std::vector<std::vector<TokenId>> texts;
    Prompts prompts;
    std::uint64_t asked = 0;
    std::uint64_t reused = 0;
    for (std::size_t i = 0; i < 60; ++i) {
        const std::vector<TokenId> prompt = prompts.next();
        std::size_t expected = 0;
        for (const auto& text : texts) {
            const auto differ = std::ranges::mismatch(text, prompt).in2;
            expected = std::max(expected, static_cast<std::size_t>(differ - prompt.begin()));
        }
        expected = std::min(expected, prompt.size() - 1);
        Session session = cache.session(prompt);
        CHECK(session.position() == expected);
        CHECK(std::ranges::equal(session.tokens(), std::span(prompt).first(expected)));
        session.forward(std::span(prompt).subspan(expected));
        cache.store(session);
        texts.push_back(prompt);
        asked += prompt.size();
        reused += expected;
    }
    CHECK(cache.statistics().tokens_asked == asked);
    CHECK(cache.statistics().tokens_reused == reused);
    CHECK(reused > asked / 4);

    cache.clear();
    CHECK(cache.statistics().bytes == 0);
    CHECK(cache.session(texts[0]).position() == 0);
    store(cache, texts[0]);
    CHECK(known(cache, texts[0]) == texts[0].size());
}

TEST_CASE("prefix cache: the block that was not used for longest goes, and none that another stands on") {
    PrefixCache cache = cache_of(3);
    const auto a = tokens(64, 1);
    const auto b = tokens(20, 2);
    const auto c = tokens(30, 3);
    const auto ab = joined(a, b);
    store(cache, ab);
    store(cache, c);
    CHECK(cache.statistics().blocks == 3);

    SUBCASE("a text that was used stays") {
        CHECK(known(cache, ab) == 84);
        store(cache, tokens(10, 4));
        CHECK(known(cache, ab) == 84);
        CHECK(known(cache, c) == 0);
    }
    SUBCASE("the end of a text goes before its begin") {
        store(cache, tokens(10, 4));
        CHECK(known(cache, ab) == 64);
        CHECK(known(cache, c) == 30);
        store(cache, tokens(10, 5));
        CHECK(known(cache, tokens(10, 4)) == 0);
        CHECK(known(cache, ab) == 64);
    }
    SUBCASE("a begin that many texts share stays") {
        for (std::uint32_t i = 0; i < 10; ++i) {
            store(cache, joined(a, tokens(5, 10 + i)));
            CHECK(known(cache, a) == 64);
        }
        CHECK(known(cache, joined(a, tokens(5, 18))) == 69);
        CHECK(known(cache, joined(a, tokens(5, 17))) == 64);
    }
    SUBCASE("a text with more than there is room for: its begin") {
        PrefixCache small = cache_of(2);
        store(small, c);
        const auto all = tokens(150, 6);
        store(small, all);
        CHECK(known(small, std::span(all).first(149)) == 128);
        CHECK(known(small, c) == 0);
        store(small, all); // changes nothing
        CHECK(small.statistics().evicted_blocks == 1);
    }
    CHECK(cache.statistics().blocks == 3);
}

TEST_CASE("prefix cache: a text that goes on takes no further block before the 64 are full") {
    PrefixCache cache(model());
    const auto all = tokens(70, 1);
    for (std::size_t n = 1; n <= all.size(); ++n) {
        store(cache, std::span(all).first(n));
        CHECK(cache.statistics().blocks == (n + 63) / 64);
        CHECK(known(cache, std::span(all).first(n)) == n);
    }
    store(cache, std::span(all).first(10)); // known already
    CHECK(cache.statistics().blocks == 2);
    store(cache, joined({all.begin(), all.begin() + 10}, tokens(3, 9)));
    CHECK(cache.statistics().blocks == 3);
}

TEST_CASE("prefix cache: contexts that are too long, conversations, texts that end early") {
    PrefixCache cache = cache_of(4);
    const auto prompt = tokens(200, 1);
    GenerationConfig config = some_text(0, 100);
    for (const auto overflow : {Overflow::truncate_left, Overflow::slide}) {
        config.overflow = overflow;
        for (std::size_t n = 40; n <= 200; n += 40) {
            const auto part = std::span(prompt).first(n);
            const GenerationResult expected = Session(model()).generate(part, config);
            check_same(cache.generate(part, config), expected);
            check_same(cache.generate(part, config), expected);
        }
    }
    config.overflow = Overflow::error;
    CHECK_THROWS_AS((void)cache.generate(prompt, config), gpt2::ContextError);
    config.max_new_tokens = -1;
    CHECK_THROWS_AS((void)cache.generate(prompt, config), OptionError);
    config.max_new_tokens = 10;

    const auto begin = std::span(prompt).first(50);
    const auto stop = [](const gpt2::GeneratedToken& token) {
        return token.index == 3 ? gpt2::Flow::stop : gpt2::Flow::proceed;
    };
    CHECK(cache.generate(begin, config, stop).finish_reason == gpt2::FinishReason::callback);
    const auto fail = [](const gpt2::GeneratedToken&) -> gpt2::Flow { throw std::runtime_error("no"); };
    CHECK_THROWS_AS((void)cache.generate(begin, config, fail), std::runtime_error);
    const GenerationResult text = cache.generate(begin, config);
    check_same(text, Session(model()).generate(begin, config));
    const auto next = joined(joined({begin.begin(), begin.end()}, text.tokens), tokens(5, 8));
    CHECK(known(cache, next) == 59); // the last token of a text is not read
    check_same(cache.generate(next, config), Session(model()).generate(next, config));
    check_same(cache.generate("the king", config), model().generate("the king", config));
    check_same(cache.generate("", config), model().generate("", config));
}

TEST_CASE("prefix cache: what it refuses") {
    check_throws<OptionError>([] { const PrefixCache cache(model(), {.max_bytes = block_bytes() - 1}); },
                              {"max_bytes is", "expected", "64 positions"});
    check_throws<OptionError>(
        [] {
            const auto recorder = std::make_shared<gpt2::Recorder>(gpt2::Recorder::What{});
            const PrefixCache cache(model(), {.session = {.observer = recorder}});
        },
        {"PrefixCacheOptions::session", "observer"});
    PrefixCache cache(model());
    check_throws<OptionError>([&] { cache.store(Session(make_model())); }, {"PrefixCache::store", "model"});
    check_throws<OptionError>(
        [&] { cache.store(Session(model(), {.pool = nullptr, .kv_dtype = KvDtype::float16})); },
        {"PrefixCache::store", "type of keys"});
    cache.store(Session(model())); // without tokens: nothing to remember
    CHECK(cache.statistics().blocks == 0);
    CHECK(cache.session({}).position() == 0);
}

#if defined(GPT2_TEST_MALLINFO)

namespace {

/// Bytes that are in use, as the C library knows them.
std::size_t live_bytes() {
    const auto info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/// What freed memory may still count as in use; one lost allocation for each token would be more than 2 MB.
constexpr std::size_t slack = 16384;

constexpr std::size_t first_look = 10'000;
constexpr std::size_t last_look = 100'000;

/// Small, so that a hundred thousand tokens take a second; one thread, so that no other allocates.
struct Small {
    Gpt2Model model;
    gpt2::SessionOptions options{.pool = std::make_shared<gpt2::ThreadPool>(1)};

    Small() : model(make_model(config())) {}

    static gpt2::Config config() {
        gpt2::Config config;
        config.vocab_size = test::byte_vocabulary_size;
        config.n_positions = 64;
        config.n_embd = 8;
        config.n_head = 1;
        config.n_layer = 1;
        config.n_inner = 8;
        config.bos_token_id = config.eos_token_id = 256;
        return config;
    }
};

GenerationConfig endless(std::size_t n) {
    return {.max_new_tokens = static_cast<std::int64_t>(n),
            .do_sample = true,
            .top_k = 40,
            .seed = 1,
            .ignore_eos = true,
            .overflow = Overflow::slide};
}

/// Calls write(i), which writes @p n tokens, until there are a hundred thousand.
template <class Write> void check_bounded(std::size_t n, Write write) {
    std::size_t before = 0;
    std::size_t after = 0;
    for (std::size_t done = 0; done < last_look; done += n) {
        CHECK(write(done / n).tokens.size() == n);
        (done + n == first_look ? before : after) = live_bytes();
    }
    CAPTURE(before);
    CHECK(before > 0);
    CHECK(after <= before + slack);
}

} // namespace

TEST_CASE("memory: a hundred thousand tokens of one text cost what the result is") {
    const Small small;
    Session session(small.model, small.options);
    std::size_t before = 0;
    std::size_t after = 0;
    const auto look = [&](const gpt2::GeneratedToken& token) {
        if (token.index + 1 == first_look) {
            before = live_bytes();
        } else if (token.index + 1 == last_look) {
            after = live_bytes();
        }
        return gpt2::Flow::proceed;
    };
    const GenerationResult result = session.generate(tokens(10), endless(last_look), look);
    REQUIRE(result.tokens.size() == last_look);
    // Whatever grows by doubling has room for twice what is in it.
    const std::size_t most =
        2 * (result.tokens.size() * sizeof(TokenId) + result.text.size() + result.bytes.size());
    CHECK(before > 0);
    CHECK(after <= before + most + slack);
}

TEST_CASE("memory: a hundred thousand tokens in pieces leave nothing behind") {
    const Small small;
    SUBCASE("in one session") {
        Session session(small.model, small.options);
        check_bounded(100, [&](std::size_t i) {
            return session.generate(tokens(3, static_cast<std::uint32_t>(i)), endless(100));
        });
    }
    SUBCASE("in one session, with proposals and processors that read the text") {
        Session session(small.model, small.options);
        GenerationConfig config = endless(100);
        config.prompt_lookup_num_tokens = 3;
        config.no_repeat_ngram_size = 4;
        config.frequency_penalty = 0.1f;
        check_bounded(100, [&](std::size_t i) {
            return session.generate(tokens(3, static_cast<std::uint32_t>(i)), config);
        });
    }
    SUBCASE("in many sessions") {
        check_bounded(50, [&](std::size_t i) {
            Session session(small.model, small.options);
            return session.generate(tokens(20, static_cast<std::uint32_t>(i)), endless(50));
        });
    }
    SUBCASE("with a prefix cache, which is soon full") {
        PrefixCache cache(small.model, {.max_bytes = 100'000, .session = small.options});
        check_bounded(50, [&](std::size_t i) {
            return cache.generate(tokens(20 + i % 7, static_cast<std::uint32_t>(i % 100)), endless(50));
        });
        CHECK(cache.statistics().hits > 0);
        CHECK(cache.statistics().evicted_blocks > 1000);
    }
}

TEST_CASE("memory: a prefix cache takes what it says") {
    const Small small;
    PrefixCache cache(small.model, {.max_bytes = 3'000'000, .session = small.options});
    const std::size_t before = live_bytes();
    for (std::uint32_t i = 0; i < 1000; ++i) {
        Session session(small.model, small.options);
        session.forward(tokens(30, i));
        cache.store(session);
    }
    const std::size_t taken = live_bytes() - before;
    const gpt2::PrefixCacheStatistics found = cache.statistics();
    CHECK(found.evicted_blocks > 0);
    CHECK(found.bytes <= 3'000'000);
    CHECK(taken <= found.bytes + 32 * found.blocks + slack); // and the C library's own for two pieces
    CHECK(taken + slack >= found.bytes);
}

#endif
