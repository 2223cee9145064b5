// SPDX-License-Identifier: MIT
#include "support/files.hpp"
#include "support/vocabularies.hpp"
#include "tokenizer_reference.hpp"

#include <gpt2/tokenizer.hpp>

#include <nlohmann/json.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using gpt2::OptionError;
using gpt2::SpecialTokens;
using gpt2::TokenId;
using gpt2::Tokenizer;
using gpt2::test::check_throws;
using gpt2::test::make_vocabulary;
using gpt2::test::random_merges;

using Ids = std::vector<TokenId>;

const std::filesystem::path root = GPT2_SOURCE_DIR;
const std::filesystem::path gpt2_files = root / "tests/data/tokenizer";
const std::filesystem::path novella_files = std::filesystem::path(GPT2_FIXTURES) / "novella";

const Tokenizer& gpt2_tokenizer() {
    static const Tokenizer tokenizer = Tokenizer::load(gpt2_files);
    return tokenizer;
}

reference::Tokenizer plain_tokenizer(const std::filesystem::path& directory) {
    return {gpt2::test::read_file(directory / "vocab.json"), gpt2::test::read_file(directory / "merges.txt")};
}

std::string from_hex(std::string_view hex) {
    std::string out;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        out += static_cast<char>(
            static_cast<unsigned char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
    }
    return out;
}

struct Case {
    std::string text;
    Ids ids;
};

std::vector<Case> original_cases() {
    std::vector<Case> out;
    std::istringstream lines(gpt2::test::read_file(gpt2_files / "cases.jsonl"));
    for (std::string line; std::getline(lines, line);) {
        const nlohmann::json json = nlohmann::json::parse(line);
        const nlohmann::json& text = json["text"];
        out.push_back({text.is_string() ? text.get<std::string>() : from_hex(text["hex"].get<std::string>()),
                       json["ids"].get<Ids>()});
    }
    return out;
}

/// The texts between the pieces of the scanner.
std::vector<std::string> pieces(std::string_view text) {
    std::vector<std::string> out;
    const gpt2::detail::PreTokenizer scanner(text);
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = scanner.piece_end(begin);
        REQUIRE(end > begin);
        REQUIRE(end <= text.size());
        out.emplace_back(text.substr(begin, end - begin));
        begin = end;
    }
    return out;
}

/// Text in which everything that the pattern asks for is frequent, and beside it characters of all scripts
/// and bytes that are no UTF-8.
std::string random_text(std::mt19937& random, std::size_t parts) {
    static const std::vector<std::string> frequent = {" ",
                                                      "  ",
                                                      "\n",
                                                      "\t",
                                                      "\r\n",
                                                      "'",
                                                      "'s",
                                                      "'ll",
                                                      "'re",
                                                      "'S",
                                                      "a",
                                                      "the",
                                                      "Internationalization",
                                                      "x1",
                                                      "7",
                                                      "2024",
                                                      "-",
                                                      "--",
                                                      "!?",
                                                      "\u00e9",
                                                      "e\u0301",
                                                      "\u041f\u0440\u0438\u0432\u0435\u0442",
                                                      "\u4f60\u597d",
                                                      "\u00a0",
                                                      "\u3000",
                                                      "\u2028",
                                                      "\u0085",
                                                      "\u00b2",
                                                      "\u0663",
                                                      "\U0001f600",
                                                      "\u200d",
                                                      "\x1c",
                                                      "\u017f",
                                                      "\ufeff"};
    static constexpr std::string_view broken[] = {"\xff",     "\x80",         "\xc3",
                                                  "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80"};
    std::string out;
    for (; parts > 0; --parts) {
        switch (random() % 8) {
        case 0:
            gpt2::detail::append_utf8(out, std::uint32_t(random() % 0xd800));
            break;
        case 1:
            gpt2::detail::append_utf8(out, std::uint32_t(0xe000 + random() % 0x102000));
            break;
        case 2:
            out += broken[random() % std::size(broken)];
            break;
        default:
            out += frequent[random() % frequent.size()];
        }
    }
    return out;
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
    std::string out;
    for (; size > 0; --size) {
        out += static_cast<char>(static_cast<unsigned char>(random()));
    }
    return out;
}

} // namespace

TEST_CASE("all cases of the original encoder") {
    const std::vector<Case> cases = original_cases();
    REQUIRE(cases.size() == 400);
    for (const Case& c : cases) {
        INFO(gpt2::detail::quoted(c.text, 4096));
        CHECK(gpt2_tokenizer().encode(c.text) == c.ids);
        CHECK(gpt2_tokenizer().decode(c.ids) == c.text);
    }
}

TEST_CASE("the reference agrees with the original too") {
    const reference::Tokenizer plain = plain_tokenizer(gpt2_files);
    for (const Case& c : original_cases()) {
        INFO(gpt2::detail::quoted(c.text, 4096));
        CHECK(plain.encode(c.text) == c.ids);
    }
}

TEST_CASE("what stands where in the pattern") {
    using Pieces = std::vector<std::string>;
    CHECK(pieces("Hello world") == Pieces{"Hello", " world"});
    CHECK(pieces("I'll we've 'sam x'S") == Pieces{"I", "'ll", " we", "'ve", " '", "sam", " x", "'", "S"});
    CHECK(pieces("'sam'r'v'l'") == Pieces{"'s", "am", "'", "r", "'", "v", "'", "l", "'"});
    CHECK(pieces("!'s 's") == Pieces{"!'", "s", " '", "s"});
    CHECK(pieces("abc123def") == Pieces{"abc", "123", "def"});
    CHECK(pieces("a  b") == Pieces{"a", " ", " b"});
    CHECK(pieces("a \n b\n\nc") == Pieces{"a", " \n", " b", "\n", "\n", "c"});
    CHECK(pieces("a\n\n\n") == Pieces{"a", "\n\n\n"});
    CHECK(pieces("a\tb") == Pieces{"a", "\t", "b"});
    CHECK(pieces("\u00a0\u00a0x") == Pieces{"\u00a0", "\u00a0", "x"});
    CHECK(pieces(" \u00e9t\u00e9 e\u0301") == Pieces{" \u00e9t\u00e9", " e", "\u0301"});
    CHECK(pieces(" _x_ \u00b2\u0663") == Pieces{" _", "x", "_", " \u00b2\u0663"});
    CHECK(pieces(" ") == Pieces{" "});
    CHECK(pieces("").empty());
}

TEST_CASE("each maximal invalid subpart is a piece of its own, before which a space stands alone") {
    using Pieces = std::vector<std::string>;
    CHECK(pieces("ab\xff\xfe"
                 "cd") == Pieces{"ab", "\xff", "\xfe", "cd"});
    CHECK(pieces("a \xff b") == Pieces{"a", " ", "\xff", " b"});
    CHECK(pieces("a  \n\xff") == Pieces{"a", "  ", "\n", "\xff"});
    CHECK(pieces("\xe2\x82"
                 "x\xe2\x82") == Pieces{"\xe2\x82", "x", "\xe2\x82"});
    CHECK(pieces("\xf0\x9f\x98\xf0\x9f\x98\x80!") == Pieces{"\xf0\x9f\x98", "\xf0\x9f\x98\x80!"});
    CHECK(pieces("\xed\xa0\x80") == Pieces{"\xed", "\xa0", "\x80"}); // a surrogate
    CHECK(pieces("'\xff"
                 "s") == Pieces{"'", "\xff", "s"});
    const Ids ids = gpt2_tokenizer().encode("a\xff");
    CHECK(gpt2_tokenizer().decode(ids) == "a\xff");
}

TEST_CASE("the scanner cuts as the pattern does, and any bytes come back") {
    std::mt19937 random(6);
    for (int round = 0; round < 10000; ++round) {
        const std::string text =
            round % 4 == 0 ? random_bytes(random, random() % 40) : random_text(random, random() % 12);
        INFO(gpt2::detail::quoted(text, 4096));
        REQUIRE(pieces(text) == reference::Pattern(text).pieces());
        REQUIRE(gpt2_tokenizer().decode(gpt2_tokenizer().encode(text)) == text);
    }
}

TEST_CASE("every character, before and after every other kind, is cut as the pattern does") {
    for (std::uint32_t code_point = 0; code_point < 0x110000; code_point += code_point < 0x3100 ? 1 : 61) {
        std::string c;
        gpt2::detail::append_utf8(c, code_point); // of a surrogate, an invalid sequence
        const std::string text = "ab" + c + "c" + c + "1 " + c + c + "!" + c + " \n" + c + " " + c;
        REQUIRE(pieces(text) == reference::Pattern(text).pieces());
    }
}

TEST_CASE("random text gives the tokens of the reference, in both vocabularies") {
    for (const auto& directory : {gpt2_files, novella_files}) {
        const Tokenizer tokenizer = Tokenizer::load(directory);
        const reference::Tokenizer plain = plain_tokenizer(directory);
        std::mt19937 random(7);
        for (int round = 0; round < 1500; ++round) {
            const std::string text =
                round % 4 == 0 ? random_bytes(random, random() % 100) : random_text(random, random() % 30);
            INFO(gpt2::detail::quoted(text, 4096));
            REQUIRE(tokenizer.encode(text) == plain.encode(text));
        }
    }
}

TEST_CASE("the end of the text may be anywhere: no byte behind it counts") {
    const reference::Tokenizer plain = plain_tokenizer(novella_files);
    const Tokenizer tokenizer = Tokenizer::load(novella_files);
    const std::string text = "There was once a poor woodcutter\u2019s daughter, whose father'd gone \xe2\x82";
    for (std::size_t begin = 0; begin < text.size(); ++begin) {
        for (std::size_t end = begin; end <= text.size(); ++end) {
            const std::string_view part = std::string_view(text).substr(begin, end - begin);
            const Ids ids = tokenizer.encode(part);
            REQUIRE(ids == plain.encode(part));
            REQUIRE(tokenizer.decode(ids) == part);
        }
    }
}

TEST_CASE("prose gives the tokens of the reference") {
    const Tokenizer tokenizer = Tokenizer::load(novella_files);
    const reference::Tokenizer plain = plain_tokenizer(novella_files);
    const std::string text = gpt2::test::read_file(root / "tests/data/heldout.txt").substr(0, 60000);
    CHECK(tokenizer.encode(text) == plain.encode(text));
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
}

TEST_CASE("vocabularies in which some tokens do not come of their bytes") {
    std::mt19937 random(8);
    for (int round = 0; round < 60; ++round) {
        const auto files = make_vocabulary(random_merges(random, " abc'", 40, round % 2 == 0));
        const Tokenizer tokenizer = Tokenizer::from_memory(files.vocab, files.merges);
        const reference::Tokenizer plain(files.vocab, files.merges);
        for (int n = 0; n < 50; ++n) {
            std::string text;
            for (std::size_t size = random() % 60; size > 0; --size) {
                text += " abc'"[random() % 5];
            }
            REQUIRE(tokenizer.encode(text) == plain.encode(text));
        }
    }
}

TEST_CASE("tokens one by one") {
    const Tokenizer& tokenizer = gpt2_tokenizer();
    REQUIRE(tokenizer.size() == 50257);
    std::size_t invalid = 0;
    std::string all;
    Ids ids;
    for (TokenId id = 0; id < 50257; ++id) {
        const std::string_view bytes = tokenizer.token_bytes(id);
        REQUIRE_FALSE(bytes.empty());
        invalid += gpt2::is_valid_utf8(bytes) ? 0 : 1;
        all += bytes;
        ids.push_back(id);
        REQUIRE(tokenizer.decode(std::span(&id, 1)) == bytes);
    }
    CHECK(invalid == 344);
    CHECK(tokenizer.decode(ids) == all);
    CHECK(tokenizer.token_bytes(0) == "!");
    CHECK(tokenizer.token_bytes(220) == " ");
    CHECK(tokenizer.token_bytes(50256) == "<|endoftext|>");
    CHECK(Tokenizer::load(novella_files).size() == 8192);
}

TEST_CASE("an id outside the vocabulary is refused") {
    const Tokenizer& tokenizer = gpt2_tokenizer();
    for (const TokenId id :
         {-1, 50257, std::numeric_limits<TokenId>::max(), std::numeric_limits<TokenId>::min()}) {
        const Ids ids = {0, id, 1};
        check_throws<OptionError>([&] { (void)tokenizer.decode(ids); }, {"0 to 50256", std::to_string(id)});
        check_throws<OptionError>([&] { (void)tokenizer.token_bytes(id); },
                                  {"0 to 50256", std::to_string(id)});
        CHECK_FALSE(tokenizer.is_special(id));
    }
}

TEST_CASE("special tokens come only when asked for") {
    const Tokenizer& tokenizer = gpt2_tokenizer();
    CHECK(tokenizer.special_token("<|endoftext|>") == 50256);
    CHECK_FALSE(tokenizer.special_token("<|endoftext|").has_value());
    CHECK_FALSE(tokenizer.special_token("the").has_value());
    CHECK_FALSE(tokenizer.special_token("").has_value());
    CHECK(tokenizer.is_special(50256));
    CHECK_FALSE(tokenizer.is_special(50255));
    const std::string text = "a  <|endoftext|> b<|endoftext|><|endoftext|";
    const Ids as_text = tokenizer.encode(text);
    CHECK(std::find(as_text.begin(), as_text.end(), 50256) == as_text.end());
    CHECK(tokenizer.decode(as_text) == text);
    Ids expected;
    const auto append = [&](const Ids& ids) { expected.insert(expected.end(), ids.begin(), ids.end()); };
    append(tokenizer.encode("a  ")); // ends before the token, so both spaces are one piece
    append({50256});
    append(tokenizer.encode(" b"));
    append({50256});
    append(tokenizer.encode("<|endoftext|"));
    CHECK(tokenizer.encode(text, SpecialTokens::recognized) == expected);
    CHECK(tokenizer.encode("<|endoftext|>", SpecialTokens::recognized) == Ids{50256});
    CHECK(tokenizer.encode("", SpecialTokens::recognized).empty());
}

TEST_CASE("of special tokens that begin at one place the longest is taken") {
    // U+00E9 and U+0120 are in the alphabet, where they mean the byte E9 and a space; in a name they do not.
    const auto files =
        make_vocabulary({{"c", "d"}}, {"<ab", "<abcd", "<x \u4f60>", "\u00e9\u0120", "b>", "tt"});
    const Tokenizer t = Tokenizer::from_memory(files.vocab, files.merges);
    CHECK(t.size() == 256 + 1 + 6);
    const auto encoded = [&](std::string_view text) {
        const Ids ids = t.encode(text, SpecialTokens::recognized);
        CHECK(t.decode(ids) == text);
        return ids;
    };
    CHECK(encoded("<abcd") == Ids{258});
    CHECK(encoded("<abc") == Ids{257, t.encode("c")[0]});
    CHECK(encoded("<abb>") == Ids{257, 261});
    CHECK(encoded("<x \u4f60>\u00e9\u0120ttt") == Ids{259, 260, 262, t.encode("t")[0]});
    CHECK(t.special_token("\u00e9\u0120") == 260);
    CHECK(t.token_bytes(260) == "\u00e9\u0120");
    CHECK(t.encode("tt").size() == 2); // letters alone are a piece, but not of text
    CHECK_FALSE(t.is_special(256));
}

TEST_CASE("a copy shares the tables, outlives the original, and moving leaves it whole") {
    std::string_view bytes;
    const Tokenizer copy = [&] {
        Tokenizer original = Tokenizer::load(novella_files);
        bytes = original.token_bytes(300);
        Tokenizer moved = std::move(original);
        CHECK(original.size() == 8192); // NOLINT(bugprone-use-after-move): that is the point
        return moved;
    }();
    CHECK(copy.token_bytes(300).data() == bytes.data());
}

TEST_CASE("threads share a tokenizer") {
    const std::vector<Case> cases = original_cases();
    std::vector<int> wrong(3, 0);
    std::vector<std::thread> threads;
    for (int& count : wrong) {
        threads.emplace_back([&cases, &count] {
            for (const Case& c : cases) {
                count += gpt2_tokenizer().encode(c.text) != c.ids || gpt2_tokenizer().decode(c.ids) != c.text;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    CHECK(wrong == std::vector<int>(3, 0));
}
