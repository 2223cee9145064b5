// SPDX-License-Identifier: MIT

// Regular expressions and grammars against recognizers that are written from the definition, masks against
// every token tried alone, and what generate() makes of them.

#include "gpt2/constraint.hpp"

#include "support/files.hpp"
#include "support/loaded_models.hpp"
#include "support/models.hpp"
#include "support/vocabularies.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

using gpt2::ConstrainedText;
using gpt2::Constraint;
using gpt2::ConstraintOptions;
using gpt2::FinishReason;
using gpt2::GenerationConfig;
using gpt2::GenerationResult;
using gpt2::Gpt2Model;
using gpt2::OptionError;
using gpt2::TokenId;
using gpt2::Tokenizer;
using gpt2::TokenMask;
using gpt2::test::check_throws;
using gpt2::test::make_model;

namespace {

/// All bytes, products of them, some of which are no whole characters, and the end of the text.
const Tokenizer& tokenizer() {
    static const Tokenizer made = [] {
        std::mt19937 random(3);
        auto merges = gpt2::test::random_merges(random, "abcxyz01,[]{}\": \n\xc3\xa9\xe2\x82\xac", 150, true);
        const auto files = gpt2::test::make_vocabulary(merges, {"<|endoftext|>"});
        return Tokenizer::from_memory(files.vocab, files.merges);
    }();
    return made;
}

std::string utf8(std::uint32_t code_point) {
    std::string out;
    gpt2::detail::append_utf8(out, code_point);
    return out;
}

// -------------------------------------------------------------------------------------------------------------
// The reference: trees whose texts are found by trying.

/// A pattern. All of its parts have a text.
struct Tree {
    enum class Kind { character, set, rule, sequence, choice, repeat };
    Kind kind = Kind::sequence;  // an empty one: the empty text
    std::u32string characters{}; ///< one, or those of the set
    bool negated = false;
    std::size_t rule = 0;
    std::size_t min = 0;
    std::optional<std::size_t> max{};
    std::vector<Tree> parts{};

    [[nodiscard]] bool contains(char32_t c) const {
        return (characters.find(c) != std::u32string::npos) != negated;
    }
};

/// What can be said of a text by trying everything.
class Trial {
public:
    Trial(const std::vector<Tree>& rules, std::u32string text) : rules_(rules), text_(std::move(text)) {}

    [[nodiscard]] bool matches(std::size_t rule) { return of_rule(rule, 0).contains(text_.size()); }

    /// After matches(): whether the text could go on to one that matches, or does.
    [[nodiscard]] bool may_go_on() const { return wanted_more_; }

    /// Whether a rule was needed to find what itself is at the same place.
    [[nodiscard]] bool left_recursive() const { return left_recursive_; }

private:
    using Ends = std::set<std::size_t>;

    Ends of_rule(std::size_t rule, std::size_t from) {
        const std::pair key(rule, from);
        if (const auto found = known_.find(key); found != known_.end()) {
            return found->second;
        }
        if (!active_.insert(key).second) {
            left_recursive_ = true;
            return {};
        }
        Ends ends = of(rules_[rule], from);
        active_.erase(key);
        return known_[key] = ends;
    }

    Ends of(const Tree& tree, std::size_t from) {
        switch (tree.kind) {
        case Tree::Kind::character:
        case Tree::Kind::set:
            wanted_more_ = wanted_more_ || from == text_.size();
            return from < text_.size() && tree.contains(text_[from]) ? Ends{from + 1} : Ends{};
        case Tree::Kind::rule:
            return of_rule(tree.rule, from);
        case Tree::Kind::sequence: {
            Ends ends{from};
            for (const Tree& part : tree.parts) {
                ends = behind(part, ends);
            }
            return ends;
        }
        case Tree::Kind::choice: {
            Ends ends;
            for (const Tree& part : tree.parts) {
                ends.merge(of(part, from));
            }
            return ends;
        }
        case Tree::Kind::repeat:
            return of_repeat(tree, from);
        }
        return {};
    }

    Ends behind(const Tree& part, const Ends& begins) {
        Ends ends;
        for (const std::size_t begin : begins) {
            ends.merge(of(part, begin));
        }
        return ends;
    }

    Ends of_repeat(const Tree& tree, std::size_t from) {
        Ends now{from};
        for (std::size_t i = 0; i < tree.min; ++i) {
            now = behind(tree.parts[0], now);
        }
        Ends all = now;
        // Without a limit, more rounds than there are characters add nothing.
        const std::size_t rounds = tree.max ? *tree.max - tree.min : text_.size() + 1;
        for (std::size_t i = 0; i < rounds && !now.empty(); ++i) {
            now = behind(tree.parts[0], now);
            all.insert(now.begin(), now.end());
        }
        return all;
    }

    const std::vector<Tree>& rules_;
    std::u32string text_;
    std::map<std::pair<std::size_t, std::size_t>, Ends> known_;
    std::set<std::pair<std::size_t, std::size_t>> active_;
    bool wanted_more_ = false;
    bool left_recursive_ = false;
};

constexpr std::u32string_view alphabet = U"ab,\u00e9\u20ac\U0001f600";

/// Random trees and texts.
class Maker {
public:
    explicit Maker(unsigned seed) : random_(seed) {}

    std::size_t below(std::size_t n) { return random_() % n; }
    char32_t character() { return alphabet[below(alphabet.size())]; }

    std::u32string text() {
        std::u32string out(below(9), U'a');
        std::ranges::generate(out, [this] { return character(); });
        return out;
    }

    /// @param n_rules  that it may name; 0: none
    Tree tree(std::size_t depth, std::size_t n_rules = 0) {
        const std::size_t kind = below(depth == 0 ? 3 : 6);
        if (kind == 0 || (kind == 2 && n_rules == 0)) {
            return {.kind = Tree::Kind::character, .characters = std::u32string(1, character())};
        }
        if (kind == 1) {
            std::u32string set(1 + below(3), U'a');
            std::ranges::generate(set, [this] { return character(); });
            return {.kind = Tree::Kind::set, .characters = set, .negated = below(3) == 0};
        }
        if (kind == 2) {
            return {.kind = Tree::Kind::rule, .rule = below(n_rules)};
        }
        Tree out{.kind = kind == 3   ? Tree::Kind::sequence
                         : kind == 4 ? Tree::Kind::choice
                                     : Tree::Kind::repeat};
        const std::size_t n_parts = kind == 3 ? below(4) : kind == 4 ? 1 + below(3) : 1;
        for (std::size_t i = 0; i < n_parts; ++i) {
            out.parts.push_back(tree(depth - 1, n_rules));
        }
        out.min = below(3);
        if (below(2) == 0) {
            out.max = out.min + below(3);
        }
        return out;
    }

private:
    std::mt19937 random_;
};

std::string utf8(std::u32string_view text) {
    std::string out;
    for (const char32_t c : text) {
        out += utf8(static_cast<std::uint32_t>(c));
    }
    return out;
}

std::string quantifier(const Tree& tree) {
    const bool endless = !tree.max;
    return tree.min == 0 && endless          ? "*"
           : tree.min == 1 && endless        ? "+"
           : tree.min == 0 && tree.max == 1u ? "?"
           : endless                         ? "{" + std::to_string(tree.min) + ",}"
           : tree.min == tree.max            ? "{" + std::to_string(tree.min) + "}"
                                  : "{" + std::to_string(tree.min) + "," + std::to_string(*tree.max) + "}";
}

std::string class_text(const Tree& tree) {
    return std::string(tree.negated ? "[^" : "[") + utf8(tree.characters) + "]";
}

/// As a regular expression, with the groups that it needs.
std::string regex_text(const Tree& tree) {
    std::string out;
    switch (tree.kind) {
    case Tree::Kind::character:
        return utf8(tree.characters);
    case Tree::Kind::set:
        return class_text(tree);
    case Tree::Kind::rule:
        break;
    case Tree::Kind::sequence:
        for (const Tree& part : tree.parts) {
            out += part.kind == Tree::Kind::choice ? "(" + regex_text(part) + ")" : regex_text(part);
        }
        break;
    case Tree::Kind::choice:
        for (std::size_t i = 0; i < tree.parts.size(); ++i) {
            out += (i == 0 ? "" : "|") + regex_text(tree.parts[i]);
        }
        break;
    case Tree::Kind::repeat: {
        const Tree& part = tree.parts[0];
        const bool single = part.kind == Tree::Kind::character || part.kind == Tree::Kind::set;
        return (single ? regex_text(part) : "(?:" + regex_text(part) + ")") + quantifier(tree);
    }
    }
    return out;
}

std::string rule_name(std::size_t rule) {
    return rule == 0 ? "root" : "rule-" + std::to_string(rule);
}

std::string grammar_text(const Tree& tree) {
    std::string out;
    switch (tree.kind) {
    case Tree::Kind::character:
        return "\"" + utf8(tree.characters) + "\"";
    case Tree::Kind::set:
        return class_text(tree);
    case Tree::Kind::rule:
        return rule_name(tree.rule);
    case Tree::Kind::sequence:
        for (const Tree& part : tree.parts) {
            out +=
                (part.kind == Tree::Kind::choice ? "(" + grammar_text(part) + ")" : grammar_text(part)) + " ";
        }
        return out + "\"\"";
    case Tree::Kind::choice:
        for (std::size_t i = 0; i < tree.parts.size(); ++i) {
            out += (i == 0 ? "" : " | ") + grammar_text(tree.parts[i]);
        }
        return out;
    case Tree::Kind::repeat:
        return "(" + grammar_text(tree.parts[0]) + ")" + quantifier(tree);
    }
    return out;
}

std::string grammar_text(const std::vector<Tree>& rules) {
    std::string out;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        out += rule_name(i) + " ::= " + grammar_text(rules[i]) + "\n";
    }
    return out;
}

std::shared_ptr<const Constraint> regex(std::string_view pattern, const ConstraintOptions& options = {}) {
    return Constraint::regex(pattern, tokenizer(), options);
}

std::shared_ptr<const Constraint> grammar(std::string_view text, const ConstraintOptions& options = {}) {
    return Constraint::grammar(text, tokenizer(), options);
}

/// Whether a rule has a text, by trying which are known to have one.
std::vector<bool> productive(const std::vector<Tree>& rules) {
    std::vector<bool> known(rules.size());
    const std::function<bool(const Tree&)> is = [&](const Tree& tree) -> bool {
        switch (tree.kind) {
        case Tree::Kind::rule:
            return known[tree.rule];
        case Tree::Kind::choice:
            return std::ranges::any_of(tree.parts, is);
        case Tree::Kind::repeat:
            return tree.min == 0 || is(tree.parts[0]);
        default:
            return std::ranges::all_of(tree.parts, is);
        }
    };
    for (std::size_t round = 0; round < rules.size(); ++round) {
        for (std::size_t i = 0; i < rules.size(); ++i) {
            known[i] = known[i] || is(rules[i]);
        }
    }
    return known;
}

/// Every token tried alone.
void check_mask(const Constraint& constraint, const std::vector<TokenId>& text, const TokenMask& mask) {
    const std::string before = tokenizer().decode(text);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < tokenizer().size(); ++i) {
        const auto token = static_cast<TokenId>(i);
        const bool expected = !tokenizer().is_special(token) &&
                              constraint.may_begin_with(before + std::string(tokenizer().token_bytes(token)));
        wrong += mask.allows(token) != expected ? 1 : 0;
    }
    CHECK(wrong == 0);
    CHECK(mask.is_complete() == constraint.matches(before));
}

/// Goes on with allowed tokens at random; each mask is what every token says alone.
void check_masks(const std::shared_ptr<const Constraint>& constraint, std::mt19937& random, std::size_t n) {
    ConstrainedText state(constraint);
    std::vector<TokenId> text;
    for (std::size_t i = 0; i < n; ++i) {
        const TokenMask& mask = state.follow(text);
        check_mask(*constraint, text, mask);
        std::vector<TokenId> allowed;
        for (std::size_t t = 0; t < tokenizer().size(); ++t) {
            if (mask.allows(static_cast<TokenId>(t))) {
                allowed.push_back(static_cast<TokenId>(t));
            }
        }
        if (allowed.empty()) {
            CHECK(mask.is_complete());
            return;
        }
        text.push_back(allowed[random() % allowed.size()]);
    }
}

} // namespace

TEST_CASE("regular expressions match what trying everything matches") {
    Maker maker(1);
    std::size_t matched = 0;
    std::size_t viable = 0;
    for (int i = 0; i < 1500; ++i) {
        const std::vector<Tree> rules{maker.tree(4)};
        const std::string pattern = regex_text(rules[0]);
        CAPTURE(pattern);
        const auto constraint = regex(pattern, {.states_ahead = 0});
        for (int k = 0; k < 20; ++k) {
            const std::u32string text = maker.text();
            Trial trial(rules, text);
            const bool expected = trial.matches(0);
            REQUIRE(constraint->matches(utf8(text)) == expected);
            REQUIRE(constraint->may_begin_with(utf8(text)) == (expected || trial.may_go_on()));
            matched += expected ? 1 : 0;
            viable += trial.may_go_on() ? 1 : 0;
        }
    }
    CHECK(matched > 1000);
    CHECK(viable > 1000);
}

TEST_CASE("grammars match what trying everything matches, and the same ones are refused") {
    Maker maker(2);
    std::size_t matched = 0;
    std::size_t accepted = 0;
    std::size_t refused = 0;
    for (int i = 0; i < 3000; ++i) {
        std::vector<Tree> rules;
        const std::size_t n_rules = 2 + maker.below(3);
        for (std::size_t rule = 0; rule < n_rules; ++rule) {
            rules.push_back(maker.tree(3, n_rules));
        }
        const std::string text = grammar_text(rules);
        CAPTURE(text);
        bool left_recursive = false;
        for (std::size_t rule = 0; rule < n_rules; ++rule) {
            Trial trial(rules, U"");
            (void)trial.matches(rule);
            left_recursive = left_recursive || trial.left_recursive();
        }
        const auto ends = productive(rules);
        if (std::ranges::find(ends, false) != ends.end()) {
            check_throws<OptionError>([&] { (void)grammar(text); }, {"grammar: rule", "never ends"});
            ++refused;
            continue;
        }
        if (left_recursive) {
            check_throws<OptionError>([&] { (void)grammar(text); }, {"left recursion", " -> "});
            ++refused;
            continue;
        }
        ++accepted;
        const auto constraint = grammar(text, {.states_ahead = 0});
        for (int k = 0; k < 20; ++k) {
            const std::u32string candidate = maker.text();
            CAPTURE(utf8(candidate));
            Trial trial(rules, candidate);
            const bool expected = trial.matches(0);
            REQUIRE_FALSE(trial.left_recursive());
            REQUIRE(constraint->matches(utf8(candidate)) == expected);
            REQUIRE(constraint->may_begin_with(utf8(candidate)) == (expected || trial.may_go_on()));
            matched += expected ? 1 : 0;
        }
    }
    CHECK(accepted > 500);
    CHECK(refused > 500);
    CHECK(matched > 500);
}

TEST_CASE("classes are the UTF-8 of their characters, whole and cut") {
    using Ranges = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
    const std::vector<std::pair<std::string, Ranges>> cases{
        {"[\\u{7f}-\\u{80}]", {{0x7f, 0x80}}},
        {"[a-\\u{7ff}\\u0800]", {{'a', 0x800}}},
        {"[\\u{d7f0}-\\u{e010}]", {{0xd7f0, 0xd7ff}, {0xe000, 0xe010}}},
        {"[\\u{1234}-\\u{4321}]", {{0x1234, 0x4321}}},
        {"[\\u{ffff}-\\u{10000}\\u{12345}-\\u{10ffff}]", {{0xffff, 0x10000}, {0x12345, 0x10ffff}}},
        {".", {{0, '\n' - 1}, {'\n' + 1, 0xd7ff}, {0xe000, 0x10ffff}}},
        {"[^\\u{90}-\\u{fffff}]", {{0, 0x8f}, {0x100000, 0x10ffff}}},
        {"\\W", {{0, 47}, {58, 64}, {91, 94}, {96, 96}, {123, 0xd7ff}, {0xe000, 0x10ffff}}},
    };
    for (const auto& example : cases) { // (Clang 14 captures no structured binding)
        const std::string& pattern = example.first;
        const Ranges& ranges = example.second;
        CAPTURE(pattern);
        const auto constraint = regex(pattern, {.states_ahead = 0});
        std::vector<bool> begins2(1u << 16);
        std::vector<bool> begins3(1u << 24);
        std::size_t wrong = 0;
        for (const auto& [first, last] : ranges) {
            for (std::uint32_t c = first; c <= last; ++c) {
                const std::string bytes = utf8(c);
                const auto byte = [&](std::size_t i) -> std::size_t {
                    return static_cast<unsigned char>(bytes[i]);
                };
                if (bytes.size() > 1) {
                    begins2[byte(0) << 8u | byte(1)] = true;
                }
                if (bytes.size() > 2) {
                    begins3[byte(0) << 16u | byte(1) << 8u | byte(2)] = true;
                }
                if (c % 61 == 0 || c == first || c == last) {
                    wrong += constraint->matches(bytes) ? 0 : 1;
                }
            }
            for (const std::uint32_t c : {first - 1, last + 1}) { // gaps are wider than one
                if (c <= 0x10ffff && (c < 0xd800 || c > 0xdfff)) {
                    wrong += constraint->matches(utf8(c)) ? 1 : 0;
                }
            }
        }
        for (unsigned a = 0x80; a < 0x100; ++a) { // after ASCII nothing follows
            for (unsigned b = 0; b < 0x100; ++b) {
                const std::string two{static_cast<char>(a), static_cast<char>(b)};
                wrong += constraint->may_begin_with(two) != begins2[a << 8u | b] ? 1 : 0;
                for (unsigned c = a % 7; a >= 0xe0 && begins2[a << 8u | b] && c < 0x100; c += 7) {
                    wrong += constraint->may_begin_with(two + static_cast<char>(c)) !=
                                     begins3[a << 16u | b << 8u | c]
                                 ? 1
                                 : 0;
                }
            }
        }
        CHECK(wrong == 0);
    }
}

TEST_CASE("the syntax of regular expressions") {
    const auto matches = [](const char* pattern, std::string_view text) {
        return regex(pattern, {.states_ahead = 0})->matches(text);
    };
    CHECK(matches("", ""));
    CHECK(matches("^a|b$", "b"));
    CHECK(matches(R"(\d\D\w\W\s\S)", "1a_- x"));
    CHECK_FALSE(matches(R"(\d)", "\u0661")); // ASCII only
    CHECK(matches(R"(\x41\u20ac\u{1F600}\n\t\r\f\v\.\\\ )", "A\u20ac\U0001f600\n\t\r\f\v.\\ "));
    CHECK(matches(R"([\]a\-z-]+[^\d\s]*?)", "]a-z-b"));
    CHECK_FALSE(matches(R"([\]a\-z-]+)", "b"));
    CHECK(matches("(a)(?:b)(?<name>c)(?P<other>d)]}", "abcd]}"));
    CHECK(matches("a{2}b{1,}c{0,2}d{0}", "aabbb"));
    CHECK(matches("a??b*?", "abb"));
    CHECK_FALSE(matches(".", "\n"));
    CHECK(matches("[^a]", "\n"));
    CHECK(matches("||a", "a"));

    const auto refused = [](std::string_view pattern, std::initializer_list<std::string_view> parts) {
        CAPTURE(pattern);
        check_throws<OptionError>([&] { (void)regex(pattern); }, parts);
    };
    refused("a(b", {"regex, line 1, column 4: expected ), found the end"});
    refused("a\nb)", {"regex, line 2, column 2", "parenthesis that was opened"});
    refused("[a", {"expected ], found the end"});
    refused("[]", {"a character (\\] is a bracket)"});
    refused("[b-a]", {"range"});
    refused("[a-\\d]", {"range"});
    refused("[[:alpha:]]", {"POSIX"});
    refused("[^\\u{0}-\\u{10ffff}]", {"a class with a character in it"});
    refused("*a", {"something to repeat", "found \"*a\""});
    refused("a**", {"something to repeat"});
    refused("a{,3}", {"a number up to 65536"});
    refused("a{65537}", {"a number up to 65536"});
    refused("a{3,2}", {"a maximum of at least 3"});
    refused("a{2", {"expected }, found the end"});
    refused("a++", {"possessive"});
    refused("(?=a)", {"look-around"});
    refused("(?<!a)", {"look-around"});
    refused("(?i)a", {"flags"});
    refused("(a)\\1", {"back-reference"});
    refused("\\bfoo", {"an escape"});
    refused("\\p{L}", {"an escape"});
    refused("\\", {"an escape", "found the end"});
    refused("\\x4", {"2 hexadecimal digits"});
    refused("\\u{110000}", {"the number of a character"});
    refused("\\ud800", {"the number of a character"});
    refused("a^b", {"^ at the begin"});
    refused("a$b", {"^ at the begin"});
    refused("\xff", {"UTF-8"});
}

TEST_CASE("the syntax of grammars") {
    const auto matches = [](const char* text, std::string_view candidate) {
        return grammar(text, {.states_ahead = 0})->matches(candidate);
    };
    CHECK(matches("root ::= \"a\"", "a"));
    CHECK(
        matches("# first\n root::=a_1 # then\n  |\n b-2\na_1 ::= \"x\" b-2\n\n  +\nb-2 ::= [0-9^]", "x12^"));
    CHECK(matches("root ::= (\"a\"\n | \"b\" . )*\n", "ab\nab\u20ac"));
    CHECK(
        matches(R"(root ::= "\n\t\r\"\\\x41\u20ac\U0001F600" [\]\[\-\^\n])", "\n\t\r\"\\A\u20ac\U0001f600]"));
    CHECK(matches("root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} | ", "aab"));
    CHECK(matches("root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} | ", ""));
    CHECK(matches("root ::= \"a\"?*", "aaa"));

    const auto refused = [](std::string_view text, std::initializer_list<std::string_view> parts) {
        CAPTURE(text);
        check_throws<OptionError>([&] { (void)grammar(text); }, parts);
    };
    refused("", {"a rule \"root\"", "found none"});
    refused("start ::= \"a\"", {"a rule \"root\""});
    refused("root ::= other", {"a rule \"other\", which is used"});
    refused("root ::= \"a\"\nroot ::= \"b\"", {"line 2, column 1", "not defined before"});
    refused("root ::= \"a", {"expected \", found the end"});
    refused("root ::= (\"a\"", {"expected ), found the end"});
    refused("root ::= \"a\" )", {"a literal, a class, a rule, a group or |", "found \")\""});
    refused("root = \"a\"", {"expected ::="});
    refused("::= \"a\"", {"the name of a rule"});
    refused("root ::= \"\\q\"", {"an escape"});
    refused("root ::= *", {"a literal"});
    refused("root ::= \"(\" root \")\"", {"rule \"root\" never ends"});
    refused("root ::= \"a\" | a\na ::= b | \"x\"\nb ::= c?\nc ::= \"\" root \"y\"",
            {"left recursion, \"root\" -> \"a\" -> \"b\" -> \"c\" -> \"root\""});
    refused("root ::= root \"a\" | \"a\"", {"left recursion, \"root\" -> \"root\""});
    refused("root ::= e root \"a\" | \"a\"\ne ::= \"x\"*", {"left recursion, \"root\" -> \"root\""});
}

TEST_CASE("what would take too long is refused in time, or does not") {
    const auto repeated = [](std::string_view text, std::size_t n) {
        std::string out;
        for (std::size_t i = 0; i < n; ++i) {
            out += text;
        }
        return out;
    };
    const auto refused = [](auto make, const std::string& text,
                            std::initializer_list<std::string_view> parts) {
        check_throws<OptionError>([&] { (void)make(text, ConstraintOptions{}); }, parts);
    };
    const auto by_regex = [](const std::string& text, const ConstraintOptions& o) { return regex(text, o); };
    const auto by_grammar = [](const std::string& text, const ConstraintOptions& o) {
        return grammar(text, o);
    };
    refused(by_regex, "((a{1000}){1000}){1000}", {"regex: expected at most 65536 positions"});
    refused(by_regex, "((((a?){60000}){60000})*){60000}", {"positions"});
    refused(by_regex, "((){60000}){60000}", {"positions"});
    refused(by_regex, "(" + repeated("|", 60'000) + "){60000}", {"edges"});
    refused(by_regex, repeated("[\\u{100}-\\u{10ff00}]{500}", 20), {"positions"});
    refused(by_regex, repeated("(", 60'000), {"at most 200 groups inside each other"});
    refused(by_grammar, "root ::= " + repeated("(", 60'000), {"at most 200 groups"});
    refused(by_grammar, "root ::= \"a\"" + repeated("*", 60'000), {"at most 200 groups"});
    refused(by_regex, repeated("a", 70'000), {"expected at most 65536 bytes, found 70000"});
    std::string chain; // as long a left recursion as fits
    for (std::size_t i = 0; i < 3000; ++i) {
        chain += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "\n";
    }
    refused(by_grammar, chain + "r3000 ::= r0 \"a\" | \"b\"\nroot ::= r0", {"left recursion", "... -> "});
    CHECK(grammar(chain + "r3000 ::= \"b\"\nroot ::= r0")->matches("b"));
    std::string doubling; // 2^60 ways into the last rule
    for (std::size_t i = 0; i < 60; ++i) {
        const std::string next = "r" + std::to_string(i + 1);
        doubling += "r" + std::to_string(i) + " ::= " + next + " \"x\" | " + next + " \"y\" | " + next + "\n";
    }
    const auto diamonds = grammar(doubling + "r60 ::= \"a\"\nroot ::= r0");
    CHECK(diamonds->matches("a" + repeated("x", 60)));
    CHECK_FALSE(diamonds->matches("a" + repeated("x", 61)));

    // As many readings as there are trees, and subsets, and no backtracking.
    const std::string many = repeated("a", 300);
    CHECK(regex("(a*)*b|(a|a)*")->matches(many));
    CHECK(regex("(a?){300}a{300}")->matches(many));
    CHECK(regex("(a|b)*a(a|b){12}")->matches(many));
    CHECK(grammar("root ::= \"a\" root root | \"a\"")->matches(many.substr(1)));
    CHECK(grammar("root ::= s\ns ::= \"a\" s \"x\" | \"a\" s \"y\" | \"b\"")
              ->matches(many + "b" + repeated("xyyxx", 60)));
    CHECK_FALSE(grammar("root ::= s\ns ::= \"a\" s \"x\" | \"a\" s \"y\" | \"b\"")
                    ->matches(many + "b" + repeated("xyyxx", 59) + "xyyx"));
    CHECK(grammar("root ::= \"a\" root \"a\"? | \"\"")->matches(many));

    // Where the ways are too many, that is said, whatever was computed before.
    const std::string wide_text = "((a|b|c|x|y|z|0|1|,|:)?){20000}";
    refused(by_regex, wide_text, {"regex: expected at most 8000000 steps to find what may follow"});
    ConstrainedText wide(regex(wide_text, {.states_ahead = 0}));
    check_throws<OptionError>([&] { (void)wide.follow({}); }, {"regex: expected at most 8000000 steps"});
    check_throws<OptionError>([&] { (void)wide.follow({}); }, {"regex: expected at most 8000000 steps"});

    // No deeper than 1000 open rules, where the text has to be closed; right recursion opens none.
    const auto nest = grammar("root ::= \"(\" root \")\" | \"\"");
    CHECK(nest->matches(repeated("(", 900) + repeated(")", 900)));
    CHECK_FALSE(nest->may_begin_with(repeated("(", 1100)));
    ConstrainedText deep(grammar("root ::= \"(\" root \")\" | \"x\" a \"y\"\na ::= \"b\""));
    const auto go_deep = [&] {
        for (std::size_t n = 0; n < 1100; ++n) { // where no rule may be entered, nothing may follow
            (void)deep.follow(std::vector<TokenId>(n, '('));
        }
    };
    check_throws<OptionError>(go_deep, {"grammar: expected at most 1000 rules inside each other"});
    CHECK(grammar("root ::= \"a\" root | \"b\"")->matches(repeated("a", 5000) + "b"));
}

TEST_CASE("masks are what every token says alone") {
    Maker maker(4);
    std::mt19937 random(4);
    std::vector<std::shared_ptr<const Constraint>> constraints{
        regex(".*"),
        regex("\u20ac{3}|(ab)+,?"),
        regex("[^a]*[\\u{800}-\\u{ffff}]"),
        grammar("root ::= \"[\" (root (\",\" root)*)? \"]\" | [0-9]+ | \"\\\"\" [^\"\\n]* \"\\\"\""),
        grammar("root ::= \"a\" root root | \"b\""),
    };
    for (int i = 0; i < 20; ++i) {
        constraints.push_back(regex(regex_text(maker.tree(4))));
    }
    for (const auto& constraint : constraints) {
        check_masks(constraint, random, 8);
    }
}

TEST_CASE("masks are the same however much is kept, and however much is computed ahead") {
    const std::string text = "root ::= \"[\" (root (\",\" root)*)? \"]\" | \"\u20ac\" | [0-9]+\n";
    const auto kept = grammar(text);
    const auto forgetful = grammar(text, {.cache_bytes = 0});
    const auto ahead = grammar(text, {.states_ahead = 50});
    std::mt19937 random(5);
    ConstrainedText a(kept);
    ConstrainedText b(forgetful);
    ConstrainedText c(ahead);
    ConstrainedText jumps(kept); // from text to text, as beams do
    std::vector<TokenId> tokens;
    for (int i = 0; i < 60; ++i) {
        const TokenMask& mask = a.follow(tokens);
        CHECK(b.follow(tokens).words() == mask.words());
        CHECK(c.follow(tokens).words() == mask.words());
        CHECK(b.follow(tokens).is_complete() == mask.is_complete());
        (void)jumps.follow(std::span(tokens).first(tokens.size() / 2));
        CHECK(jumps.follow(tokens).words() == mask.words());
        std::vector<TokenId> allowed;
        for (std::size_t t = 0; t < tokenizer().size(); ++t) {
            const auto token = static_cast<TokenId>(t);
            if (mask.allows(token) && tokenizer().token_bytes(token).find('[') != std::string_view::npos) {
                allowed.push_back(token);
            }
        }
        if (allowed.empty() || i % 4 == 3) {
            for (std::size_t t = 0; t < tokenizer().size(); ++t) {
                if (mask.allows(static_cast<TokenId>(t))) {
                    allowed.push_back(static_cast<TokenId>(t));
                }
            }
        }
        if (allowed.empty()) {
            tokens.clear();
        } else {
            tokens.push_back(allowed[random() % allowed.size()]);
        }
    }
}

TEST_CASE("many threads share a constraint") {
    const auto constraint =
        grammar("root ::= \"[\" (root (\",\" root)*)? \"]\" | [a-c]+", {.cache_bytes = 20'000});
    std::atomic<std::size_t> wrong = 0;
    std::vector<std::jthread> threads;
    for (unsigned n = 0; n < 3; ++n) {
        threads.emplace_back([&, n] {
            std::mt19937 random(n);
            ConstrainedText text(constraint);
            std::vector<TokenId> tokens;
            for (int i = 0; i < 100; ++i) {
                const TokenMask& mask = text.follow(tokens);
                std::vector<TokenId> allowed;
                for (TokenId t = 0; t < static_cast<TokenId>(tokenizer().size()); ++t) {
                    if (mask.allows(t)) {
                        allowed.push_back(t);
                    }
                }
                tokens.push_back(allowed.empty() ? 0 : allowed[random() % allowed.size()]);
                if (allowed.empty() || tokens.size() == 20) {
                    tokens.clear();
                }
                wrong += constraint->may_begin_with(tokenizer().decode(tokens)) ? 0 : 1;
            }
        });
    }
    threads.clear();
    CHECK(wrong == 0);
}

// -------------------------------------------------------------------------------------------------------------
// Generation.

namespace {

/// A whole match if the model ended it, else the begin of one.
void check_text(const Constraint& constraint, const GenerationResult& result) {
    CAPTURE(result.bytes);
    if (result.finish_reason == FinishReason::eos) {
        CHECK(constraint.matches(result.bytes));
    } else {
        CHECK(constraint.may_begin_with(result.bytes));
    }
}

const char* const json_list = "root ::= \"[\" (value (\", \" value)*)? \"]\"\n"
                              "value ::= root | \"\\\"\" [^\"\\\\\\x00-\\x1f]{0,12} \"\\\"\" | [0-9]{1,4}\n";

} // namespace

TEST_CASE("what the model ends matches, and what else ends could still") {
    const Gpt2Model& model = gpt2::test::loaded_novella();
    std::vector<std::shared_ptr<const Constraint>> constraints;
    for (const char* const pattern :
         {"(yes|no|perhaps)", "[A-Z][a-z]{2,9}( [A-Z][a-z]{2,9})?", R"(\d{4}-\d\d-\d\d)",
          "\u201c[^\u201d]{5,30}\u201d", "[\u0400-\u04ff]{4}", "[^\\u{0}-\\u{ffff}]{2}", ".*", ""}) {
        constraints.push_back(Constraint::regex(pattern, model.tokenizer()));
    }
    constraints.push_back(Constraint::grammar(json_list, model.tokenizer()));
    std::size_t n_ended = 0;
    for (const auto& constraint : constraints) {
        for (std::uint64_t sample = 0; sample < 4; ++sample) {
            GenerationConfig config{.max_new_tokens = 30, .constraint = constraint};
            if (sample > 0) {
                config.do_sample = true;
                config.temperature = 1.5f;
                config.seed = 1;
                config.sample = sample;
            }
            const GenerationResult result = model.generate("The answer of the old man was: ", config);
            check_text(*constraint, result);
            n_ended += result.finish_reason == FinishReason::eos ? 1 : 0;
        }
    }
    CHECK(n_ended > 20); // but for those that may go on for ever
    // A character that the vocabulary has in pieces only comes whole.
    const auto smile = Constraint::regex("\U0001f600{2}", model.tokenizer());
    const GenerationResult result = model.generate("It was ", {.max_new_tokens = 30, .constraint = smile});
    CHECK(result.text == "\U0001f600\U0001f600");
    CHECK(result.finish_reason == FinishReason::eos);
}

TEST_CASE("the same text in every way to write it") {
    const Gpt2Model& model = gpt2::test::loaded_novella();
    const auto constraint = Constraint::grammar(json_list, model.tokenizer());
    GenerationConfig config{.max_new_tokens = 24,
                            .do_sample = true,
                            .temperature = 1.3f,
                            .top_p = 0.95f,
                            .seed = 7,
                            .logprobs = true,
                            .constraint = constraint};
    const std::string prompt = "The numbers are [1, 2, 3] and ";
    const GenerationResult plain = model.generate(prompt, config);
    CHECK(plain.tokens.size() > 3);
    check_text(*constraint, plain);

    GenerationConfig fast = config;
    fast.prompt_lookup_num_tokens = 4;
    CHECK(model.generate(prompt, fast).tokens == plain.tokens);
    fast.prompt_lookup_num_tokens.reset();
    fast.assistant_model = std::make_shared<gpt2::DraftModel>(model);
    const GenerationResult assisted = model.generate(prompt, fast);
    CHECK(assisted.tokens == plain.tokens);
    CHECK(assisted.speculation.accepted == assisted.speculation.proposed); // the draft knows the constraint
    CHECK(assisted.speculation.accepted > 0);

    for (const std::size_t n_threads : {1u, 3u}) {
        gpt2::Session session(model, {.pool = std::make_shared<gpt2::ThreadPool>(n_threads)});
        const GenerationResult result = session.generate(model.tokenizer().encode(prompt), config);
        CHECK(result.tokens == plain.tokens);
        CHECK(result.logprobs == plain.logprobs);
    }

    config.num_return_sequences = 3;
    const std::vector<std::string> prompts{prompt, "Once upon a time ", "[[["};
    const auto batch = model.generate_batch(prompts, config);
    CHECK(batch[0].tokens == plain.tokens);
    for (std::size_t i = 0; i < batch.size(); ++i) {
        check_text(*constraint, batch[i]);
        GenerationConfig alone = config;
        alone.num_return_sequences = 1;
        alone.sample = i % 3;
        CHECK(model.generate(prompts[i / 3], alone).tokens == batch[i].tokens);
    }

    // A session goes on: the next text begins the pattern again.
    gpt2::Session session(model);
    config.num_return_sequences = 1;
    CHECK(session.generate(model.tokenizer().encode(prompt), config).tokens == plain.tokens);
    check_text(*constraint, session.generate(model.tokenizer().encode(" and then "), config));
}

TEST_CASE("beams, guidance, screening, penalties and the order") {
    const Gpt2Model model = make_model();
    const auto constraint = Constraint::regex("(the )+end|[x-z]{2}\u20ac", model.tokenizer());
    for (const bool drawn : {false, true}) {
        GenerationConfig config{
            .max_new_tokens = 20, .do_sample = drawn, .num_return_sequences = 3, .num_beams = 4};
        config.seed = drawn ? std::optional<std::uint64_t>(3) : std::nullopt;
        config.constraint = constraint;
        for (const GenerationResult& result :
             model.generate_batch(std::vector<std::string>{"th", "e"}, config)) {
            check_text(*constraint, result);
            CHECK(result.score.has_value());
        }
    }
    std::vector<GenerationConfig> configs(7);
    configs[0].guidance_scale = 1.5f;
    configs[1].repetition_penalty = 5.0f;
    configs[2].bad_words_ids = {{'x'}, {'y'}};
    configs[3].no_repeat_ngram_size = 2;
    configs[4].do_sample = true;
    configs[4].top_k = 1;
    configs[4].mirostat.reset();
    configs[5] = gpt2::preset("llama.cpp");
    configs[5].max_new_tokens = 20;
    configs[6].logits_processors = {[](std::span<const TokenId>, std::span<float> scores) {
        std::fill(scores.begin(), scores.end(), 0.0f); // comes before
    }};
    for (GenerationConfig& config : configs) {
        config.constraint = constraint;
        check_text(*constraint, model.generate("th", config));
    }
    // The screened head, where only one token decides, has all logits when there is a constraint.
    const Gpt2Model screened = make_model(gpt2::test::odd_config(), {}, {.screen_head = true});
    const GenerationConfig greedy{.constraint = constraint};
    const GenerationResult plain = model.generate("th", greedy);
    CHECK(screened.generate("th", greedy).tokens == plain.tokens);
    CHECK(screened.generate("th", greedy).screening.tokens == 0);

    // A beam's text is another at each step; each is followed for itself.
    GenerationConfig wide{.max_new_tokens = 8, .num_return_sequences = 2, .num_beams = 2};
    wide.constraint = Constraint::regex("x|yy", model.tokenizer());
    const auto both = model.generate_batch(std::vector<std::string>{"a"}, wide);
    std::set<std::string> texts{both[0].text, both[1].text};
    CHECK(texts == std::set<std::string>{"x", "yy"});
}

TEST_CASE("the end of a text") {
    const Gpt2Model model = make_model();
    GenerationConfig config{.constraint = Constraint::regex("abc", model.tokenizer())};
    GenerationResult result = model.generate("x", config);
    CHECK(result.text == "abc");
    CHECK(result.tokens == std::vector<TokenId>{'a', 'b', 'c', 256});
    CHECK(result.finish_reason == FinishReason::eos);
    config.max_new_tokens = 3; // as long as the text, which is complete, but the model did not say so
    result = model.generate("x", config);
    CHECK(result.finish_reason == FinishReason::length);
    CHECK(config.constraint->matches(result.bytes));
    config.max_new_tokens = 2;
    result = model.generate("x", config);
    CHECK(result.text == "ab");
    CHECK_FALSE(config.constraint->matches(result.bytes));
    config.max_new_tokens = 20;
    config.stop_strings = {"b"};
    result = model.generate("x", config);
    CHECK(result.text == "a");
    CHECK(result.finish_reason == FinishReason::stop_string);

    // Another token as the end is no text, even where its bytes would be allowed.
    GenerationConfig other{.eos_token_id = 258, .constraint = Constraint::regex("(the)*", model.tokenizer())};
    other.logit_bias = {{258, 100.0f}};
    result = model.generate("x", other);
    CHECK(result.text.empty());
    CHECK(result.tokens == std::vector<TokenId>{258});
    other.min_new_tokens = 4;
    result = model.generate("x", other);
    CHECK(result.bytes.starts_with("the"));
}

TEST_CASE("options that cannot go together are errors that name both") {
    const Gpt2Model model = make_model();
    const auto constraint = Constraint::regex("ab", model.tokenizer());
    const auto refused = [&](auto change, std::initializer_list<std::string_view> parts) {
        GenerationConfig config{.constraint = constraint};
        change(config);
        check_throws<OptionError>([&] { (void)model.generate("x", config); }, parts);
    };
    refused([](GenerationConfig& c) { c.ignore_eos = true; }, {"constraint and ignore_eos are both set"});
    refused([](GenerationConfig& c) { c.forced_eos_token_id = 256; },
            {"constraint and forced_eos_token_id are both set"});
    refused([](GenerationConfig& c) { c.forced_bos_token_id = 97; },
            {"constraint and forced_bos_token_id are both set"});
    refused([](GenerationConfig& c) { c.eos_token_id = '.'; },
            {"constraint: expected an eos_token_id that is not a byte of text, found 46, which is \".\""});
    refused([](GenerationConfig& c) { c.constraint = Constraint::regex("ab", tokenizer()); },
            {"constraint: expected one for the vocabulary of the model, 259 tokens, found one for 407"});
    refused([](GenerationConfig& c) { c.processor_order = {"top_k"}; },
            {"constraint is set but processor_order", "leaves it out"});
    refused(
        [](GenerationConfig& c) { // behind the constraint, against its purpose
            c.logits_processors = {[](std::span<const TokenId>, std::span<float> scores) {
                std::fill(scores.begin(), scores.end(), 0.0f);
            }};
            c.processor_order = {"constraint", "logits_processors"};
        },
        {"constraint: expected a token that it allows at place 0 of the text, found 0"});
    gpt2::Config no_end = model.config();
    no_end.eos_token_id.reset();
    check_throws<OptionError>([&] { gpt2::validate({.constraint = constraint}, no_end); },
                              {"constraint is set but the model has no token that ends a text"});

    GenerationConfig dead_end{.min_new_tokens = 5, .constraint = constraint};
    check_throws<gpt2::NumericError>([&] { (void)model.generate("x", dead_end); },
                                     {"all scores are -infinity after constraint and min_new_tokens"});
    dead_end = {.suppress_tokens = {'a'}, .constraint = constraint};
    check_throws<gpt2::NumericError>([&] { (void)model.generate("x", dead_end); },
                                     {"after constraint and suppress_tokens"});

    // The same size and other tokens.
    const auto files = gpt2::test::make_vocabulary({{"a", "b"}, {"ab", "c"}}, {"<|endoftext|>"});
    refused(
        [&](GenerationConfig& c) {
            c.constraint = Constraint::regex("ab", Tokenizer::from_memory(files.vocab, files.merges));
        },
        {"where token 256 is \"<|endoftext|>\", found one where it is \"ab\""});
}

TEST_CASE("a vocabulary that the converter trimmed has every byte, and so every text") {
    const Gpt2Model model = Gpt2Model::load(gpt2::test::fixture("novella-f16-trimmed.safetensors"));
    for (const char* const text : {"\u65e5\u672c\u8a9e", "\U0001f600 zyzzyva \u0416", "{\"a\": [1, true]}"}) {
        std::string pattern;
        for (const char c : std::string_view(text)) {
            pattern += c == '{' || c == '[' ? std::string("\\") + c : std::string(1, c);
        }
        const auto constraint = Constraint::regex(pattern, model.tokenizer());
        const GenerationResult result =
            model.generate("He said ", {.max_new_tokens = 40, .constraint = constraint});
        CHECK(result.text == text);
        CHECK(result.finish_reason == FinishReason::eos);
    }
}

TEST_CASE("the grammars of the examples are good") {
    const std::filesystem::path folder = std::filesystem::path(GPT2_SOURCE_DIR) / "examples" / "grammars";
    const auto load = [&](const char* name) { return grammar(gpt2::test::read_file(folder / name)); };
    const auto json = load("json.gbnf");
    CHECK(json->matches(R"({"a": [1, -2.5e+3, true, null], "b\u00e9\n": {"c": ""}})"));
    CHECK(json->matches("[]"));
    for (const char* const text :
         {"", "{", "[1,]", "{\"a\" 1}", "[01]", "[\"\t\"]", "nul", "[1] x", "\"\\q\""}) {
        CAPTURE(text);
        CHECK_FALSE(json->matches(text));
    }
    CHECK(load("list.gbnf")->matches("- one\n- two thing\n"));
    CHECK_FALSE(load("list.gbnf")->matches("- one\ntwo\n"));
    CHECK(load("arithmetic.gbnf")->matches("(1 + 2) * x - 3 / -4"));
    CHECK_FALSE(load("arithmetic.gbnf")->matches("(1 + 2 * x"));
}
