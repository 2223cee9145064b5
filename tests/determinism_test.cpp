// SPDX-License-Identifier: MIT

// The same bits, whatever the number of threads, the cut of the prompt, the company in the batch, the history
// of the session and the instruction set.

#include "support/compare.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"
#include "support/reference.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using gpt2::BatchItem;
using gpt2::Gpt2Model;
using gpt2::Isa;
using gpt2::KvDtype;
using gpt2::Logits;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::WeightType;
using gpt2::test::loaded_novella;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_text = 300; // more rows than go through in one pass (256), five blocks of attention

std::shared_ptr<gpt2::ThreadPool> threads(std::size_t n) {
    static std::array<std::shared_ptr<gpt2::ThreadPool>, 6> pools;
    if (!pools[n]) {
        pools[n] = std::make_shared<gpt2::ThreadPool>(n);
    }
    return pools[n];
}

gpt2::SessionOptions with(std::size_t n_threads, KvDtype cache = KvDtype::float32) {
    return {.pool = threads(n_threads), .kv_dtype = cache};
}

/// The levels that must agree: all that have fused multiply-add. (SSE2, the portable level of x86, has none.)
std::vector<Isa> comparable_levels() {
    if (gpt2::choose_isa() == Isa::portable) { // its products and sums may be rounded apart
        return {Isa::portable};
    }
    std::vector<Isa> levels;
    for (const Isa isa : gpt2::all_isas) {
        if (isa != Isa::portable && gpt2::supports(isa)) {
            levels.push_back(isa);
        }
    }
    return levels;
}

const std::vector<TokenId>& text() {
    static const std::vector<TokenId> tokens = [] {
        const std::string bytes =
            test::read_file(std::filesystem::path(GPT2_SOURCE_DIR) / "tests" / "data" / "heldout.txt");
        std::vector<TokenId> all =
            loaded_novella().tokenizer().encode(std::string_view(bytes).substr(0, 4000));
        REQUIRE(all.size() >= 2 * n_text);
        return all;
    }();
    return tokens;
}

/// How a sequence is cut: the lengths of its pieces.
using Pieces = std::vector<std::size_t>;

Pieces random_pieces(std::size_t n, std::uint32_t seed) {
    std::mt19937 random(seed);
    Pieces pieces;
    while (n > 0) {
        // Mostly small ones, as each number of rows up to 13 takes another path through the kernels.
        const std::size_t most = random() % 3 == 0 ? 100 : 14;
        pieces.push_back(std::min<std::size_t>(n, 1 + random() % most));
        n -= pieces.back();
    }
    return pieces;
}

/// Appends the tokens to a session piece by piece. @returns the logits after each token
std::vector<float> read(Session& session, std::span<const TokenId> tokens, const Pieces& pieces) {
    std::vector<float> result;
    for (const std::size_t n : pieces) {
        const BatchItem item{&session, tokens.first(n), Logits::all};
        gpt2::forward({&item, 1});
        const auto logits = session.logits().flat();
        result.insert(result.end(), logits.begin(), logits.end());
        tokens = tokens.subspan(n);
    }
    CHECK(tokens.empty());
    return result;
}

std::vector<float> read(const Gpt2Model& model, const gpt2::SessionOptions& options,
                        std::span<const TokenId> tokens, const Pieces& pieces) {
    Session session(model, options);
    return read(session, tokens, pieces);
}

std::span<const float> row(std::span<const float> logits, std::size_t V, std::size_t t) {
    return logits.subspan(t * V, V);
}

/// Threads and pieces, against one thread and one piece.
void check_threads_and_pieces(const Gpt2Model& model, KvDtype cache, std::span<const TokenId> tokens) {
    const std::size_t n = tokens.size();
    const std::vector<float> expected = read(model, with(1, cache), tokens, {n});
    for (const std::size_t n_threads : {2u, 3u, 5u}) {
        CAPTURE(n_threads);
        CHECK(mismatch(read(model, with(n_threads, cache), tokens, {n}), expected) == "");
        const Pieces pieces = random_pieces(n, static_cast<std::uint32_t>(n_threads));
        CHECK(mismatch(read(model, with(n_threads, cache), tokens, pieces), expected) == "");
    }
    const std::size_t few = std::min<std::size_t>(n, 70);
    CHECK(mismatch(read(model, with(2, cache), tokens.first(few), Pieces(few, 1)),
                   std::span(expected).first(few * model.config().vocab_size)) == "");
}

} // namespace

TEST_CASE("threads and pieces, with each format of weights and cache and on each level") {
    for (const auto type : {WeightType::float16, WeightType::float32, WeightType::bfloat16, WeightType::int8,
                            WeightType::int4}) {
        const auto levels = comparable_levels();
        const auto model = Gpt2Model::load(test::novella(), {.weights = type, .isa = {}, .pool = nullptr});
        for (const auto cache : {KvDtype::float32, KvDtype::float16}) {
            CAPTURE(to_string(type));
            CAPTURE(to_string(cache));
            const std::size_t n = levels.front() == Isa::portable ? 40 // whose kernels are slow
                                  : type == WeightType::float16   ? n_text
                                                                  : 140;
            const auto tokens = std::span(text()).first(n);
            check_threads_and_pieces(model, cache, tokens);
            const std::vector<float> expected = read(model, with(2, cache), tokens, {tokens.size()});
            for (const Isa isa : levels) {
                CAPTURE(to_string(isa));
                const auto other =
                    Gpt2Model::load(test::novella(), {.weights = type, .isa = isa, .pool = nullptr});
                REQUIRE(other.isa() == isa);
                CHECK(mismatch(read(other, with(2, cache), tokens, random_pieces(tokens.size(), 9)),
                               expected) == "");
            }
        }
    }
}

TEST_CASE("threads and pieces, on the portable level") {
    for (const auto type : {WeightType::float16, WeightType::int4}) {
        const auto model =
            Gpt2Model::load(test::novella(), {.weights = type, .isa = Isa::portable, .pool = nullptr});
        check_threads_and_pieces(model, KvDtype::float32, std::span(text()).first(72));
    }
}

TEST_CASE("threads, pieces and levels in a model of odd sizes") {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), test::odd_config(), {}, test::enlarge_matrices);
    const auto tokens = test::some_tokens(150, test::byte_vocabulary_size);
    for (const auto& formats :
         {std::pair(KvDtype::float32, WeightType::float32), std::pair(KvDtype::float16, WeightType::float32),
          std::pair(KvDtype::float16, WeightType::int8), std::pair(KvDtype::float16, WeightType::int4)}) {
        const KvDtype cache = formats.first;
        const WeightType type = formats.second;
        CAPTURE(to_string(type));
        std::vector<float> expected;
        for (const Isa isa : comparable_levels()) {
            CAPTURE(to_string(isa));
            const auto model =
                Gpt2Model::load(directory.path(), {.weights = type, .isa = isa, .pool = nullptr});
            check_threads_and_pieces(model, cache, tokens);
            const auto found = read(model, with(1, cache), tokens, {150});
            expected = expected.empty() ? found : expected;
            CHECK(mismatch(found, expected) == "");
        }
        const auto model =
            Gpt2Model::load(directory.path(), {.weights = type, .isa = Isa::portable, .pool = nullptr});
        check_threads_and_pieces(model, cache, tokens);
    }
}

TEST_CASE("threads, pieces and levels where matrices have types of their own") {
    const auto tokens = test::some_tokens(24, 256);
    const auto load = [](std::optional<Isa> isa) {
        return Gpt2Model::load(test::fixture("tiny-mixed.safetensors"), {.isa = isa, .pool = nullptr});
    };
    const std::vector<float> expected = read(load({}), with(1), tokens, {24});
    for (const Isa isa : comparable_levels()) {
        CAPTURE(to_string(isa));
        const auto model = load(isa);
        check_threads_and_pieces(model, KvDtype::float32, tokens);
        CHECK(mismatch(read(model, with(2), tokens, {24}), expected) == "");
    }
}

TEST_CASE("every token by itself, and pieces that end where blocks do") {
    const auto tokens = std::span(text()).first(n_text);
    const std::vector<float> expected = read(loaded_novella(), with(1), tokens, {n_text});
    CHECK(mismatch(read(loaded_novella(), with(2), tokens, Pieces(n_text, 1)), expected) == "");
    CHECK(mismatch(read(loaded_novella(), with(2), tokens, {16, 48, 64, 128, 1, 43}), expected) == "");
    CHECK(mismatch(read(loaded_novella(), with(2), tokens, {15, 2, 46, 2, 191, 44}), expected) == "");
    CHECK(mismatch(read(loaded_novella(), with(2), tokens, {256, 44}), expected) == "");
    CHECK(mismatch(read(loaded_novella(), with(2), tokens, {257, 43}), expected) == "");
    for (const std::size_t n : {7u, 64u}) {
        Pieces pieces(n_text / n, n);
        pieces.push_back(n_text % n);
        CHECK(mismatch(read(loaded_novella(), with(3), tokens, pieces), expected) == "");
    }
}

TEST_CASE("in a batch with others, whatever their lengths, logits and caches") {
    struct Sequence {
        std::span<const TokenId> tokens;
        std::vector<float> expected;
        Session session;
        std::size_t n_new = 0; ///< in the pass under way
        Logits logits = Logits::none;
    };
    const std::size_t V = loaded_novella().config().vocab_size;
    std::vector<Sequence> sequences;
    const std::array<KvDtype, 4> caches{KvDtype::float32, KvDtype::float16, KvDtype::float32,
                                        KvDtype::float32};
    for (std::size_t i = 0; i < caches.size(); ++i) {
        const auto tokens = std::span(text()).subspan(50 * i, 200);
        sequences.push_back({tokens, read(loaded_novella(), with(1, caches[i]), tokens, {tokens.size()}),
                             Session(loaded_novella(), with(2 + i % 2, caches[i]))});
    }
    std::mt19937 random(3);
    std::size_t most_rows = 0;
    for (int pass = 0; pass < 40; ++pass) {
        std::shuffle(sequences.begin(), sequences.end(), random);
        std::vector<BatchItem> items;
        std::size_t rows = 0;
        for (Sequence& s : sequences) {
            const std::size_t left = s.tokens.size() - s.session.position();
            const std::size_t wanted = pass == 0 ? 90 : random() % 3 == 0 ? random() % 40 : random() % 3;
            s.n_new = std::min(left, wanted);
            s.logits = std::array{Logits::none, Logits::last, Logits::all}[random() % 3];
            if (s.n_new > 0) {
                items.push_back({&s.session, s.tokens.subspan(s.session.position(), s.n_new), s.logits});
            }
            rows += s.n_new;
        }
        most_rows = std::max(most_rows, rows);
        gpt2::forward(items);
        for (const Sequence& s : sequences) {
            if (s.n_new == 0) {
                continue;
            }
            const std::size_t n_rows = s.logits == Logits::none ? 0 : s.logits == Logits::last ? 1 : s.n_new;
            REQUIRE(s.session.logits().dim(0) == n_rows);
            REQUIRE(s.session.logits().dim(1) == V);
            if (n_rows > 0) {
                const auto expected = std::span(s.expected).first(s.session.position() * V).last(n_rows * V);
                CHECK(mismatch(s.session.logits().flat(), expected) == "");
            }
        }
    }
    CHECK(most_rows > 256); // one pass through the layers was not enough
    for (const Sequence& s : sequences) {
        CHECK(std::ranges::equal(s.session.tokens(), s.tokens.first(s.session.position())));
    }
}

TEST_CASE("after truncate") {
    const std::size_t V = loaded_novella().config().vocab_size;
    const auto tokens = std::span(text()).first(n_text);
    const auto others = std::span(text()).last(n_text);
    for (const auto cache : {KvDtype::float32, KvDtype::float16}) {
        const std::vector<float> expected = read(loaded_novella(), with(1, cache), tokens, {n_text});
        Session session(loaded_novella(), with(2, cache));
        read(session, tokens, {n_text});
        for (const std::size_t length :
             {299u, 257u, 256u, 130u, 128u, 127u, 65u, 64u, 63u, 40u, 17u, 16u, 15u, 1u, 0u}) {
            CAPTURE(length);
            session.truncate(length);
            CHECK(session.position() == length);
            CHECK(session.logits().dim(0) == 0);
            // Another continuation, longer than the rest of its block, and back.
            const std::vector<float> found = read(session, others.first(20), {7, 13});
            if (length == 40 || length == 63 || length == 128) {
                Session fresh(loaded_novella(), with(2, cache));
                fresh.forward(tokens.first(length));
                CHECK(mismatch(found, read(fresh, others.first(20), {20})) == "");
            }
            session.truncate(length + 3);
            session.truncate(length);
            const std::size_t rest = std::min<std::size_t>(n_text - length, 30);
            CHECK(mismatch(read(session, tokens.subspan(length, rest), random_pieces(rest, 5)),
                           std::span(expected).subspan(length * V, rest * V)) == "");
        }
    }
}

TEST_CASE("with any floating-point state of the caller") {
    const auto tokens = std::span(text()).first(100);
    const auto all = [&] {
        Session session(loaded_novella(), with(2));
        std::vector<float> result = session.score(tokens);
        result[0] = 0.0f; // NaN
        const auto logits = session.logits().flat();
        result.insert(result.end(), logits.begin(), logits.end());
        session.truncate(90);
        const auto generated = session.generate(
            tokens.last(10), {.max_new_tokens = 20, .do_sample = true, .seed = 1, .logprobs = true});
        result.insert(result.end(), generated.tokens.begin(), generated.tokens.end());
        result.insert(result.end(), generated.logprobs.begin(), generated.logprobs.end());
        return result;
    };
    const std::vector<float> expected = all();
    for (const int direction : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        std::fesetround(direction);
        const std::vector<float> found = all();
        CHECK(std::fegetround() == direction);
        std::fesetround(FE_TONEAREST);
        CAPTURE(direction);
        CHECK(mismatch(found, expected) == "");
    }
#if defined(__SSE__)
    const unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040u); // flush to zero, denormals are zero
    const std::vector<float> found = all();
    _mm_setcsr(state);
    CHECK(mismatch(found, expected) == "");
#endif
}

namespace {

bool same(const gpt2::GenerationResult& a, const gpt2::GenerationResult& b) {
    return a.tokens == b.tokens && a.text == b.text && a.bytes == b.bytes && a.logprobs == b.logprobs &&
           a.seed == b.seed && a.finish_reason == b.finish_reason;
}

} // namespace

TEST_CASE("generated text depends on the seed and the sample alone") {
    const auto prompt = std::span(text()).first(70);
    gpt2::GenerationConfig config{.max_new_tokens = 60,
                                  .do_sample = true,
                                  .temperature = 0.9f,
                                  .top_p = 0.95f,
                                  .seed = 42,
                                  .logprobs = true,
                                  .ignore_eos = true};
    const auto expected = Session(loaded_novella(), with(1)).generate(prompt, config);
    CHECK(expected.tokens.size() == 60);
    for (const std::size_t n_threads : {2u, 3u, 5u}) {
        CHECK(same(Session(loaded_novella(), with(n_threads)).generate(prompt, config), expected));
    }
    for (const Isa isa : comparable_levels()) {
        const auto model = Gpt2Model::load(test::novella(), {.weights = {}, .isa = isa, .pool = nullptr});
        Session session(model, with(3));
        read(session, prompt.first(69), random_pieces(69, 8));
        CHECK(same(session.generate(prompt.last(1), config), expected));
        session.truncate(70);
        session.truncate(33);
        CHECK(same(session.generate(prompt.subspan(33), config), expected));
    }
    // In the company of another conversation.
    Session session(loaded_novella(), with(2));
    Session other(loaded_novella(), with(2));
    const std::array items{BatchItem{&other, prompt.first(9), Logits::last},
                           BatchItem{&session, prompt, Logits::last}};
    gpt2::forward(items);
    CHECK(same(other.generate(prompt.subspan(9), config), expected));
    CHECK(session.generate({}, config).tokens == expected.tokens);

    auto changed = config;
    changed.sample = 1;
    const auto sample = Session(loaded_novella(), with(2)).generate(prompt, changed);
    CHECK(sample.tokens != expected.tokens);
    CHECK(sample.seed == expected.seed);
    changed.seed = 43;
    changed.sample = 0;
    const auto seed = Session(loaded_novella(), with(2)).generate(prompt, changed);
    CHECK(seed.tokens != expected.tokens);
    CHECK(seed.tokens != sample.tokens);
    changed.seed.reset();
    const auto fresh = Session(loaded_novella(), with(2)).generate(prompt, changed);
    REQUIRE(fresh.seed);
    CHECK(fresh.seed != expected.seed);
    changed.seed = fresh.seed;
    CHECK(same(Session(loaded_novella(), with(3)).generate(prompt, changed), fresh));
    changed.seed.reset();
    CHECK(Session(loaded_novella(), with(2)).generate(prompt, changed).seed != fresh.seed);
}

namespace {

/// Logits after the last token of each piece.
void check_ends(Session& session, std::span<const TokenId> tokens, const Pieces& pieces,
                std::span<const float> expected) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const bool wanted = i % 8 == 7 || i + 1 == pieces.size();
        const BatchItem item{&session, tokens.subspan(session.position(), pieces[i]),
                             wanted ? Logits::last : Logits::none};
        gpt2::forward({&item, 1});
        if (wanted) {
            const std::size_t V = session.logits().dim(1);
            CHECK(mismatch(session.logits().flat(), row(expected, V, session.position() - 1)) == "");
        }
    }
}

void check_real_size(const gpt2::Config& config, gpt2::Dtype dtype, std::size_t n) {
    const test::TemporaryDirectory directory;
    gpt2::tools::RandomModelOptions options;
    options.dtype = dtype;
    gpt2::tools::write_random_model(directory.path(), config, options);
    for (const char* file : {"vocab.json", "merges.txt"}) {
        std::filesystem::copy_file(
            std::filesystem::path(GPT2_SOURCE_DIR) / "tests" / "data" / "tokenizer" / file, directory / file);
    }
    const auto tokens = test::some_tokens(n, config.vocab_size);
    const std::size_t V = config.vocab_size;
    std::vector<float> expected;
    {
        const auto model = Gpt2Model::load(directory.path());
        expected = read(model, with(1), tokens, {n});
        for (const std::size_t n_threads : {2u, 3u, 5u}) {
            CAPTURE(n_threads);
            Session session(model, with(n_threads));
            check_ends(session, tokens, {n}, expected);
        }
        Session session(model, with(2));
        check_ends(session, tokens, random_pieces(n, 2), expected);
        session.truncate(100);
        check_ends(session, tokens, Pieces(n - 100, 1), expected); // token by token, through a block's end
        Session other(model, with(2));
        session.truncate(70);
        const std::array items{BatchItem{&other, std::span(tokens).first(131), Logits::last},
                               BatchItem{&session, std::span(tokens).subspan(70, 1), Logits::last}};
        gpt2::forward(items);
        CHECK(mismatch(other.logits().flat(), row(expected, V, 130)) == "");
        CHECK(mismatch(session.logits().flat(), row(expected, V, 70)) == "");

        const test::Reference reference(gpt2::Checkpoint::open(directory.path()));
        const double deviations =
            test::deviations(reference.logits(std::span(tokens).first(10), 9), 0, row(expected, V, 9));
        MESSAGE("C = ", config.n_embd, ": ", deviations, " standard deviations");
        CHECK(deviations < test::tolerance);
    }
    for (const Isa isa : comparable_levels()) {
        if (isa == gpt2::choose_isa()) {
            continue;
        }
        const auto model = Gpt2Model::load(directory.path(), {.weights = {}, .isa = isa, .pool = nullptr});
        Session session(model, with(2));
        check_ends(session, tokens, {n - 12, 1, 2, 9}, expected);
    }
}

} // namespace

TEST_CASE("real sizes: 768 inputs, 3072 in the MLP, vocabulary of 50257") {
    gpt2::Config config = gpt2::tools::config_by_name("124M").value();
    config.n_layer = 2;
    config.n_positions = 320;
    check_real_size(config, gpt2::Dtype::F16, 290);
}

TEST_CASE("real sizes: 1600 inputs, 6400 in the MLP, vocabulary of 50257") {
    gpt2::Config config = gpt2::tools::config_by_name("1558M").value();
    config.n_layer = 1;
    config.n_positions = 160;
    check_real_size(config, gpt2::Dtype::BF16, 140);
}
