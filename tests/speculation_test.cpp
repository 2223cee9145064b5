// SPDX-License-Identifier: MIT

// Speculative decoding: whatever is proposed, everything is as without.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

using gpt2::Draft;
using gpt2::Drafter;
using gpt2::DraftRequest;
using gpt2::FinishReason;
using gpt2::Flow;
using gpt2::GeneratedToken;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::look_up;
using gpt2::OptionError;
using gpt2::Overflow;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::loaded_novella;
using gpt2::test::make_model;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_positions = 150; // of test::odd_config()
constexpr std::size_t n_vocab = test::byte_vocabulary_size;

const Gpt2Model& model() {
    return test::loaded_odd();
}

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, n_vocab, seed);
}

/// A text in which something may be looked up: some tokens, again and again.
std::vector<TokenId> repetitive(std::size_t n, std::uint32_t seed = 1) {
    const std::vector<TokenId> part = tokens(7, seed);
    std::vector<TokenId> result(n);
    for (std::size_t i = 0; i < n; ++i) {
        result[i] = part[i % part.size()];
    }
    return result;
}

/// Proposes what a function says.
class Proposals : public Drafter {
public:
    using Function = std::function<std::vector<TokenId>(std::span<const TokenId> context, std::size_t most)>;

    explicit Proposals(Function propose) : propose_(std::move(propose)) {}

    [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest& request) const override {
        CHECK(request.config.assistant_model.get() == this);
        return std::make_unique<One>(propose_);
    }

private:
    struct One : Draft {
        explicit One(Function function) : propose_function(std::move(function)) {}
        [[nodiscard]] std::vector<TokenId> propose(std::span<const TokenId> context,
                                                   std::size_t most) override {
            return propose_function(context, most);
        }
        Function propose_function;
    };

    Function propose_;
};

std::shared_ptr<const Drafter> proposing(Proposals::Function function) {
    return std::make_shared<Proposals>(std::move(function));
}

/// Knows how the text goes on. @param whole  prompt and text
/// @param change  a proposal and its place in the text -> what is proposed instead
std::shared_ptr<const Drafter> knowing(std::vector<TokenId> whole,
                                       std::function<TokenId(TokenId, std::size_t)> change = {}) {
    return proposing([whole = std::move(whole), change](std::span<const TokenId> context, std::size_t most) {
        std::vector<TokenId> proposed;
        for (std::size_t i = context.size(); i < std::min(whole.size(), context.size() + most); ++i) {
            proposed.push_back(change ? change(whole[i], i) : whole[i]);
        }
        return proposed;
    });
}

TokenId another(TokenId token) {
    return (token + 1) % static_cast<TokenId>(n_vocab);
}

/// All that a callback can see.
struct Seen {
    TokenId id = 0;
    std::string text, bytes;
    std::size_t index = 0;
    std::optional<float> logprob;
    std::vector<TokenId> held;
    std::vector<float> logits;

    bool operator==(const Seen&) const = default;
};

/// A text with everything that was seen on the way, and the session it was written in.
struct Run {
    GenerationResult result;
    std::vector<Seen> seen;
    std::string error;
    Session session;
};

using Stop = std::function<Flow(const GeneratedToken&)>;

Run run(const Gpt2Model& of, KvDtype cache, std::span<const TokenId> prompt, const GenerationConfig& config,
        const Stop& stop = {}) {
    Run run{{}, {}, {}, Session(of, {.pool = nullptr, .kv_dtype = cache})};
    try {
        run.result = run.session.generate(prompt, config, [&](const GeneratedToken& token) {
            const auto logits = run.session.logits().flat();
            const auto held = run.session.tokens();
            run.seen.push_back({token.id,
                                std::string(token.text),
                                std::string(token.bytes),
                                token.index,
                                token.logprob,
                                {held.begin(), held.end()},
                                {logits.begin(), logits.end()}});
            return stop ? stop(token) : Flow::proceed;
        });
    } catch (const std::exception& e) {
        run.error = e.what();
    }
    return run;
}

/// Compares two texts, and two sessions: what they hold, and how they go on.
void check_same(Run& found, Run& plain) {
    CHECK(found.error == plain.error);
    const GenerationResult& a = found.result;
    const GenerationResult& b = plain.result;
    REQUIRE(a.tokens == b.tokens);
    CHECK(a.text == b.text);
    CHECK(a.bytes == b.bytes);
    CHECK(a.logprobs == b.logprobs);
    CHECK(a.finish_reason == b.finish_reason);
    CHECK(a.stop_string == b.stop_string);
    CHECK(a.seed == b.seed);
    CHECK(a.prompt_tokens == b.prompt_tokens);
    CHECK(found.seen == plain.seen);
    CHECK(std::ranges::equal(found.session.tokens(), plain.session.tokens()));
    CHECK(found.session.logits().dim(0) == plain.session.logits().dim(0));
    CHECK(std::ranges::equal(found.session.logits().flat(), plain.session.logits().flat()));
    for (std::uint32_t turn = 0; turn < 2 && plain.session.position() + 3 <= n_positions; ++turn) {
        const auto more = tokens(3, turn);
        CHECK(mismatch(found.session.forward(more), plain.session.forward(more)) == "");
    }
}

/// Writes a text without and with speculation, which has to be the same. @returns what became of proposals
gpt2::Speculation compare(const Gpt2Model& of, KvDtype cache, std::span<const TokenId> prompt,
                          GenerationConfig config, const std::function<void(GenerationConfig&)>& speculate,
                          const Stop& stop = {}) {
    Run plain = run(of, cache, prompt, config, stop);
    CHECK(plain.result.speculation.passes == 0);
    speculate(config);
    Run found = run(of, cache, prompt, config, stop);
    check_same(found, plain);
    const gpt2::Speculation& what = found.result.speculation;
    CHECK(what.accepted <= what.proposed);
    if (plain.error.empty() && !found.result.tokens.empty()) {
        // Each pass gives a token of its own and those that were accepted, but for one that ended the text.
        const std::size_t chosen = what.passes + 1 + what.accepted;
        CHECK((chosen == found.result.tokens.size() || chosen == found.result.tokens.size() + 1));
    }
    return what;
}

std::function<void(GenerationConfig&)> lookup(std::int64_t n, std::optional<std::int64_t> size = {}) {
    return [=](GenerationConfig& config) {
        config.prompt_lookup_num_tokens = n;
        config.max_matching_ngram_size = size;
    };
}

std::function<void(GenerationConfig&)> assistant(std::shared_ptr<const Drafter> drafter,
                                                 std::optional<std::int64_t> n = {}) {
    return [=](GenerationConfig& config) {
        config.assistant_model = drafter;
        config.num_assistant_tokens = n;
    };
}

/// Ways to choose tokens, from the plainest to those that look at the whole text.
std::vector<GenerationConfig> ways() {
    std::vector<GenerationConfig> list;
    list.push_back({.max_new_tokens = 30});
    list.push_back({.max_new_tokens = 30, .repetition_penalty = 1.3f, .logprobs = true});
    list.push_back({.max_new_tokens = 30, .no_repeat_ngram_size = 2});
    list.push_back({.max_new_tokens = 30, .do_sample = true, .seed = 1});
    list.push_back({.max_new_tokens = 30, .do_sample = true, .temperature = 0.3f, .top_k = 5, .seed = 2});
    list.push_back({.max_new_tokens = 30,
                    .do_sample = true,
                    .temperature = 0.2f,
                    .top_p = 0.9f,
                    .repetition_penalty = 1.1f,
                    .seed = 3,
                    .sample = 4,
                    .logprobs = true,
                    .presence_penalty = 0.2f,
                    .frequency_penalty = 0.1f,
                    .penalty_last_n = 9,
                    .no_repeat_ngram_size = 3,
                    .dry = gpt2::sampling::Dry{}});
    list.push_back({.max_new_tokens = 30,
                    .do_sample = true,
                    .temperature = 0.3f,
                    .seed = 5,
                    .min_new_tokens = 20,
                    .mirostat = gpt2::sampling::Mirostat{.tau = 2.0f}});
    list.push_back({.max_new_tokens = 30,
                    .do_sample = true,
                    .temperature = 0.1f,
                    .min_p = 0.02f,
                    .seed = 6,
                    .xtc = gpt2::sampling::Xtc{.probability = 0.3f, .threshold = 0.1f}});
    return list;
}

} // namespace

TEST_CASE("look_up: the longest n-gram, its first place, and what comes after it") {
    const auto check = [](std::vector<TokenId> context, std::size_t longest, std::size_t most,
                          const std::vector<TokenId>& expected) {
        const auto found = look_up(context, longest, most);
        CHECK(std::vector<TokenId>(found.begin(), found.end()) == expected);
    };
    check({}, 2, 5, {});
    check({1}, 2, 5, {});
    check({1, 2}, 2, 5, {});
    check({1, 1}, 2, 5, {1});
    check({1, 2, 3, 4, 1, 2}, 2, 5, {3, 4, 1, 2});
    check({1, 2, 3, 4, 1, 2}, 2, 2, {3, 4});
    check({9, 2, 3, 1, 2, 7, 1, 2}, 2, 1, {7});       // (1 2) before (2)
    check({9, 2, 3, 1, 2, 7, 1, 2}, 1, 1, {3});       // no more than one token
    check({9, 2, 3, 1, 2, 7, 1, 2}, 100, 2, {7, 1});  // no longer one is there
    check({1, 2, 5, 1, 2, 6, 1, 2}, 2, 3, {5, 1, 2}); // the first of two places
    check({4, 4, 4, 4}, 2, 9, {4, 4});                // places may overlap the end
    check({1, 2, 3}, 3, 4, {});
}

TEST_CASE("look_up: by brute force") {
    std::mt19937 random(7);
    std::size_t found_some = 0;
    for (int i = 0; i < 3000; ++i) {
        const std::vector<TokenId> context =
            test::some_tokens(random() % 24, 1 + random() % 6, static_cast<std::uint32_t>(random()));
        const std::size_t longest = 1 + random() % 5;
        const std::size_t most = 1 + random() % 6;
        std::vector<TokenId> expected;
        for (std::size_t n = longest; n > 0 && expected.empty(); --n) {
            for (std::size_t at = 0; at + n < context.size() && expected.empty(); ++at) {
                if (std::equal(context.end() - static_cast<std::ptrdiff_t>(n), context.end(),
                               context.begin() + static_cast<std::ptrdiff_t>(at))) {
                    for (std::size_t k = at + n; k < std::min(context.size(), at + n + most); ++k) {
                        expected.push_back(context[k]);
                    }
                }
            }
        }
        const auto found = look_up(context, longest, most);
        REQUIRE(std::vector<TokenId>(found.begin(), found.end()) == expected);
        found_some += expected.empty() ? 0 : 1;
    }
    CHECK(found_some > 1000);
}

TEST_CASE("prompt lookup: the same text, whatever chooses the tokens") {
    gpt2::Speculation sum;
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        for (std::uint32_t seed = 0; seed < 6; ++seed) {
            CAPTURE(seed);
            const auto prompt = seed % 2 == 0 ? repetitive(25, seed) : tokens(1 + 9 * seed, seed);
            std::size_t way = 0;
            for (const GenerationConfig& config : ways()) {
                CAPTURE(way++);
                const auto what =
                    compare(model(), cache, prompt, config,
                            lookup(1 + 3 * (seed % 3), seed % 3 == 0 ? std::nullopt : std::optional(3)));
                sum.proposed += what.proposed;
                sum.accepted += what.accepted;
            }
        }
    }
    CHECK(sum.proposed > 500);
    CHECK(sum.accepted > 50);
    CHECK(sum.accepted < sum.proposed);
}

TEST_CASE("prompt lookup: the default model, greedy and sampled") {
    std::size_t passes = 0;
    std::size_t written = 0;
    for (const std::string_view prompt :
         {"There was once a poor woodcutter who lived in a great forest, a poor woodcutter who lived",
          "The king said: who goes there? The queen said: who goes there? The fool said:", "I"}) {
        for (const bool drawn : {false, true}) {
            GenerationConfig config{.max_new_tokens = 60};
            if (drawn) {
                config.do_sample = true;
                config.temperature = 0.7f;
                config.top_k = 40;
                config.seed = 11;
            }
            const auto what = compare(loaded_novella(), KvDtype::float16,
                                      loaded_novella().encode_prompt(prompt), config, lookup(6, 3));
            passes += what.passes;
            written += 60;
        }
    }
    CHECK(passes < written * 9 / 10);
}

TEST_CASE("a drafter that is always right, always wrong, right now and then, or has no idea") {
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        for (const bool drawn : {false, true}) {
            GenerationConfig config{.max_new_tokens = 31, .ignore_eos = true};
            if (drawn) {
                config.do_sample = true;
                config.seed = 3;
            }
            const auto prompt = tokens(12);
            const auto plain = run(model(), cache, prompt, config).result.tokens;
            std::vector<TokenId> whole = prompt;
            whole.insert(whole.end(), plain.begin(), plain.end());
            const auto write = [&](const std::shared_ptr<const Drafter>& drafter, std::int64_t n) {
                return compare(model(), cache, prompt, config, assistant(drafter, n));
            };
            for (const std::int64_t n : {1, 2, 4, 5, 29, 30, 1000}) {
                CAPTURE(n);
                const auto right = write(knowing(whole), n);
                CHECK(right.accepted == right.proposed);
                const auto per_pass = std::min<std::size_t>(static_cast<std::size_t>(n), 29) + 1;
                CHECK(right.passes == (30 + per_pass - 1) / per_pass);
                const auto wrong =
                    write(knowing(whole, [](TokenId t, std::size_t) { return another(t); }), n);
                CHECK(wrong.accepted == 0);
                CHECK(wrong.proposed > 0);
                CHECK(wrong.passes == 30);
                const auto mixed = write(
                    knowing(whole, [](TokenId t, std::size_t i) { return i % 4 == 3 ? another(t) : t; }), n);
                CHECK(mixed.accepted < mixed.proposed);
                CHECK(mixed.passes < 30);
            }
            const auto none = write(proposing([](auto, std::size_t) { return std::vector<TokenId>(); }), 5);
            CHECK(none.proposed == 0);
            CHECK(none.passes == 30);
        }
    }
}

TEST_CASE("proposals leave a token to choose and stay within the context") {
    const auto check = [&](std::size_t n_prompt, std::int64_t max_new_tokens, std::int64_t n) {
        CAPTURE(n_prompt);
        CAPTURE(max_new_tokens);
        const auto start = tokens(n_prompt);
        const GenerationConfig config{.max_new_tokens = max_new_tokens, .ignore_eos = true};
        auto whole = start;
        const auto plain = run(model(), KvDtype::float32, start, config).result.tokens;
        whole.insert(whole.end(), plain.begin(), plain.end());
        std::size_t calls = 0;
        const auto drafter = proposing([&](std::span<const TokenId> context, std::size_t most) {
            ++calls;
            CHECK(most >= 1);
            CHECK(most <= static_cast<std::size_t>(n));
            // After all of them one more is chosen, which no pass reads.
            CHECK(context.size() + most < n_prompt + static_cast<std::size_t>(max_new_tokens));
            CHECK(context.size() + most <= n_positions);
            CHECK(std::ranges::equal(context, std::span(whole).first(context.size())));
            const auto next = std::span(whole).subspan(context.size(), most);
            return std::vector<TokenId>(next.begin(), next.end());
        });
        compare(model(), KvDtype::float32, start, config, assistant(drafter, n));
        CHECK((calls > 0) == (max_new_tokens > 2));
    };
    for (std::int64_t max_new_tokens = 0; max_new_tokens <= 14; ++max_new_tokens) {
        check(20, max_new_tokens, 4);
    }
    check(140, 10, 4); // all positions
    check(141, 9, 100);
    check(148, 2, 4);
    check(1, 149, 7);
    // One more is an error, as without.
    compare(model(), KvDtype::float32, tokens(140), {.max_new_tokens = 11}, lookup(4));
}

TEST_CASE("stop strings, end of text, a callback that stops or throws: at every place") {
    const auto prompt = repetitive(20);
    const GenerationConfig config{.max_new_tokens = 16, .logprobs = true, .ignore_eos = true};
    const auto plain = run(model(), KvDtype::float16, prompt, config).result;
    REQUIRE(plain.tokens.size() == 16);
    std::vector<TokenId> whole = prompt;
    whole.insert(whole.end(), plain.tokens.begin(), plain.tokens.end());
    for (std::size_t at = 0; at < 16; ++at) {
        CAPTURE(at);
        for (const auto& speculate :
             {lookup(5), assistant(knowing(whole), 3), assistant(knowing(whole), 40)}) {
            const auto write = [&](const GenerationConfig& with, const Stop& stop = {}) {
                return compare(model(), KvDtype::float16, prompt, with, speculate, stop);
            };
            GenerationConfig with = config;
            with.ignore_eos = false;
            with.eos_token_id = plain.tokens[at];
            write(with);
            with = config;
            with.stop_strings = {"never found", plain.bytes.substr(at, 2)};
            write(with);
            const auto stop_at = [at](const GeneratedToken& token) {
                return token.index == at ? Flow::stop : Flow::proceed;
            };
            write(config, stop_at);
            write(config, [at](const GeneratedToken& token) {
                if (token.index == at) {
                    throw std::runtime_error("enough");
                }
                return Flow::proceed;
            });
        }
        // One pass for all but the first token and the last of 16; a proposal that ended the text counts.
        const auto what = compare(
            model(), KvDtype::float16, prompt, config, assistant(knowing(whole), 40),
            [at](const GeneratedToken& token) { return token.index == at ? Flow::stop : Flow::proceed; });
        CHECK(what.accepted == std::min<std::size_t>(at, 14));
    }
}

TEST_CASE("the callback of a proposed token may fork the session") {
    const auto prompt = tokens(15);
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true};
    const auto plain = run(model(), KvDtype::float32, prompt, config).result.tokens;
    std::vector<TokenId> whole = prompt;
    whole.insert(whole.end(), plain.begin(), plain.end());
    assistant(knowing(whole), 4)(config);
    Session session(model());
    std::vector<Session> forks;
    (void)session.generate(prompt, config, [&](const GeneratedToken&) {
        forks.push_back(session.fork());
        return Flow::proceed;
    });
    REQUIRE(forks.size() == 12);
    for (std::size_t i = 0; i < forks.size(); ++i) {
        Session fresh(model());
        const std::span<const TokenId> held = std::span(whole).first(15 + i);
        CHECK(std::ranges::equal(forks[i].tokens(), held));
        CHECK(mismatch(forks[i].logits().flat(), fresh.forward(held)) == "");
        CHECK(mismatch(forks[i].forward(tokens(2)), fresh.forward(tokens(2))) == "");
    }
}

TEST_CASE("the window slides as without speculation") {
    for (const auto& lengths : {std::pair(20u, 260), std::pair(400u, 90), std::pair(149u, 3),
                                std::pair(150u, 2), std::pair(151u, 4)}) {
        const unsigned n_prompt = lengths.first;
        const int n_new = lengths.second;
        CAPTURE(n_prompt);
        GenerationConfig config{.max_new_tokens = n_new,
                                .do_sample = true,
                                .temperature = 0.3f,
                                .seed = 1,
                                .logprobs = true,
                                .ignore_eos = true,
                                .overflow = Overflow::slide};
        const auto prompt = repetitive(n_prompt);
        const auto plain = run(model(), KvDtype::float32, prompt, config).result.tokens;
        std::vector<TokenId> whole = prompt;
        whole.insert(whole.end(), plain.begin(), plain.end());
        compare(model(), KvDtype::float32, prompt, config, lookup(6));
        const auto what = compare(model(), KvDtype::float32, prompt, config, assistant(knowing(whole), 6));
        CHECK(what.accepted == what.proposed);
    }
    gpt2::Config config = test::odd_config();
    for (const std::size_t context : {1u, 2u, 3u}) {
        config.n_positions = context;
        const Gpt2Model of = make_model(config);
        const GenerationConfig how{.max_new_tokens = 9, .ignore_eos = true, .overflow = Overflow::slide};
        Session plain(of);
        Session found(of);
        GenerationConfig with = how;
        with.prompt_lookup_num_tokens = 4;
        CHECK(found.generate(repetitive(9), with).tokens == plain.generate(repetitive(9), how).tokens);
        CHECK(std::ranges::equal(found.tokens(), plain.tokens()));
    }
}

TEST_CASE("guidance: both sequences read the proposals") {
    const auto prompt = repetitive(20);
    for (const Overflow overflow : {Overflow::error, Overflow::slide}) {
        GenerationConfig config{.max_new_tokens = overflow == Overflow::slide ? 170 : 40, .ignore_eos = true};
        config.overflow = overflow;
        config.guidance_scale = 1.7f;
        for (const auto& negative : {std::vector<TokenId>(), tokens(31, 5)}) {
            config.negative_prompt_ids = negative;
            const auto plain = run(model(), KvDtype::float16, prompt, config).result.tokens;
            std::vector<TokenId> whole = prompt;
            whole.insert(whole.end(), plain.begin(), plain.end());
            compare(model(), KvDtype::float16, prompt, config, lookup(5));
            const auto right =
                compare(model(), KvDtype::float16, prompt, config, assistant(knowing(whole), 5));
            CHECK(right.accepted == right.proposed);
            CHECK(right.accepted > plain.size() / 2);
            compare(
                model(), KvDtype::float16, prompt, config,
                assistant(
                    knowing(whole, [](TokenId t, std::size_t i) { return i % 3 == 0 ? another(t) : t; }), 5));
        }
    }
}

TEST_CASE("a session that goes on: from logits, after another turn") {
    GenerationConfig config{.max_new_tokens = 14, .do_sample = true, .temperature = 0.4f, .seed = 8};
    config.ignore_eos = true;
    Session plain(model());
    Session found(model());
    GenerationConfig with = config;
    with.prompt_lookup_num_tokens = 4;
    for (std::uint32_t turn = 0; turn < 6; ++turn) {
        const auto prompt = turn % 3 == 2 ? std::vector<TokenId>() : repetitive(9, turn);
        const auto a = plain.generate(prompt, config);
        const auto b = found.generate(prompt, with);
        CHECK(a.tokens == b.tokens);
        CHECK(a.text == b.text);
        CHECK(std::ranges::equal(plain.tokens(), found.tokens()));
        CHECK(mismatch(found.logits().flat(), plain.logits().flat()) == "");
    }
}

TEST_CASE("a screened head: the same text") {
    gpt2::LoadOptions options;
    options.screen_head = true;
    const auto screened = Gpt2Model::load(test::novella(), options);
    const auto prompt =
        loaded_novella().encode_prompt("It was a dark and stormy night, and it was a dark and");
    for (const bool drawn : {false, true}) {
        GenerationConfig config{.max_new_tokens = 80};
        if (drawn) {
            config.do_sample = true;
            config.top_k = 10;
            config.seed = 2;
        }
        Session plain(loaded_novella());
        const auto expected = plain.generate(prompt, config);
        config.prompt_lookup_num_tokens = 4;
        Session session(screened);
        const auto found = session.generate(prompt, config);
        CHECK(found.tokens == expected.tokens);
        CHECK(found.speculation.accepted > 0);
        CHECK(found.screening.tokens > 0); // where nothing was proposed
        CHECK(std::ranges::equal(session.tokens(), plain.tokens()));
        CHECK(mismatch(session.logits().flat(), plain.logits().flat()) == "");
    }
}

TEST_CASE("a proposal that the model cannot read is no error of the text") {
    constexpr TokenId wild = 7; // its key is too large for float16
    const gpt2::Config shape = test::odd_config();
    const Gpt2Model of =
        make_model(shape, [C = shape.n_embd](std::string_view name, std::span<float> values) {
            if (name == "wte.weight" || name == "wpe.weight") {
                for (std::size_t i = 0; i < values.size(); ++i) {
                    const bool is_wild = name == "wte.weight" && i / C == wild;
                    values[i] = i % C == 3 ? (is_wild ? 1.0f : 0.0f) : (is_wild ? 0.0f : values[i]);
                }
            } else if (name == "h.0.attn.c_attn.weight") {
                values[3 * 3 * C + C] = 3e4f;
            }
        });
    const auto only_wild = [=](auto, std::size_t most) { return std::vector(most, wild); };
    auto prompt = tokens(20);
    std::ranges::replace(prompt, wild, TokenId{8});
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true, .suppress_tokens = {wild}};
    const auto what = compare(of, KvDtype::float16, prompt, config, assistant(proposing(only_wild), 3));
    CHECK(what.accepted == 0);
    CHECK(what.proposed > 0);
    // Nor if what was proposed before it is right: that has not been read either.
    const auto plain = run(of, KvDtype::float16, prompt, config).result.tokens;
    std::vector<TokenId> whole = prompt;
    whole.insert(whole.end(), plain.begin(), plain.end());
    const auto late = [=](TokenId token, std::size_t i) { return i % 3 == 0 ? wild : token; };
    CHECK(compare(of, KvDtype::float16, prompt, config, assistant(knowing(whole, late), 3)).proposed > 0);
    // One that the text has is the same error.
    config.suppress_tokens.clear();
    config.logit_bias = {{wild, 100.0f}};
    compare(of, KvDtype::float16, prompt, config, assistant(proposing(only_wild), 3));
}

TEST_CASE("a drafter that proposes what it must not is an error, by name") {
    const auto prompt = tokens(10);
    const auto refused = [&](const Proposals::Function& function,
                             std::initializer_list<std::string_view> parts) {
        GenerationConfig config{.max_new_tokens = 9, .ignore_eos = true};
        assistant(proposing(function), 3)(config);
        Session session(model());
        check_throws<OptionError>([&] { session.generate(prompt, config); }, parts);
        CHECK(std::ranges::equal(session.tokens(), prompt)); // no further than the pass before
        Session fresh(model());
        CHECK(mismatch(session.logits().flat(), fresh.forward(prompt)) == "");
    };
    for (const TokenId id : {-1, static_cast<TokenId>(n_vocab), std::numeric_limits<TokenId>::max(),
                             std::numeric_limits<TokenId>::min()}) {
        refused(
            [id](auto, auto) {
                return std::vector<TokenId>{1, id};
            },
            {"assistant_model", "259", std::to_string(id)});
    }
    refused([](auto, std::size_t most) { return std::vector<TokenId>(most + 1, 5); },
            {"assistant_model", "at most 3", "found 4"});
    refused([](auto, auto) -> std::vector<TokenId> { throw OptionError("no idea at all"); },
            {"no idea at all"});

    struct Nothing : Drafter {
        [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest&) const override { return nullptr; }
    };
    GenerationConfig config;
    config.assistant_model = std::make_shared<Nothing>();
    Session session(model());
    check_throws<OptionError>([&] { session.generate(prompt, config); }, {"assistant_model", "null"});
    CHECK(session.position() == 0);
}

TEST_CASE("a drafter is told what the text is chosen with") {
    struct Asking : Drafter {
        [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest& request) const override {
            seed = request.config.seed;
            n_context = request.n_context;
            known = request.tokenizer.size() == n_vocab && request.model.n_positions == n_positions &&
                    request.pool != nullptr;
            return gpt2::PromptLookup().begin(request);
        }
        mutable std::optional<std::uint64_t> seed;
        mutable std::size_t n_context = 0;
        mutable bool known = false;
    };
    const auto asking = std::make_shared<Asking>();
    Session session(model());
    session.forward(tokens(4));
    GenerationConfig config{.max_new_tokens = 5, .do_sample = true};
    config.assistant_model = asking;
    const auto drawn = session.generate(tokens(6), config); // with a fresh seed
    CHECK(asking->seed == drawn.seed);
    CHECK(drawn.seed.has_value());
    CHECK(asking->n_context == 10);
    CHECK(asking->known);
    config.temperature = 0.0f;
    (void)session.generate(tokens(1), config);
    CHECK_FALSE(asking->seed.has_value());
}

TEST_CASE("a model as its own draft is always right, drawn tokens and all") {
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        const auto itself = std::make_shared<gpt2::DraftModel>(
            model(), gpt2::SessionOptions{.pool = nullptr, .kv_dtype = cache});
        std::size_t way = 0;
        for (GenerationConfig config : ways()) {
            CAPTURE(way++);
            for (const std::int64_t n : {1, 4, 40}) {
                const auto prompt = tokens(20, static_cast<std::uint32_t>(n));
                config.ignore_eos = !config.min_new_tokens;
                const auto what = compare(model(), cache, prompt, config, assistant(itself, n));
                CHECK(what.proposed > 0);
                if (!config.mirostat) { // whose state follows the probabilities of each model
                    CHECK(what.accepted == what.proposed);
                }
            }
        }
        // It proposes nothing behind the end of the text, nor the end.
        GenerationConfig config{.max_new_tokens = 30, .do_sample = true, .seed = 9, .ignore_eos = true};
        const auto plain = run(model(), cache, tokens(20), config).result.tokens;
        config.ignore_eos = false;
        config.eos_token_id = plain[17];
        const auto what = compare(model(), cache, tokens(20), config, assistant(itself, 7));
        CHECK(what.accepted == what.proposed);
    }
}

TEST_CASE("a draft model forgets what the text did not take") {
    const gpt2::DraftModel drafter(model());
    const auto pool = gpt2::ThreadPool::process_wide();
    for (const GenerationConfig& config : ways()) {
        if (config.mirostat) { // whose state is that of the choices so far
            continue;
        }
        const DraftRequest request{config, model().config(), model().tokenizer(), 12, pool};
        const auto draft = drafter.begin(request);
        auto context = tokens(12);
        for (std::size_t i = 0; i < 12; ++i) {
            const auto proposed = draft->propose(context, 4);
            CHECK(proposed == drafter.begin(request)->propose(context, 4));
            const std::size_t taken = std::min(i % 4, proposed.size());
            context.insert(context.end(), proposed.begin(),
                           proposed.begin() + static_cast<std::ptrdiff_t>(taken));
            context.push_back(taken < proposed.size() ? another(proposed[taken]) : 5);
            context.push_back(static_cast<TokenId>(i));
        }
    }
}

TEST_CASE("a draft model: another one, in a smaller format, with a shorter context") {
    const Gpt2Model other = make_model(test::odd_config(), test::enlarge_matrices, {}, 1);
    gpt2::Config config = test::odd_config();
    std::vector<Gpt2Model> drafts = {other};
    for (const std::size_t context : {1u, 2u, 3u, 40u}) {
        config.n_positions = context;
        drafts.push_back(make_model(config, test::enlarge_matrices));
    }
    std::size_t accepted = 0;
    for (const Gpt2Model& draft : drafts) {
        CAPTURE(draft.config().n_positions);
        const auto drafter = std::make_shared<gpt2::DraftModel>(draft);
        for (GenerationConfig way : ways()) {
            way.max_new_tokens = 60;
            accepted = compare(model(), KvDtype::float32, tokens(17), way, assistant(drafter, 3)).accepted;
        }
    }
    CHECK(accepted > 0); // of 40 positions, with the model's own weights

    gpt2::LoadOptions options;
    options.weights = gpt2::WeightType::int4;
    const auto small = std::make_shared<gpt2::DraftModel>(Gpt2Model::load(test::novella(), options));
    for (const bool drawn : {false, true}) {
        GenerationConfig way{.max_new_tokens = 80};
        if (drawn) {
            way.do_sample = true;
            way.temperature = 0.8f;
            way.top_k = 40;
            way.seed = 4;
        }
        const auto what = compare(loaded_novella(), KvDtype::float16,
                                  loaded_novella().encode_prompt("There was once a poor woodcutter who"), way,
                                  assistant(small));
        CHECK(what.accepted > what.proposed / 5);
    }
}

TEST_CASE("a draft model: guidance, a user's processor, a window that slides, several turns") {
    const auto drafter = std::make_shared<gpt2::DraftModel>(model());
    GenerationConfig guided{.max_new_tokens = 40, .ignore_eos = true};
    guided.guidance_scale = 1.5f;
    guided.negative_prompt_ids = tokens(5, 2);
    compare(model(), KvDtype::float32, tokens(12), guided, assistant(drafter, 4));

    std::size_t calls = 0;
    GenerationConfig own{.max_new_tokens = 40, .ignore_eos = true};
    own.processor_order = {"logits_processors", "guidance_scale"};
    own.logits_processors.push_back([&calls](std::span<const TokenId>, std::span<float> scores) {
        scores[++calls % n_vocab] =
            -std::numeric_limits<float>::infinity(); // depends on how often it is called
    });
    Session(model()).generate(tokens(12), own);
    const std::size_t once = calls;
    calls = 0;
    const auto plain = Session(model()).generate(tokens(12), own).tokens;
    calls = 0;
    assistant(drafter, 4)(own);
    CHECK(Session(model()).generate(tokens(12), own).tokens == plain);
    CHECK(calls == once);

    GenerationConfig sliding{.max_new_tokens = 300, .do_sample = true, .temperature = 0.5f, .seed = 1};
    sliding.ignore_eos = true;
    sliding.overflow = Overflow::slide;
    compare(model(), KvDtype::float32, tokens(12), sliding, assistant(drafter, 4));

    GenerationConfig config{.max_new_tokens = 14, .do_sample = true, .seed = 8, .ignore_eos = true};
    Session alone(model());
    Session found(model());
    GenerationConfig with = config;
    assistant(drafter, 4)(with);
    for (std::uint32_t turn = 0; turn < 5; ++turn) {
        const auto prompt = turn == 2 ? std::vector<TokenId>() : tokens(9, turn);
        CHECK(found.generate(prompt, with).tokens == alone.generate(prompt, config).tokens);
    }
}

TEST_CASE("a draft model that cannot go on proposes nothing") {
    constexpr TokenId wild = 7;
    const Gpt2Model draft =
        make_model(test::odd_config(), [](std::string_view name, std::span<float> values) {
            if (name == "wte.weight") {
                values[wild * test::odd_config().n_embd + 3] = 1e25f; // whose square is infinite
            }
        });
    auto prompt = tokens(20);
    prompt[3] = wild;
    GenerationConfig config{.max_new_tokens = 12, .ignore_eos = true};
    const auto drafter = std::make_shared<gpt2::DraftModel>(draft);
    CHECK(compare(model(), KvDtype::float32, prompt, config, assistant(drafter)).proposed == 0);
}

TEST_CASE("a draft model with another vocabulary is an error before any work") {
    const auto refused = [](const Gpt2Model& draft, std::initializer_list<std::string_view> parts) {
        GenerationConfig config;
        config.assistant_model = std::make_shared<gpt2::DraftModel>(draft);
        Session session(model());
        check_throws<OptionError>([&] { session.generate(tokens(5), config); }, parts);
        CHECK(session.position() == 0);
    };
    refused(loaded_novella(), {"assistant_model", "259", "8192"});
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), test::odd_config());
    test::write_file(directory / "vocab.json",
                     test::replaced(test::read_file(directory / "vocab.json"), "<|endoftext|>", "qqq"));
    refused(Gpt2Model::load(directory.path()), {"assistant_model", "256", "<|endoftext|>", "qqq"});
    // Outputs that no token belongs to make no difference.
    gpt2::Config padded = test::odd_config();
    padded.vocab_size = 320;
    const auto wider = std::make_shared<gpt2::DraftModel>(make_model(padded, test::enlarge_matrices));
    for (const GenerationConfig& way : ways()) {
        compare(model(), KvDtype::float32, tokens(9), way, assistant(wider, 4));
    }
}

TEST_CASE("one draft model serves many threads") {
    GenerationConfig config{.max_new_tokens = 20, .do_sample = true, .seed = 8, .ignore_eos = true};
    std::vector<std::vector<TokenId>> expected;
    for (std::uint32_t i = 0; i < 4; ++i) {
        expected.push_back(Session(model()).generate(tokens(9, i), config).tokens);
    }
    assistant(std::make_shared<gpt2::DraftModel>(model()), 4)(config);
    std::vector<std::vector<TokenId>> found(4);
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] { found[i] = Session(model()).generate(tokens(9, i), config).tokens; });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    CHECK(found == expected);
}

TEST_CASE("options that contradict each other") {
    const auto refused = [](const std::function<void(GenerationConfig&)>& change,
                            std::initializer_list<std::string_view> parts) {
        GenerationConfig config;
        change(config);
        check_throws<OptionError>([&] { gpt2::validate(config, test::odd_config()); }, parts);
    };
    const auto drafter = std::make_shared<gpt2::PromptLookup>();
    refused([](auto& c) { c.prompt_lookup_num_tokens = 0; }, {"prompt_lookup_num_tokens is 0", "1 or more"});
    refused([](auto& c) { c.prompt_lookup_num_tokens = -3; }, {"prompt_lookup_num_tokens is -3"});
    refused(
        [](auto& c) {
            c.prompt_lookup_num_tokens = 3;
            c.max_matching_ngram_size = 0;
        },
        {"max_matching_ngram_size is 0", "1 or more"});
    refused([](auto& c) { c.max_matching_ngram_size = 2; },
            {"max_matching_ngram_size", "prompt_lookup_num_tokens"});
    refused([](auto& c) { c.num_assistant_tokens = 2; }, {"num_assistant_tokens", "assistant_model"});
    refused(
        [&](auto& c) {
            c.assistant_model = drafter;
            c.num_assistant_tokens = 0;
        },
        {"num_assistant_tokens is 0", "1 or more"});
    refused(
        [&](auto& c) {
            c.assistant_model = drafter;
            c.prompt_lookup_num_tokens = 2;
        },
        {"prompt_lookup_num_tokens", "assistant_model"});
    GenerationConfig most;
    most.prompt_lookup_num_tokens = std::numeric_limits<std::int64_t>::max();
    most.max_matching_ngram_size = std::numeric_limits<std::int64_t>::max();
    CHECK(model().generate("abababab", most).tokens == model().generate("abababab").tokens);
}
