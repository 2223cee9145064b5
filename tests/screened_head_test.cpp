// SPDX-License-Identifier: MIT

// The output head in two steps: the bounds hold, the exact logits have the same bits, the tokens are the
// same.

#include "support/compare.hpp"
#include "support/files.hpp"
#include "support/layer_fixture.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace gpt2;
using test::check_throws;
using test::mismatch;

constexpr WeightType float_types[] = {WeightType::float32, WeightType::float16, WeightType::bfloat16};
constexpr float infinity = std::numeric_limits<float>::infinity();

ThreadPool& pool() {
    static ThreadPool threads(2);
    return threads;
}

/// Weights [N, K] and what is computed from them.
struct Head {
    Linear exact;
    ScreenedHead screen;
    const kernels::Kernels& kernels;

    Head(std::span<const float> weights, std::size_t K, WeightType type, Isa isa = choose_isa())
        : exact(packed(weights, K, type), {}), screen(ScreenedHead::of(exact.weight(), pool())),
          kernels(kernels::kernels_for(isa)) {}

    static PackedMatrix packed(std::span<const float> weights, std::size_t K, WeightType type) {
        const auto owned = test::make_tensor<float>("w", {weights.size() / K, K}, weights);
        return PackedMatrix::pack(owned.tensor, MatrixLayout::outputs_by_inputs, type, pool());
    }

    [[nodiscard]] Compute compute() const { return {kernels, pool()}; }

    [[nodiscard]] std::vector<float> logits(std::span<const float> x) const {
        std::vector<float> result(exact.weight().n_outputs());
        PackedRows packed_rows;
        exact.forward(compute(), x.data(), 1, result.data(), kernels::Epilogue::store, packed_rows);
        return result;
    }
};

/// About normal with deviation 1.
std::vector<float> normal(std::size_t n, test::Numbers& numbers) {
    std::vector<float> result(n);
    for (float& x : result) {
        x = numbers.number() + numbers.number() + numbers.number();
    }
    return result;
}

bool same_bits(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

/// The logits that decide are there, all that are there are right, and the sampler takes the same tokens.
void check_logits(const Head& head, const ScreenedHead::State& state, const Candidates& wanted,
                  std::span<const float> logits) {
    std::vector<float> scores(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(wanted.n_tokens));
    for (const TokenId token : wanted.penalized) {
        float& s = scores[static_cast<std::size_t>(token)];
        s = detail::penalized(s, wanted.repetition_penalty);
    }
    std::vector<float> sorted = scores;
    std::ranges::sort(sorted, std::greater<>());
    const float kth = sorted[wanted.k - 1];
    std::size_t wrong = 0;
    std::size_t missing = 0;
    std::set<std::size_t> panels;
    for (std::size_t n = 0; n < logits.size(); ++n) {
        const float found = state.logits.data()[n];
        if (found == -infinity) {
            missing += n < scores.size() && scores[n] >= kth ? 1 : 0;
        } else {
            wrong += same_bits(found, logits[n]) ? 0 : 1;
            panels.insert(n / 32);
        }
    }
    CHECK(wrong == 0);
    CHECK(missing == 0);
    CHECK(panels.size() == state.computed);
    Sampler sampler({.do_sample = wanted.k != 1,
                     .top_k = wanted.k,
                     .top_p = 0.9f,
                     .repetition_penalty = wanted.repetition_penalty},
                    wanted.n_tokens, head.kernels.exp_shifted);
    sampler.note(wanted.penalized);
    const auto allowed = [&](std::span<const float> all) { return all.first(wanted.n_tokens); };
    for (const double u : {0.0, 0.3, 0.999999}) {
        CHECK(sampler.next(allowed(state.logits.flat()), u) == sampler.next(allowed(logits), u));
    }
    CHECK(sampler.probabilities(allowed(state.logits.flat())) == sampler.probabilities(allowed(logits)));
}

/// How much of the bound was used, at most: the largest |s - (l + h) / 2| / ((h - l) / 2) of outputs that no
/// penalty moved.
double check_bounds(const ScreenedHead::State& state, std::span<const float> logits,
                    std::span<const TokenId> moved) {
    const auto low = state.bounds()[0];
    const auto high = state.bounds()[1];
    double used = 0.0;
    std::size_t outside = 0;
    for (std::size_t n = 0; n < logits.size(); ++n) {
        if (std::ranges::find(moved, static_cast<TokenId>(n)) != moved.end()) {
            continue;
        }
        outside += low[n] <= logits[n] && logits[n] <= high[n] ? 0 : 1;
        const double middle = (static_cast<double>(low[n]) + static_cast<double>(high[n])) / 2.0;
        const double radius = (static_cast<double>(high[n]) - static_cast<double>(low[n])) / 2.0;
        used = std::max(used, std::fabs(static_cast<double>(logits[n]) - middle) / radius);
    }
    CHECK(outside == 0);
    return used;
}

/// Screens one row in every way. @returns the share of the bound that was used, and panels for k = 1
std::pair<double, std::size_t> check_row(const Head& head, std::span<const float> x) {
    const std::vector<float> logits = head.logits(x);
    const std::size_t V = logits.size();
    std::vector<TokenId> seen;
    for (std::size_t n = 0; n + 3 < V; n += 7) {
        seen.push_back(static_cast<TokenId>(n));
    }
    double used = 0.0;
    std::size_t panels = 0;
    for (const std::size_t k : {std::size_t{1}, std::size_t{5}, std::size_t{40}}) {
        for (const float penalty : {1.0f, 1.3f, 0.6f}) {
            ScreenedHead::State state;
            const Candidates wanted{k, V - (k == 5 ? 3 : 0), penalty,
                                    penalty == 1.0f ? std::span<const TokenId>() : seen};
            head.screen.forward(head.compute(), head.exact, x.data(), wanted, state);
            REQUIRE(state.screened);
            check_logits(head, state, wanted, logits);
            used = std::max(used, check_bounds(state, logits, wanted.penalized));
            panels = k == 1 && penalty == 1.0f ? state.computed : panels;
        }
    }
    return {used, panels};
}

} // namespace

TEST_CASE("ScreenedHead: random heads and rows of all kinds, on all levels") {
    std::size_t few = 0;
    for (const Isa isa : test::levels()) {
        for (const WeightType type : float_types) {
            for (const auto& [inputs, outputs] : {std::pair{45, 259}, {64, 1000}, {257, 515}}) {
                const auto n = static_cast<std::size_t>(inputs);
                CAPTURE(to_string(isa));
                CAPTURE(to_string(type));
                CAPTURE(n);
                test::Numbers numbers(n);
                const Head head(normal(n * static_cast<std::size_t>(outputs), numbers), n, type, isa);
                std::vector<float> x = normal(n, numbers);
                const auto [used, panels] = check_row(head, x);
                few += panels < 8 ? 1 : 0;
                for (const float outlier : {100.0f, -1e6f, 1e30f}) { // beside which the others are nothing
                    std::vector<float> row = x;
                    row[n / 2] = outlier;
                    check_row(head, row);
                }
                for (const float scale : {0.0f, 1e-42f, 1e-30f, 1e-18f, 1e18f}) {
                    std::vector<float> row = x;
                    std::ranges::for_each(row, [scale](float& value) { value *= scale; });
                    check_row(head, row);
                }
                std::vector<float> single(n);
                single[n - 1] = 3.0f;
                check_row(head, single);
            }
        }
    }
    CHECK(few >= test::levels().size()); // or this tests nothing
}

TEST_CASE("ScreenedHead: the bound is used up by a row that lies in the direction of the error") {
    constexpr std::size_t K = 256;
    test::Numbers numbers(3);
    const Head head(normal(K * 500, numbers), K, WeightType::float32);
    const PackedMatrix copy = head.exact.weight().converted(WeightType::int8, pool(), "w");
    double most = 0.0;
    for (std::size_t n = 0; n < 500; n += 25) {
        std::vector<float> w(K);
        std::vector<float> v(K);
        head.exact.weight().read_output(n, w.data());
        copy.read_output(n, v.data());
        for (std::size_t k = 0; k < K; ++k) {
            w[k] = 1e3f * (w[k] - v[k]);
        }
        most = std::max(most, check_row(head, w).first);
    }
    CHECK(most > 0.95);
    CHECK(most <= 1.0);
}

TEST_CASE("ScreenedHead: equal rows, and rows next to equal") {
    constexpr std::size_t K = 96;
    constexpr std::size_t V = 700;
    for (const WeightType type : float_types) {
        CAPTURE(to_string(type));
        for (std::uint64_t seed = 1; seed <= 12; ++seed) {
            test::Numbers numbers(seed);
            std::vector<float> weights = normal(K * V, numbers);
            const std::vector<float> x = normal(K, numbers);
            const std::vector<float> logits = Head(weights, K, type).logits(x);
            const auto best = static_cast<std::size_t>(detail::argmax(logits));
            const auto row = [&](std::size_t n) { return std::span(weights).subspan(n * K, K); };
            // The best row once more, before and behind it, and with one weight a unit in the last place
            // larger or smaller.
            for (std::size_t i = 0; i < 20; ++i) {
                const std::size_t n = numbers.bits() % V;
                std::ranges::copy(row(best), row(n).begin());
                if (i >= 4) {
                    float& weight = row(n)[numbers.bits() % K];
                    weight = std::nextafter(weight, i % 2 == 0 ? 9.0f : -9.0f);
                }
            }
            const auto [used, panels] = check_row(Head(weights, K, type), x);
            CHECK(panels < kernels::panel_count(V));
        }
    }
    // All rows equal: nothing can be left out, and the first token wins.
    std::vector<float> weights;
    test::Numbers numbers(7);
    const std::vector<float> one = normal(K, numbers);
    for (std::size_t n = 0; n < V; ++n) {
        weights.insert(weights.end(), one.begin(), one.end());
    }
    CHECK(check_row(Head(weights, K, WeightType::float32), one).second == kernels::panel_count(V));
}

TEST_CASE("ScreenedHead: rows that may overflow, infinities and NaN go through the whole head") {
    constexpr std::size_t K = 64;
    constexpr std::size_t V = 300;
    test::Numbers numbers(5);
    const Head head(normal(K * V, numbers), K, WeightType::float32);
    const std::vector<float> x = normal(K, numbers);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, 3e38f}) {
        CAPTURE(bad);
        std::vector<float> row = x;
        row[17] = bad;
        const std::vector<float> logits = head.logits(row);
        ScreenedHead::State state;
        head.screen.forward(head.compute(), head.exact, row.data(), {1, V}, state);
        CHECK(!state.screened);
        CHECK(std::memcmp(state.logits.data(), logits.data(), V * sizeof(float)) == 0);
    }
    std::vector<float> large = normal(K * V, numbers);
    large[100] = 3e38f; // |w| is beyond float, |x||w| beyond the limit
    const Head wide(large, K, WeightType::float32);
    const std::vector<float> logits = wide.logits(x);
    ScreenedHead::State state;
    wide.screen.forward(wide.compute(), wide.exact, x.data(), {1, V}, state);
    CHECK(!state.screened);
    CHECK(std::memcmp(state.logits.data(), logits.data(), V * sizeof(float)) == 0);
}

TEST_CASE("ScreenedHead: where it does not pay it pauses, longer and longer") {
    constexpr std::size_t K = 64;
    constexpr std::size_t V = 640;
    test::Numbers numbers(6);
    const Head head(normal(K * V, numbers), K, WeightType::float16);
    const std::vector<float> nothing(K); // all logits are equal
    const std::vector<float> x = normal(K, numbers);
    ScreenedHead::State state;
    const auto screened = [&](std::span<const float> row, int rows) {
        int count = 0;
        for (int i = 0; i < rows; ++i) {
            head.screen.forward(head.compute(), head.exact, row.data(), {1, V}, state);
            count += state.screened ? 1 : 0;
            CHECK(detail::argmax(state.logits.flat()) == detail::argmax(head.logits(row)));
        }
        return count;
    };
    CHECK(screened(nothing, 1) == 1);
    CHECK(screened(nothing, 1) == 0);     // 1
    CHECK(screened(nothing, 4) == 1 + 1); // screened, 2 not, screened
    CHECK(screened(nothing, 4 + 9 + 17 + 33 + 65 + 65) == 5);
    CHECK(screened(nothing, 1) == 1);
    CHECK(screened(x, 65) == 1); // 64 not; pays again
    CHECK(screened(x, 100) == 100);
}

TEST_CASE("ScreenedHead: a head of GPT-2's size") {
    constexpr std::size_t K = 768;
    constexpr std::size_t V = 50257;
    test::Numbers numbers(8);
    std::vector<float> weights = numbers.numbers(K * V, 0.1f);
    const Head head(weights, K, WeightType::float16);
    const auto [used, panels] = check_row(head, normal(K, numbers));
    CHECK(panels < 40);
}

TEST_CASE("ScreenedHead: formats and weights that it is not for") {
    test::Numbers numbers(9);
    const std::vector<float> weights = normal(45 * 70, numbers);
    for (const WeightType type : {WeightType::int8, WeightType::int4}) {
        check_throws<OptionError>([&] { const Head head(weights, 45, type); },
                                  {"screen_head", "float16", to_string(type)});
    }
    std::vector<float> bad = weights;
    for (const float value : {infinity, std::numeric_limits<float>::quiet_NaN()}) {
        bad[45 * 69 + 44] = value;
        check_throws<NumericError>([&] { const Head head(bad, 45, WeightType::float32); },
                                   {"screen_head", "64", "finite"});
    }
}

namespace {

/// A model without and with a screen.
struct Pair {
    Gpt2Model plain;
    Gpt2Model screened;

    explicit Pair(const std::filesystem::path& path, LoadOptions options = {})
        : plain(Gpt2Model::load(path, options)), screened(Gpt2Model::load(path, with_screen(options))) {}

    static LoadOptions with_screen(LoadOptions options) {
        options.screen_head = true;
        return options;
    }
};

Pair random_pair(const Config& config, const test::Edit& edit = {}) {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), config, {}, edit);
    return Pair(directory.path());
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

/// Writes a text with both, and compares all that comes out. @returns what was saved
Screening check_text(const Pair& models, std::span<const TokenId> prompt, const GenerationConfig& config) {
    Session plain(models.plain);
    Session screened(models.screened);
    std::string streamed;
    const GenerationResult expected = plain.generate(prompt, config);
    const GenerationResult found = screened.generate(prompt, config, [&](const GeneratedToken& token) {
        streamed += token.text;
        return Flow::proceed;
    });
    CHECK(found.tokens == expected.tokens);
    CHECK(found.text == expected.text);
    CHECK(streamed == expected.text);
    CHECK(found.logprobs == expected.logprobs);
    CHECK(found.finish_reason == expected.finish_reason);
    CHECK(expected.screening.tokens == 0);
    CHECK(screened.position() == plain.position());
    CHECK(mismatch(screened.logits().flat(), plain.logits().flat()) == "");
    // And on from there: without a prompt, and scored.
    GenerationConfig more = config;
    more.max_new_tokens = 3;
    more.overflow = Overflow::slide;
    CHECK(screened.generate({}, more).tokens == plain.generate({}, more).tokens);
    if (plain.position() + 2 <= models.plain.config().n_positions) {
        const std::array<TokenId, 2> two{3, 1};
        CHECK(mismatch(screened.score(two), plain.score(two)) == "");
    }
    return found.screening;
}

} // namespace

TEST_CASE("screen_head: the default model writes the same texts, thousands of tokens") {
    for (const WeightType type : float_types) {
        CAPTURE(to_string(type));
        const Pair models(test::novella(), {.weights = type});
        Screening sum;
        const auto add = [&](std::string_view prompt, GenerationConfig config) {
            config.max_new_tokens = 160;
            config.ignore_eos = true;
            const Screening found = check_text(models, models.plain.encode_prompt(prompt), config);
            sum.tokens += found.tokens;
            sum.panels += found.panels;
            sum.all += found.all;
        };
        add("There was once a poor woodcutter who", {});
        add("", {.repetition_penalty = 1.2f});
        for (const std::int64_t k : {1, 5, 40}) {
            add("The house by the sea", {.do_sample = true, .temperature = 1.1f, .top_k = k, .seed = 7});
        }
        add("", {.do_sample = true, .top_k = 40, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 1});
        CHECK(sum.tokens > 5 * 159);
        CHECK(sum.panels * 5 < sum.all);
    }
}

TEST_CASE("screen_head: random models, the window slides") {
    Config config = test::odd_config();
    for (const bool enlarged : {false, true}) {
        const Pair models = random_pair(config, enlarged ? test::Edit(test::enlarge_matrices) : test::Edit{});
        const auto prompt = test::some_tokens(20, test::byte_vocabulary_size);
        for (const std::int64_t k : {0, 1, 5, 40}) {
            GenerationConfig options{.max_new_tokens = 400, .ignore_eos = true, .overflow = Overflow::slide};
            if (k != 0) {
                options.do_sample = true;
                options.top_k = k;
                options.seed = 3;
            }
            const Screening found = check_text(models, prompt, options);
            CHECK(found.tokens > 0);
        }
    }
}

TEST_CASE("screen_head: tokens that the tokenizer does not have are not in the way") {
    Config config = test::odd_config();
    config.vocab_size = 400;
    const std::size_t C = config.n_embd;
    const Pair models = random_pair(config, [=](std::string_view name, std::span<float> values) {
        if (name == "wte.weight") { // larger logits, of either sign
            for (float& value : values.subspan(test::byte_vocabulary_size * C)) {
                value *= 50.0f;
            }
        }
    });
    const auto prompt = test::some_tokens(9, test::byte_vocabulary_size);
    CHECK(check_text(models, prompt, {.max_new_tokens = 100}).tokens > 0);
    CHECK(
        check_text(models, prompt, {.max_new_tokens = 100, .do_sample = true, .top_k = 5, .seed = 1}).tokens >
        0);
}

TEST_CASE("screen_head: what needs all logits gets them") {
    const Pair models(test::novella());
    const auto prompt = models.plain.encode_prompt("It was");
    CHECK(check_text(models, prompt, {.logprobs = true}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .seed = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .top_k = 0, .seed = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .top_k = 8192, .seed = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .top_p = 0.9f, .seed = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .min_p = 0.1f, .seed = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.do_sample = true, .temperature = 0.0f}).tokens == 19);
    CHECK(check_text(models, prompt, {.max_new_tokens = 1}).tokens == 0);
    CHECK(check_text(models, prompt, {.max_new_tokens = 0}).tokens == 0);
    CHECK(check_text(models, prompt, {.max_new_tokens = 100, .stop_strings = {"."}}).tokens > 0);
    // forward() and score() are as ever.
    Session plain(models.plain);
    Session screened(models.screened);
    CHECK(mismatch(screened.forward(prompt), plain.forward(prompt)) == "");
}

TEST_CASE("screen_head: a callback sees no logits, and an exception leaves the session complete") {
    const Pair models(test::novella());
    const auto prompt = models.plain.encode_prompt("Once upon a time");
    const auto run = [&](const Gpt2Model& model, Session& session, std::vector<std::size_t>& rows) {
        std::size_t count = 0;
        CHECK_THROWS_AS(session.generate(prompt, {.max_new_tokens = 20},
                                         [&](const GeneratedToken&) {
                                             rows.push_back(session.logits().dim(0));
                                             if (++count == 5) {
                                                 throw std::runtime_error("enough");
                                             }
                                             return Flow::proceed;
                                         }),
                        std::runtime_error);
        CHECK(session.position() == prompt.size() + 4);
        CHECK(model.config().vocab_size == session.logits().flat().size());
    };
    Session plain(models.plain);
    Session screened(models.screened);
    std::vector<std::size_t> plain_rows;
    std::vector<std::size_t> screened_rows;
    run(models.plain, plain, plain_rows);
    run(models.screened, screened, screened_rows);
    CHECK(plain_rows == std::vector<std::size_t>{1, 1, 1, 1, 1});
    CHECK(screened_rows == std::vector<std::size_t>{1, 0, 0, 0, 0});
    CHECK(mismatch(screened.logits().flat(), plain.logits().flat()) == "");
}

TEST_CASE("screen_head: numbers that are not finite are the same error, and no session moves") {
    // A position whose embedding is beyond what the layers can take.
    const Config config = test::odd_config();
    for (const bool in_head : {false, true}) {
        CAPTURE(in_head);
        const Pair models = random_pair(config, [=](std::string_view name, std::span<float> values) {
            if (name == "wpe.weight" && !in_head) {
                std::ranges::fill(values.subspan(14 * config.n_embd, config.n_embd), 3e38f);
            }
            if (name == "wpe.weight" && in_head) { // input 3 of position 14 alone, ...
                for (std::size_t i = 3; i < values.size(); i += config.n_embd) {
                    values[i] = i / config.n_embd == 14 ? 1.0f : 0.0f;
                }
            }
            if (name == "ln_f.weight" && in_head) {
                values[3] = 1e38f;
            }
            if (name == "wte.weight" && in_head) { // ... and that is too much for token 200 only
                for (std::size_t i = 3; i < values.size(); i += config.n_embd) {
                    values[i] = 0.0f;
                }
                values[200 * config.n_embd + 3] = 1.0f;
            }
        });
        const auto prompt = test::some_tokens(10, 200);
        std::array<std::string, 2> messages;
        std::array<std::vector<float>, 2> logits;
        std::array<std::vector<TokenId>, 2> tokens;
        for (std::size_t i = 0; i < 2; ++i) {
            Session session(i == 0 ? models.plain : models.screened);
            try {
                (void)session.generate(prompt, {.max_new_tokens = 50, .ignore_eos = true});
            } catch (const NumericError& error) {
                messages[i] = error.what();
            }
            logits[i] = copy(session.logits().flat());
            tokens[i].assign(session.tokens().begin(), session.tokens().end());
        }
        CAPTURE(messages[0]);
        CHECK(messages[0] != "");
        CHECK(messages[1] == messages[0]);
        CHECK(tokens[1] == tokens[0]);
        CHECK(mismatch(logits[1], logits[0]) == "");
    }
}

TEST_CASE("screen_head: which heads it is for") {
    using Types = std::optional<WeightType>;
    const auto load = [](Types weights, Types head) {
        return Gpt2Model::load(test::novella(), {.weights = weights, .head = head, .screen_head = true});
    };
    for (const auto& types :
         {std::pair<Types, Types>{WeightType::int8, {}}, {WeightType::int4, {}}, {{}, WeightType::int4}}) {
        check_throws<OptionError>([&] { (void)load(types.first, types.second); }, {"screen_head", "int"});
    }
    CHECK_NOTHROW((void)load(WeightType::int4, WeightType::float16));
    // Weights of a converted file that are not finite, which nobody has looked at before.
    const std::string file = test::read_file(test::novella());
    Tensor<std::byte, 1> bytes({file.size()});
    std::memcpy(bytes.data(), file.data(), file.size());
    const ConvertedModel converted = ConvertedModel::from_bytes(bytes.flat(), "bytes");
    const std::ptrdiff_t at = converted.matrix("wte.weight").panels() - bytes.data();
    REQUIRE(at > 0);
    const std::uint16_t nan = 0x7e00;
    std::memcpy(bytes.data() + at + 64, &nan, sizeof nan);
    CHECK_NOTHROW((void)Gpt2Model::load(bytes.flat()));
    check_throws<NumericError>([&] { (void)Gpt2Model::load(bytes.flat(), {.screen_head = true}); },
                               {"screen_head", "finite"});
}
