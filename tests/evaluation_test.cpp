// SPDX-License-Identifier: MIT
#include "support/files.hpp"
#include "support/models.hpp"

#include <gpt2/evaluation.hpp>
#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using gpt2::TokenId;
namespace evaluation = gpt2::evaluation;
namespace test = gpt2::test;

namespace {

const std::filesystem::path data = std::filesystem::path(GPT2_SOURCE_DIR) / "tests" / "data";

std::string heldout() {
    return test::read_file(data / "heldout.txt");
}

/// A model of odd extents with random weights and a vocabulary of bytes.
gpt2::Gpt2Model small_model(const test::Edit& edit = test::enlarge_matrices) {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), test::odd_config(), {}, edit);
    return gpt2::Gpt2Model::load(directory.path());
}

std::vector<float> random_logits(std::size_t n, std::uint32_t seed, float spread = 3.0f) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> logits(n);
    std::ranges::generate(logits, [&] { return normal(random); });
    return logits;
}

/// p ln(p / q) summed in long double from the definition.
long double exact_kl(std::span<const float> reference, std::span<const float> candidate) {
    const auto log_sum = [](std::span<const float> x) {
        long double sum = 0.0L;
        for (const float v : x) {
            sum += std::exp(static_cast<long double>(v));
        }
        return std::log(sum);
    };
    const long double p_sum = log_sum(reference);
    const long double q_sum = log_sum(candidate);
    long double kl = 0.0L;
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const long double log_p = static_cast<long double>(reference[i]) - p_sum;
        kl += std::exp(log_p) * (log_p - (static_cast<long double>(candidate[i]) - q_sum));
    }
    return kl;
}

evaluation::TextScore score_text(evaluation::Scorer& scorer, std::string_view text,
                                 const evaluation::WindowOptions& options) {
    evaluation::SlidingWindows windows(scorer.model(), text, options);
    evaluation::TextScore score;
    while (evaluation::score_next(scorer, windows, score)) {
    }
    return score;
}

} // namespace

TEST_CASE("running statistics are those of the whole") {
    std::mt19937 random(1);
    std::vector<double> values(1000);
    evaluation::RunningStatistics running;
    for (double& value : values) {
        value = 1e6 + static_cast<double>(random() % 1000) / 7.0;
        running.add(value);
    }
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / 1000.0;
    double squares = 0.0;
    for (const double value : values) {
        squares += (value - mean) * (value - mean);
    }
    CHECK(running.count == 1000);
    CHECK(running.mean == doctest::Approx(mean).epsilon(1e-14));
    CHECK(running.variance() == doctest::Approx(squares / 999.0).epsilon(1e-10));
    CHECK(running.standard_error() == doctest::Approx(std::sqrt(squares / 999.0 / 1000.0)).epsilon(1e-10));

    evaluation::RunningStatistics few;
    CHECK(few.standard_error() == 0.0);
    few.add(std::log(8.0));
    CHECK(few.variance() == 0.0);
    CHECK(evaluation::exponential(few).value == doctest::Approx(8.0).epsilon(1e-15));
    few.add(std::log(2.0)); // a mean of ln 4, a deviation of sqrt(2) ln 2, a standard error of ln 2
    CHECK(evaluation::exponential(few).value == doctest::Approx(4.0).epsilon(1e-15));
    CHECK(evaluation::exponential(few).standard_error == doctest::Approx(4.0 * std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("shares and percentiles") {
    CHECK(evaluation::proportion(0, 0).value == 0.0);
    CHECK(evaluation::proportion(3, 4).value == 0.75);
    CHECK(evaluation::proportion(3, 4).standard_error == doctest::Approx(std::sqrt(0.75 * 0.25 / 4.0)));
    CHECK(evaluation::proportion(4, 4).standard_error == 0.0);
    const std::vector<double> numbers{1.0, 2.0, 4.0, 8.0};
    CHECK(evaluation::percentile(numbers, 0.0) == 1.0);
    CHECK(evaluation::percentile(numbers, 0.5) == 3.0);
    CHECK(evaluation::percentile(numbers, 0.9) == doctest::Approx(6.8)); // numpy.percentile(numbers, 90)
    CHECK(evaluation::percentile(numbers, 1.0) == 8.0);
    const auto percentile = [&](std::span<const double> x, double share) {
        return [=] { (void)evaluation::percentile(x, share); };
    };
    test::check_throws<gpt2::OptionError>(percentile({}, 0.5), {"percentile", "found 0 numbers"});
    test::check_throws<gpt2::OptionError>(percentile(numbers, 1.5), {"share from 0 to 1", "1.5"});
    test::check_throws<gpt2::OptionError>(percentile(numbers, std::nan("")), {"share from 0 to 1"});
}

TEST_CASE("the divergence of known pairs") {
    evaluation::LogitsComparison comparison;
    const std::vector<float> even{0.0f, 0.0f};
    const std::vector<float> uneven{0.0f, std::log(3.0f)}; // 1/4 and 3/4
    const evaluation::Divergence found = comparison.compare(even, uneven);
    CHECK(found.kl == doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0)).epsilon(1e-6));
    CHECK(found.largest_change == doctest::Approx(0.25).epsilon(1e-6));
    CHECK_FALSE(found.same_first);
    CHECK(found.shared_top == 2);

    const std::vector<float> logits = random_logits(1000, 1);
    const evaluation::Divergence same = comparison.compare(logits, logits);
    CHECK(same.kl == 0.0);
    CHECK(same.largest_change == 0.0);
    CHECK(same.same_first);
    CHECK(same.shared_top == evaluation::top_size);
}

TEST_CASE("the divergence is right to six digits, however small") {
    const gpt2::Isa isa = gpt2::choose_isa();
    for (const float difference : {1e-4f, 1e-3f, 1e-2f, 0.1f, 1.0f, 5.0f}) {
        const std::vector<float> reference = random_logits(5003, 2);
        std::vector<float> candidate = random_logits(5003, 3, difference);
        for (std::size_t i = 0; i < reference.size(); ++i) {
            candidate[i] += reference[i];
        }
        const auto expected = static_cast<double>(exact_kl(reference, candidate));
        for (const gpt2::ExpShifted exp : {gpt2::ExpShifted(gpt2::detail::exp_shifted_portable),
                                           gpt2::ExpShifted(gpt2::kernels::kernels_for(isa).exp_shifted)}) {
            evaluation::LogitsComparison comparison(exp);
            CAPTURE(difference);
            CHECK(comparison.compare(reference, candidate).kl == doctest::Approx(expected).epsilon(2e-6));
        }
    }
}

TEST_CASE("rows that cannot be compared") {
    evaluation::LogitsComparison comparison;
    const std::vector<float> two{1.0f, 2.0f};
    const std::vector<float> three{1.0f, 2.0f, 3.0f};
    const std::vector<float> bad{1.0f, std::numeric_limits<float>::quiet_NaN()};
    const auto compare = [&](const std::vector<float>& a, const std::vector<float>& b) {
        return [&] { (void)comparison.compare(a, b); };
    };
    test::check_throws<gpt2::OptionError>(compare(two, three), {"one vocabulary", "2 and 3"});
    test::check_throws<gpt2::OptionError>(compare({}, {}), {"0 and 0"});
    test::check_throws<gpt2::NumericError>(compare(two, bad), {"token 1", "nan"});
    test::check_throws<gpt2::NumericError>(compare(bad, two), {"token 1", "nan"});
}

TEST_CASE("the most likely tokens: the lower id on ties, all when there are few") {
    const std::vector<float> logits{1.0f, 7.0f, 3.0f, 7.0f, 3.0f, -1.0f, 3.0f};
    CHECK(gpt2::most_likely(logits, 5) == std::vector<TokenId>{1, 3, 2, 4, 6});
    CHECK(gpt2::most_likely(logits, 1) == std::vector<TokenId>{1});
    CHECK(gpt2::most_likely(logits, 0).empty());
    CHECK(gpt2::most_likely(std::span(logits).first(2), 5) == std::vector<TokenId>{1, 0});
    const std::vector<float> many = random_logits(3000, 5);
    std::vector<TokenId> ids(many.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::stable_sort(ids, std::greater<>(),
                             [&](TokenId id) { return many[static_cast<std::size_t>(id)]; });
    ids.resize(20);
    CHECK(gpt2::most_likely(many, 20) == ids);
}

TEST_CASE("details of a token: rank by ties, entropy, the most likely") {
    const std::vector<float> logits = random_logits(1001, 7);
    std::vector<float> scratch;
    for (const gpt2::ExpShifted exp :
         {gpt2::detail::exp_shifted_portable, gpt2::kernels::kernels_for(gpt2::choose_isa()).exp_shifted}) {
        long double sum = 0.0L;
        for (const float x : logits) {
            sum += std::exp(static_cast<long double>(x));
        }
        long double entropy = 0.0L;
        for (const float x : logits) {
            const long double log_p = static_cast<long double>(x) - std::log(sum);
            entropy -= std::exp(log_p) * log_p;
        }
        for (const TokenId token : {0, 500, 1000}) {
            const auto found = evaluation::token_details(logits, token, 3, exp, scratch);
            const float logit = logits[static_cast<std::size_t>(token)];
            CHECK(found.log_probability == gpt2::log_softmax(logits, token, exp, scratch));
            CHECK(found.entropy == doctest::Approx(static_cast<double>(entropy)).epsilon(1e-6));
            CHECK(found.rank == 1 + static_cast<std::size_t>(
                                        std::ranges::count_if(logits, [&](float x) { return x > logit; })));
            REQUIRE(found.most_likely.size() == 3);
            for (const auto& likely : found.most_likely) {
                CHECK(likely.log_probability ==
                      doctest::Approx(gpt2::log_softmax(logits, likely.token, exp, scratch)).epsilon(1e-12));
            }
        }
    }
    const std::vector<float> even(8, 0.25f);
    for (const TokenId token : {0, 3, 7}) {
        const auto found =
            evaluation::token_details(even, token, 2, gpt2::detail::exp_shifted_portable, scratch);
        CHECK(found.rank == static_cast<std::size_t>(token) + 1);
        CHECK(found.entropy == doctest::Approx(std::log(8.0)).epsilon(1e-12));
        CHECK(found.most_likely[1].token == 1);
    }
    const std::vector<float> certain{0.0f, 200.0f};
    CHECK(evaluation::token_details(certain, 1, 1, gpt2::detail::exp_shifted_portable, scratch).entropy ==
          0.0);
    const std::vector<float> bad{0.0f, std::numeric_limits<float>::quiet_NaN()};
    CHECK_THROWS_AS((void)evaluation::token_details(bad, 0, 1, gpt2::detail::exp_shifted_portable, scratch),
                    gpt2::NumericError);
}

TEST_CASE("a text that is encoded piece by piece has the tokens of the whole") {
    const auto tokenizer = gpt2::Tokenizer::load(test::novella());
    const std::string text =
        heldout().substr(0, 20000) + "\n\n  a  b\t c don' t 's x\xff y \xc3\xa9 z  \n end ";
    const std::vector<TokenId> expected = tokenizer.encode(text);
    for (const std::size_t piece : {1u, 2u, 7u, 100u, 5000u, 1000000u}) {
        evaluation::TokenStream stream(tokenizer, text, 5, 100000, piece);
        std::vector<TokenId> found;
        for (auto some = stream.peek(13); !some.empty(); some = stream.peek(13)) {
            found.insert(found.end(), some.begin(), some.end());
            stream.drop(some.size());
        }
        CAPTURE(piece);
        REQUIRE(found.size() == expected.size() + 1);
        CHECK(found[0] == 5);
        CHECK(std::equal(expected.begin(), expected.end(), found.begin() + 1));
    }
    evaluation::TokenStream limited(tokenizer, text, {}, 10, 3);
    CHECK(limited.peek(100).size() == 10);
    limited.drop(4);
    CHECK(limited.peek(100).size() == 6);
    limited.drop(100);
    CHECK(limited.peek(1).empty());
    evaluation::TokenStream none(tokenizer, "");
    CHECK(none.peek(1).empty());
}

TEST_CASE("windows score each token once, with the context that the stride allows") {
    const gpt2::Gpt2Model model = small_model();
    for (const std::size_t size : {0u, 1u, 2u, 7u, 8u, 9u, 50u, 400u}) {
        const std::string text(size, 'x');
        for (const std::size_t window : {1u, 2u, 8u, 150u}) {
            for (const std::size_t stride : {1u, 2u, 5u, 8u, 150u}) {
                if (stride > window) {
                    continue;
                }
                CAPTURE(size);
                CAPTURE(window);
                CAPTURE(stride);
                evaluation::SlidingWindows windows(model, text, {.window = window, .stride = stride});
                std::size_t token = 1; // of the stream, whose token 0 is the start token
                std::size_t number = 0;
                for (auto passages = windows.next(); !passages.empty(); passages = windows.next()) {
                    for (const auto& passage : passages) {
                        REQUIRE(passage.tokens.size() <= window + 1);
                        for (std::size_t i = passage.first; i < passage.tokens.size(); ++i, ++token) {
                            // The first window that ends behind the token's predecessor.
                            std::size_t expected = 0;
                            while (expected * stride + window < token) {
                                ++expected;
                            }
                            REQUIRE(number == expected);
                            REQUIRE(i == token - number * stride);
                        }
                        ++number;
                    }
                }
                CHECK(token == size + 1);
            }
        }
    }
}

TEST_CASE("scores are those of each token's context alone, whatever the batch, the threads, a resumption") {
    const gpt2::Gpt2Model model = small_model();
    std::string text;
    for (const TokenId id : test::some_tokens(333, 256)) {
        text += static_cast<char>(id);
    }
    std::vector<TokenId> tokens = model.tokenizer().encode(text);
    tokens.insert(tokens.begin(), 256);
    const std::pair<std::size_t, std::size_t> cuts[] = {{150, 150}, {150, 31}, {40, 40}, {40, 13}, {7, 1}};
    for (const auto& cut : cuts) {
        const std::size_t window = cut.first; // a structured binding cannot be captured by Clang 14
        const std::size_t stride = cut.second;
        CAPTURE(window);
        CAPTURE(stride);
        evaluation::TextScore expected;
        std::vector<float> scratch;
        for (std::size_t t = 1; t < tokens.size(); ++t) {
            const std::size_t begin = t <= window ? 0 : (t - window + stride - 1) / stride * stride;
            gpt2::Session session(model);
            const auto logits = session.forward(std::span(tokens).subspan(begin, t - begin));
            expected.add(model.tokenizer().token_bytes(tokens[t]),
                         -gpt2::log_softmax(logits, tokens[t],
                                            gpt2::kernels::kernels_for(model.isa()).exp_shifted, scratch));
        }
        const evaluation::WindowOptions options{.window = window, .stride = stride};
        for (const std::size_t threads : {1u, 2u}) {
            evaluation::Scorer scorer(model, {.pool = std::make_shared<gpt2::ThreadPool>(threads)});
            evaluation::TextScore found = score_text(scorer, text, options);
            expected.windows = found.windows;
            CHECK(found == expected);

            found = {};
            while (true) { // a new start after every batch of windows
                evaluation::SlidingWindows windows(model, text, options, found.windows);
                if (!evaluation::score_next(scorer, windows, found)) {
                    break;
                }
            }
            CHECK(found == expected);
        }
    }
}

TEST_CASE("passages of all lengths are what they are alone") {
    const gpt2::Gpt2Model model = small_model();
    evaluation::Scorer scorer(model);
    std::vector<std::vector<TokenId>> texts;
    std::vector<evaluation::Passage> passages;
    for (std::uint32_t i = 0; i < 50; ++i) {
        texts.push_back(test::some_tokens(2 + i * 37 % 149, 259, i));
    }
    for (const auto& text : texts) {
        passages.push_back({text, 1 + text.size() / 2 % (text.size() - 1)});
    }
    std::vector<evaluation::TokenScore> alone;
    for (const auto& passage : passages) {
        const auto scores = scorer.score({&passage, 1});
        REQUIRE(scores.size() == passage.rows());
        alone.insert(alone.end(), scores.begin(), scores.end());
    }
    const auto together = scorer.score(passages);
    REQUIRE(together.size() == alone.size());
    for (std::size_t i = 0; i < alone.size(); ++i) {
        CHECK(together[i].log_probability == alone[i].log_probability);
        CHECK(together[i].is_first == alone[i].is_first);
    }
    const std::vector<TokenId> one{1};
    const evaluation::Passage nothing{one, 1};
    test::check_throws<gpt2::OptionError>(
        [&] {
            (void)scorer.score({&nothing, 1});
        },
        {"passage 0", "found 1"});
    const auto long_text = test::some_tokens(152, 259);
    const evaluation::Passage too_long{long_text, 1};
    test::check_throws<gpt2::ContextError>([&] { (void)scorer.score({&too_long, 1}); }, {"150", "151"});
}

TEST_CASE("a uniform model's perplexity is the size of its vocabulary") {
    const gpt2::Gpt2Model model =
        small_model([](std::string_view, std::span<float> values) { std::ranges::fill(values, 0.0f); });
    evaluation::Scorer scorer(model);
    const std::string text = "two words and some more\n";
    const evaluation::TextScore score = score_text(scorer, text, {});
    CHECK(score.nll.count == text.size());
    CHECK(score.bytes == text.size());
    CHECK(score.words == 5);
    const auto V = static_cast<double>(test::byte_vocabulary_size);
    CHECK(score.perplexity().value == doctest::Approx(V).epsilon(1e-13));
    CHECK(score.perplexity().standard_error < 1e-10);
    CHECK(score.bits_per_byte().value == doctest::Approx(std::log2(V)).epsilon(1e-13));
    CHECK(score.word_perplexity().value ==
          doctest::Approx(std::pow(V, static_cast<double>(text.size()) / 5.0)).epsilon(1e-10));

    CHECK(score_text(scorer, text, {.limit = 3}).nll.count == 3);
    CHECK(score_text(scorer, text, {.start_token = false}).nll.count == text.size() - 1);
    CHECK(score_text(scorer, "", {}).nll.count == 0);
}

TEST_CASE("window options that make no sense") {
    const gpt2::Gpt2Model model = small_model();
    const auto make = [&](const evaluation::WindowOptions& options) {
        return [&model, options] { evaluation::SlidingWindows(model, "text", options); };
    };
    test::check_throws<gpt2::OptionError>(make({.window = 151}), {"window", "150", "151"});
    test::check_throws<gpt2::OptionError>(make({.window = 10, .stride = 11}), {"stride", "10", "11"});
}

TEST_CASE("numbers that are not finite are an error that names the place") {
    const gpt2::Gpt2Model model = small_model([](std::string_view name, std::span<float> values) {
        if (name == "ln_f.weight") {
            std::ranges::fill(values, 3e38f);
        }
    });
    evaluation::Scorer scorer(model);
    evaluation::SlidingWindows windows(model, "some text");
    evaluation::TextScore score;
    test::check_throws<gpt2::NumericError>([&] { evaluation::score_next(scorer, windows, score); },
                                           {"after 0 tokens (0 bytes) of the text", "finite"});
    CHECK(score == evaluation::TextScore());
}

TEST_CASE("a model beside itself, and beside another") {
    const gpt2::Gpt2Model model = small_model();
    const gpt2::Gpt2Model other = small_model([](std::string_view name, std::span<float> values) {
        test::enlarge_matrices(name, values);
        if (name == "ln_f.bias") {
            values[3] += 0.5f;
        }
    });
    const std::string text = "the other text, of some bytes";
    evaluation::Scorer reference(model);
    for (const gpt2::Gpt2Model& candidate_model : {model, other}) {
        evaluation::Scorer candidate(candidate_model);
        evaluation::Scorer* const both[] = {&reference, &candidate};
        evaluation::SlidingWindows windows(model, text, {.window = 8, .stride = 3});
        evaluation::Comparison comparison;
        double kl = 0.0;
        for (auto passages = windows.next(); !passages.empty(); passages = windows.next()) {
            evaluation::Scorer::run(both, passages, [&](std::span<const evaluation::ScoredRows> rows) {
                for (std::size_t i = 0; i < rows[0].targets.size(); ++i) {
                    kl += static_cast<double>(exact_kl(rows[0].logits[i].flat(), rows[1].logits[i].flat()));
                }
                for (const auto& row : evaluation::compare_rows(candidate, rows[0], rows[1])) {
                    comparison.add(row);
                }
            });
        }
        const auto n = static_cast<double>(comparison.tokens());
        const double shares[] = {0.0, 0.5, 1.0};
        const auto percentiles = comparison.kl_percentiles(shares);
        CHECK(n == static_cast<double>(model.tokenizer().encode(text).size()));
        CHECK(comparison.kl().value == doctest::Approx(kl / n).epsilon(1e-5));
        CHECK(std::ranges::is_sorted(percentiles));
        CHECK(comparison.reference_perplexity().value ==
              doctest::Approx(score_text(reference, text, {.window = 8, .stride = 3}).perplexity().value));
        CHECK(comparison.perplexity_ratio().value ==
              doctest::Approx(comparison.candidate_perplexity().value /
                              comparison.reference_perplexity().value));
        if (&candidate_model.config() == &model.config()) {
            CHECK(comparison.kl().value == 0.0);
            CHECK(comparison.top1_agreement().value == 1.0);
            CHECK(comparison.top5_agreement().value == 1.0);
            CHECK(comparison.largest_probability_change() == 0.0);
            CHECK(comparison.perplexity_ratio().value == 1.0);
            CHECK(comparison.perplexity_ratio().standard_error == 0.0);
        } else {
            CHECK(percentiles.front() > 0.0);
            CHECK(comparison.perplexity_ratio().standard_error > 0.0);
            CHECK(comparison.largest_probability_change() >= comparison.mean_probability_change().value);
        }
    }
}

TEST_CASE("the default model's likelihoods are the golden ones") {
    const auto golden = nlohmann::json::parse(std::ifstream(data / "novella_golden.json"));
    const auto model = gpt2::Gpt2Model::load(test::novella(), {.weights = gpt2::WeightType::float32});
    evaluation::Scorer scorer(model);
    const std::string text = heldout();
    const auto score = score_text(scorer, text, {.window = 512, .limit = 2000});
    const auto& method_b = golden["heldout_2000"]["B_f16w_float64"];
    CHECK(score.nll.count == 2000);
    CHECK(score.nll.total() == doctest::Approx(method_b["total_nll"].get<double>()).epsilon(1e-6));
    CHECK(score.bytes == golden["heldout_2000"]["text_of_the_2000_tokens_utf8_bytes"].get<std::uint64_t>());

    // Method A scores windows of a text alone, without a token before them.
    std::vector<TokenId> ids = model.tokenizer().encode(text);
    ids.resize(2000);
    const auto& windows = golden["heldout_2000"]["A_f16w_float64"]["per_window_nll"];
    for (std::size_t w = 0; w < windows.size(); ++w) {
        const evaluation::Passage passage{
            std::span(ids).subspan(512 * w, std::min<std::size_t>(512, ids.size() - 512 * w)), 1};
        double nll = 0.0;
        for (const auto& token : scorer.score({&passage, 1})) {
            nll -= token.log_probability;
        }
        CHECK(nll == doctest::Approx(windows[w].get<double>()).epsilon(1e-6));
    }
}
