// SPDX-License-Identifier: MIT
#include "support/files.hpp"
#include "support/models.hpp"

#include <gpt2/evaluation.hpp>
#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using gpt2::TokenId;
namespace evaluation = gpt2::evaluation;
namespace test = gpt2::test;

namespace {

/// A model of odd extents with random weights and a vocabulary of bytes, 150 positions.
gpt2::Gpt2Model small_model(const test::Edit& edit = test::enlarge_matrices) {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), test::odd_config(), {}, edit);
    return gpt2::Gpt2Model::load(directory.path());
}

evaluation::Example example(std::string context, std::vector<std::string> choices) {
    return {.where = "\"file\": line 7",
            .line = 7,
            .context = std::move(context),
            .before = " ",
            .choices = std::move(choices),
            .after = {},
            .label = 0};
}

/// Of one choice alone, token by token, in a new session.
evaluation::ChoiceScore alone(const gpt2::Gpt2Model& model, const evaluation::Example& of, std::size_t i) {
    std::string context = of.context;
    std::string rest = of.before + of.choices[i] + of.after;
    while (context.ends_with(' ')) {
        context.pop_back();
        rest = " " + rest;
    }
    std::vector<TokenId> tokens = model.encode_prompt(context);
    const auto continuation = model.tokenizer().encode(rest);
    tokens.insert(tokens.end(), continuation.begin(), continuation.end());
    const std::size_t most = model.config().n_positions + 1;
    tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(std::min(most, tokens.size())));
    evaluation::ChoiceScore score{.log_probability = 0.0,
                                  .tokens = continuation.size(),
                                  .characters = of.choices[i].size(),
                                  .is_first = true,
                                  .last_token = {}};
    gpt2::Session session(model);
    std::vector<float> scratch;
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
        const auto logits = session.forward(std::span(tokens).subspan(t, 1));
        if (t + 1 >= tokens.size() - continuation.size()) {
            const auto exp = gpt2::kernels::kernels_for(model.isa()).exp_shifted;
            score.last_token = {gpt2::log_softmax(logits, tokens[t + 1], exp, scratch),
                                gpt2::detail::argmax(logits) == tokens[t + 1]};
            score.log_probability += score.last_token.log_probability;
            score.is_first = score.is_first && score.last_token.is_first;
        }
    }
    return score;
}

void check_same(const evaluation::ChoiceScore& a, const evaluation::ChoiceScore& b) {
    CHECK(a.log_probability == b.log_probability);
    CHECK(a.tokens == b.tokens);
    CHECK(a.characters == b.characters);
    CHECK(a.is_first == b.is_first);
    CHECK(a.last_token.log_probability == b.last_token.log_probability);
    CHECK(a.last_token.is_first == b.last_token.is_first);
}

std::vector<std::pair<std::size_t, std::string>> lines_of(std::string_view text) {
    evaluation::DataLines lines(text, "file");
    std::vector<std::pair<std::size_t, std::string>> found;
    for (auto line = lines.next(); line; line = lines.next()) {
        CHECK(line->where == gpt2::detail::concat("\"file\": line ", line->number));
        found.emplace_back(line->number, line->text);
    }
    CHECK(lines.bytes_read() == text.size());
    return found;
}

evaluation::Example read(evaluation::ReadExample reader, std::string_view text) {
    return reader({.text = text, .number = 7, .where = "\"file\": line 7"});
}

} // namespace

TEST_CASE("lines of a data set") {
    using Lines = std::vector<std::pair<std::size_t, std::string>>;
    CHECK(lines_of("").empty());
    CHECK(lines_of("\n \t\n\r\n").empty());
    CHECK(lines_of("a") == Lines{{1, "a"}});
    CHECK(lines_of("a\n") == Lines{{1, "a"}});
    CHECK(lines_of("\n a \r\n\nb\r") == Lines{{2, " a "}, {4, "b"}});
    CHECK(lines_of("\xef\xbb\xbf{}") == Lines{{1, "{}"}});
    CHECK(evaluation::DataLines("\xef\xbb\xbf\n {", "file").are_json());
    CHECK_FALSE(evaluation::DataLines("a {", "file").are_json());
    CHECK_FALSE(evaluation::DataLines("\n", "file").are_json());

    const std::string longest(evaluation::DataLines::max_line, 'a');
    CHECK(lines_of(longest + "\nb").size() == 2);
    CHECK(lines_of(longest).size() == 1);
    const auto read_all = [](const std::string& text) { return [&text] { (void)lines_of(text); }; };
    test::check_throws<gpt2::FormatError>(read_all("b\n" + longest + "a\n"),
                                          {"\"file\": line 2: expected at most 1048576 bytes"});
    test::check_throws<gpt2::FormatError>(read_all("a\n\nb\xff"), {"\"file\": line 3: expected UTF-8"});
}

TEST_CASE("the readers' texts") {
    namespace detail = gpt2::detail;
    CHECK(detail::trimmed(" \xc2\xa0 a b\xe2\x80\x83\n") == "a b");
    CHECK(detail::trimmed(" \n").empty());
    CHECK(detail::replaced_all("aaaXa", "aa", "b") == "baXa");
    CHECK(detail::without_brackets("a[b]c[d[e]f]g[h") == "acf]g[h");
    CHECK(detail::without_brackets("[a\n] b [] ]") == "[a\n] b  ]");
    CHECK(detail::harness_text(" How to [title] go [step]  home ") == "How to. go  home");
    CHECK(detail::capitalized("the MAN \xc3\x89") == "The man \xc3\x89");

    const auto word = read(evaluation::read_last_word, R"({"text": "one  two\tthree four \n"})");
    CHECK(word.context == "one  two\tthree");
    CHECK(word.choices == std::vector<std::string>{"four"});
    CHECK(word.where == "\"file\": line 7");

    const auto cloze = read(evaluation::read_cloze, R"({"context": "C.", "question": "a (XXXXX b) c",
                                                        "options": ["x", "y"], "answer": "y"})");
    CHECK(cloze.context == "C. a ");
    CHECK(cloze.before == "(");
    CHECK(cloze.after == " b) c");
    CHECK(cloze.label == 1);
}

TEST_CASE("choices are scored as each is alone") {
    const gpt2::Gpt2Model model = small_model();
    const std::string long_context(200, 'c');
    const std::vector<evaluation::Example> examples{
        example("there was a", {"man", "woman of the north", "x"}),
        example("", {"the", "thth"}),
        example("  ", {"a", "b", "c", "d", "e"}),
        example("a context with a space at its end ", {"the", "that"}),
        example(long_context, {"a", "bb", std::string(149, 'd')}), // with a space before it as long as may be
        example(std::string(130, 'q'), {"a long choice", "b"}),
        example("short", {"only one"}),
        example("there was a", {"man", "woman of the north", "x"}),
    };
    for (const std::size_t threads : {1u, 2u}) {
        evaluation::Scorer scorer(model, {.pool = std::make_shared<gpt2::ThreadPool>(threads)});
        for (int round = 0; round < 2; ++round) { // the second finds contexts in the sessions
            const auto scores = evaluation::score_examples(scorer, examples);
            REQUIRE(scores.size() == examples.size());
            for (std::size_t i = 0; i < examples.size(); ++i) {
                REQUIRE(scores[i].size() == examples[i].choices.size());
                for (std::size_t choice = 0; choice < scores[i].size(); ++choice) {
                    CAPTURE(i);
                    CAPTURE(choice);
                    check_same(scores[i][choice], alone(model, examples[i], choice));
                }
            }
        }
    }
    evaluation::Scorer scorer(model);
    CHECK(evaluation::score_examples(scorer, std::vector<evaluation::Example>()).empty());
}

TEST_CASE("what cannot be scored names the example") {
    const gpt2::Gpt2Model model = small_model();
    evaluation::Scorer scorer(model);
    const auto score = [](evaluation::Scorer& by, std::vector<evaluation::Example> examples) {
        return [&by, examples = std::move(examples)] { (void)evaluation::score_examples(by, examples); };
    };
    test::check_throws<gpt2::FormatError>(
        score(scorer, {example("a", {"b", std::string(150, 'd')})}),
        {"\"file\": line 7: choice 1: expected 1 to 150 tokens", "found 151"});
    evaluation::Example nothing = example("a", {""});
    nothing.before.clear();
    test::check_throws<gpt2::FormatError>(score(scorer, {nothing}), {"choice 0", "found 0"});

    const gpt2::Gpt2Model broken = small_model([](std::string_view name, std::span<float> values) {
        if (name == "ln_f.weight") {
            std::ranges::fill(values, 3e38f);
        }
    });
    evaluation::Scorer of_broken(broken);
    test::check_throws<gpt2::NumericError>(score(of_broken, {example("a", {"b"})}),
                                           {"\"file\": line 7: ", "finite"});
    test::check_throws<gpt2::NumericError>(score(of_broken, {example("a", {"b"}), example("c", {"d"})}),
                                           {"\"file\": line 7 or one of the 1 examples after it: "});
}

TEST_CASE("a uniform model guesses") {
    const gpt2::Gpt2Model model =
        small_model([](std::string_view, std::span<float> values) { std::ranges::fill(values, 0.0f); });
    evaluation::Scorer scorer(model);
    const std::vector<evaluation::Example> examples{example("one", {"word"}), example("two", {"xyz"})};
    evaluation::LastWordScore words;
    for (const auto& scores : evaluation::score_examples(scorer, examples)) {
        words.add(scores[0]);
    }
    const double V = test::byte_vocabulary_size;
    CHECK(words.count() == 2);
    CHECK(words.accuracy().value == 0.0);
    CHECK(words.perplexity().value == doctest::Approx(std::pow(V, 4.5)).epsilon(1e-12)); // 5 and 4 tokens
    CHECK(words.last_token_perplexity().value == doctest::Approx(V).epsilon(1e-12));
    CHECK(words.last_token_perplexity().standard_error < 1e-9);

    evaluation::AccuracyScore score;
    const std::vector<evaluation::Example> one{example("a", {"bbb", "cc", "d", "\xc3\xa9"})};
    const auto found = evaluation::score_examples(scorer, one);
    score.add(found[0], 2);
    CHECK(score.accuracy().value == 1.0);               // of the shortest, the first
    CHECK(score.accuracy_per_token().value == 0.0);     // all are the same: the first
    CHECK(score.accuracy_per_character().value == 0.0); // 4 tokens for 3 characters: the first
    CHECK(found[0][3].tokens == 3);
    CHECK(found[0][3].characters == 1);
    score.add(found[0], 0);
    CHECK(score.accuracy().value == 0.5);
    CHECK(score.accuracy_per_token().value == 0.5);
    CHECK(score.accuracy_per_character().value == 0.5);
    CHECK(score.chance() == 0.25);
    CHECK(evaluation::AccuracyScore().chance() == 0.0);
}
