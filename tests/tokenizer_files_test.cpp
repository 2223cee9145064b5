// SPDX-License-Identifier: MIT
#include "support/files.hpp"
#include "support/vocabularies.hpp"

#include <gpt2/tokenizer.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace {

using gpt2::FileError;
using gpt2::FormatError;
using gpt2::Tokenizer;
using gpt2::test::check_throws;
using gpt2::test::make_vocabulary;
using gpt2::test::replaced;
using gpt2::test::TemporaryDirectory;
using gpt2::test::VocabularyFiles;
using gpt2::test::write_file;

/// 256 bytes, "th" (256), "the" (257), "<s>" (258).
const VocabularyFiles& good() {
    static const VocabularyFiles files = make_vocabulary({{"t", "h"}, {"th", "e"}}, {"<s>"});
    return files;
}

void check_bad(std::string_view vocab, std::string_view merges,
               std::initializer_list<std::string_view> parts) {
    check_throws<FormatError>([&] { (void)Tokenizer::from_memory(vocab, merges, "a test"); }, parts);
}

void check_bad_vocab(std::string_view vocab, std::initializer_list<std::string_view> parts) {
    check_bad(vocab, good().merges, parts);
    check_bad(vocab, good().merges, {"\"a test: vocab.json\""});
}

void check_bad_merges(std::string_view merges, std::initializer_list<std::string_view> parts) {
    check_bad(good().vocab, merges, parts);
    check_bad(good().vocab, merges, {"\"a test: merges.txt\""});
}

} // namespace

TEST_CASE("the vocabulary that the bad ones are made from is good") {
    const Tokenizer tokenizer = Tokenizer::from_memory(good().vocab, good().merges);
    CHECK(tokenizer.size() == 259);
    CHECK(tokenizer.encode("the") == std::vector<gpt2::TokenId>{257});
    CHECK(tokenizer.special_token("<s>") == 258);
    CHECK(Tokenizer::from_memory(" \r\n" + good().vocab + "\n\n", good().merges).size() == 259);
    // No merges at all: every byte is a token of its own, and "th" is special.
    CHECK(Tokenizer::from_memory(good().vocab, "").special_token("th") == 256);
}

TEST_CASE("vocab.json that is not JSON") {
    check_bad_vocab("", {"expected a JSON object", "empty"});
    check_bad_vocab("   ", {"line 1", "expected valid JSON"});
    check_bad_vocab("#version: 0.2\na b\n", {"line 1", "expected valid JSON"});
    check_bad_vocab(good().vocab + "\n\n}", {"line 3", "expected valid JSON"});
    check_bad_vocab(good().vocab + std::string("\0", 1), {"zero byte"});
    check_bad_vocab(replaced(good().vocab, "\"th\"", "\"t\xff\""), {"line 1", "UTF-8"});
    check_bad_vocab(replaced(good().vocab, "\"th\"", "\"t\\ud800\""), {"line 1", "surrogate"});
    check_bad_vocab(replaced(good().vocab, ":256", ":1e999"), {"line 1", "found"});
    check_bad_vocab(std::string(100000, '['), {"expected a JSON object", "an array"});
    check_bad_vocab(std::string(100000, '{'), {"line 1", "expected valid JSON"});
}

TEST_CASE("vocab.json cut off anywhere") {
    for (std::size_t size = 0; size < good().vocab.size(); ++size) {
        CHECK_THROWS_AS((void)Tokenizer::from_memory(good().vocab.substr(0, size), good().merges),
                        FormatError);
    }
}

TEST_CASE("vocab.json that is JSON of another kind") {
    check_bad_vocab("[]", {"expected a JSON object", "an array"});
    check_bad_vocab("12", {"expected a JSON object", "found 12"});
    check_bad_vocab("-12", {"expected a JSON object", "found -12"});
    check_bad_vocab("1.5", {"expected a JSON object", "found 1.5"});
    check_bad_vocab("\"the\"", {"expected a JSON object", "found \"the\""});
    check_bad_vocab("null", {"expected a JSON object", "found null"});
    check_bad_vocab("true", {"expected a JSON object", "found true"});
    check_bad_vocab("{}", {"token for every byte", "byte 0"});
}

TEST_CASE("ids that are none") {
    const auto with_id = [](std::string_view id) {
        return replaced(good().vocab, ":256", std::string(":").append(id));
    };
    CHECK(Tokenizer::from_memory(with_id("256"), good().merges).size() == 259);
    for (const std::string_view id : {"-1", "1.5", "\"256\"", "null", "false", "2147483647", "4294967552",
                                      "18446744073709551615", "18446744073709551616", "256.0"}) {
        CAPTURE(id);
        check_bad_vocab(with_id(id), {"token \"th\"", "expected an id from 0 to 2147483646", "found"});
    }
    check_bad_vocab(with_id("[256]"), {"token \"th\"", "an array"});
    check_bad_vocab(with_id("{\"a\":256}"), {"token \"th\"", "an object"});
    check_bad_vocab(with_id("255"), {"every id once", "255", "\"th\""});
    check_bad_vocab(with_id("259"), {"259 tokens", "0 to 258", "\"th\"", "id 259"});
    check_bad_vocab(with_id("2147483646"), {"259 tokens", "0 to 258", "\"th\"", "2147483646"});
}

TEST_CASE("tokens that are none") {
    check_bad_vocab(replaced(good().vocab, "\"th\"", "\"\""), {"1 to 65535 bytes", "found one of 0"});
    check_bad_vocab(replaced(good().vocab, "\"th\"", '"' + std::string(65536, 'x') + '"'),
                    {"found one of 65536"});
    check_bad_vocab(replaced(good().vocab, "\"th\"", "\"the\""),
                    {"every token once", "\"the\"", "256", "257"});
    check_bad_vocab(replaced(good().vocab, "\"th\"", "\"a\""), {"every token once", "\"a\"", "97", "256"});
    // Outside the alphabet, where tokens are compared in another way.
    const VocabularyFiles two = make_vocabulary({}, {"<\u4f60 1>", "<\u4f60 2>"});
    check_bad(replaced(two.vocab, "2>", "1>"), "", {"every token once", "256", "257"});
    // Long enough for the other hash table.
    const VocabularyFiles long_names = make_vocabulary({}, {"<|a special token|>", "<|b special token|>"});
    check_bad(replaced(long_names.vocab, "<|b", "<|a"), "", {"every token once", "256", "257"});
}

TEST_CASE("a byte without a token") {
    check_bad_vocab(replaced(good().vocab, "\"a\":97", "\"<a>\":97"), {"every byte", "byte 97", "\"a\""});
    check_bad_vocab(replaced(good().vocab, "\"\u0120\":32", "\"< >\":32"), {"every byte", "byte 32"});
}

TEST_CASE("merges.txt may have a version line, CR LF, and empty lines at its end") {
    const auto tokens = [](std::string_view merges) {
        return Tokenizer::from_memory(good().vocab, merges).encode("the the").size();
    };
    CHECK(tokens("#version: 0.2\nt h\nth e\n") == 3);
    CHECK(tokens("t h\nth e\n") == 3);
    CHECK(tokens("t h\nth e") == 3);
    CHECK(tokens("#version: 0.2\r\nt h\r\nth e\r\n") == 3);
    CHECK(tokens("t h\nth e\n\n\r\n\n") == 3);
    CHECK(tokens("#version: 0.2") == 7);
}

TEST_CASE("lines of merges.txt that are no merges") {
    const std::initializer_list<std::string_view> parts = {"line 3", "two tokens", "one space"};
    for (const std::string line : {"the", "th  e", " th e", "th e ", "t h e", " ", "th\te",
                                   "#version: 0.2 again", "th \xff", "th \u4f60", "th \u00a0", "th \xc4"}) {
        INFO(gpt2::detail::quoted(line));
        check_bad_merges("#version: 0.2\nt h\n" + line + "\n", parts);
        check_bad_merges("#version: 0.2\nt h\n" + line, parts);
    }
    check_bad_merges("#version: 0.2\nt h\n\nth e\n", parts); // an empty line that is not at the end
    check_bad_merges(std::string("t h\nth \0\n", 9), {"line 2", "\\x00"});
    check_bad_merges("#version: 0.2\n" + good().vocab, {"line 2", "two tokens"});
    check_bad_merges(std::string(1000000, 'x'), {"line 1", "(1000000 bytes)"});
}

TEST_CASE("merges that do not fit the vocabulary") {
    check_bad_merges("t h\nth a\n", {"line 2", "tokens of the vocabulary", "\"tha\""});
    check_bad_merges("t h\nte h\n", {"line 2", "tokens of the vocabulary", "\"te\""});
    check_bad_merges("t h\nt he\n", {"line 2", "tokens of the vocabulary", "\"he\""});
    check_bad_merges("t h\nth e\nt h\n", {"line 3", "every merge once", "line 1"});
    check_bad_merges("#version: 0.2\nt h\nth e\nt h\n", {"line 4", "every merge once", "line 2"});
    // "th" is in the vocabulary, but nothing makes it.
    check_bad_merges("#version: 0.2\nth e\n", {"line 2", "\"th\"", "neither"});
}

TEST_CASE("files that cannot be read") {
    const TemporaryDirectory directory;
    const auto load = [&] { (void)Tokenizer::load(directory.path()); };
    check_throws<FileError>(load, {"vocab.json"});
    write_file(directory / "vocab.json", good().vocab);
    check_throws<FileError>(load, {"merges.txt"});
    std::filesystem::create_directory(directory / "merges.txt");
    check_throws<FileError>(load, {"merges.txt", "directory"});
    std::filesystem::remove(directory / "merges.txt");
    write_file(directory / "merges.txt", "t h\nth\n");
    check_throws<FormatError>(load, {(directory / "merges.txt").string(), "line 2"});
    write_file(directory / "merges.txt", good().merges);
    CHECK(Tokenizer::load(directory.path()).size() == 259);
    write_file(directory / "vocab.json", "");
    check_throws<FormatError>(load, {(directory / "vocab.json").string(), "empty"});
    check_throws<FormatError>([&] { (void)Tokenizer::load(directory / "vocab.json"); }, {"vocab.json"});
    check_throws<FileError>([&] { (void)Tokenizer::load(directory / "nowhere"); }, {"nowhere"});
}
