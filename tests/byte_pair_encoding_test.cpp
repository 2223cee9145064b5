// SPDX-License-Identifier: MIT
#include "support/files.hpp"
#include "support/vocabularies.hpp"
#include "tokenizer_reference.hpp"

#include <gpt2/tokenizer.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using gpt2::TokenId;
using gpt2::detail::PairMerger;
using gpt2::detail::TokenizerBuilder;
using gpt2::detail::WholeTokens;
using gpt2::test::make_vocabulary;
using gpt2::test::random_merges;
using gpt2::test::VocabularyFiles;

const std::filesystem::path root = GPT2_SOURCE_DIR;

gpt2::detail::OwnedTokenizerTables build(const VocabularyFiles& files) {
    return TokenizerBuilder::build(files.vocab, files.merges, "vocab.json", "merges.txt");
}

VocabularyFiles files_in(const std::filesystem::path& directory) {
    return {gpt2::test::read_file(directory / "vocab.json"), gpt2::test::read_file(directory / "merges.txt")};
}

std::vector<TokenId> by_scan(PairMerger& merger, std::string_view piece) {
    std::vector<TokenId> out;
    merger.merge_by_scan(piece, out);
    return out;
}

std::vector<TokenId> by_heap(PairMerger& merger, std::string_view piece) {
    std::vector<TokenId> out;
    merger.merge_by_heap(piece, out);
    return out;
}

std::string random_word(std::mt19937& random, std::string_view alphabet, std::size_t size) {
    std::string out;
    while (out.size() < size) {
        out += alphabet[random() % alphabet.size()];
    }
    return out;
}

} // namespace

TEST_CASE("scan and heap merge as the plain algorithm does, in vocabularies of every kind") {
    std::mt19937 random(2);
    for (int round = 0; round < 120; ++round) {
        const std::string_view alphabet = std::string_view("abcde").substr(0, 1 + random() % 5);
        const bool orderly = round % 2 == 0;
        const VocabularyFiles files =
            make_vocabulary(random_merges(random, alphabet, 3 + random() % 30, orderly));
        const auto tables = build(files);
        const auto view = tables.view();
        PairMerger merger(view);
        const reference::Tokenizer plain(files.vocab, files.merges);
        for (int n = 0; n < 40; ++n) {
            const std::string word = random_word(random, alphabet, 1 + random() % PairMerger::scan_limit);
            const std::vector<TokenId> expected = plain.merge(word);
            REQUIRE(by_scan(merger, word) == expected);
            REQUIRE(by_heap(merger, word) == expected);
        }
        const std::string longer = random_word(random, alphabet, 65 + random() % 300);
        REQUIRE(by_heap(merger, longer) == plain.merge(longer));
    }
}

TEST_CASE("a round finishes before a pair of lower rank that it brought forth") {
    // In "abxab" the first merge makes ab, whose merge with x has the lower rank. The original merges the
    // second a b before it looks again; then (ab, x) goes before (x, ab).
    const VocabularyFiles files = make_vocabulary({{"ab", "x"}, {"x", "a"}, {"a", "b"}, {"b", "x"}});
    const auto tables = build(files);
    const auto view = tables.view();
    PairMerger merger(view);
    const reference::Tokenizer plain(files.vocab, files.merges);
    for (const char* word : {"abxab", "abab", "xabx", "abxabxab", "aabxx", "ababxbxa"}) {
        CHECK(by_scan(merger, word) == plain.merge(word));
        CHECK(by_heap(merger, word) == plain.merge(word));
    }
    // One at a time, left to right: aa aa a a would become aaa + ... before the round is over.
    const VocabularyFiles tower = make_vocabulary({{"aa", "a"}, {"a", "a"}, {"aa", "aa"}});
    const auto tower_tables = build(tower);
    const auto tower_view = tower_tables.view();
    PairMerger tower_merger(tower_view);
    const reference::Tokenizer tower_plain(tower.vocab, tower.merges);
    for (std::size_t n = 1; n <= 40; ++n) {
        const std::string word(n, 'a');
        CHECK(by_scan(tower_merger, word) == tower_plain.merge(word));
        CHECK(by_heap(tower_merger, word) == tower_plain.merge(word));
    }
}

TEST_CASE("the tokens that their own bytes become: seams tell the same as encoding") {
    std::mt19937 random(3);
    std::size_t broken = 0;
    for (int round = 0; round < 400; ++round) {
        const std::string_view alphabet = std::string_view("abcd").substr(0, 1 + random() % 4);
        const VocabularyFiles files =
            make_vocabulary(random_merges(random, alphabet, 3 + random() % 40, round % 4 != 0), {"<s>"});
        const auto tables = build(files);
        const auto view = tables.view();
        std::vector<gpt2::detail::MergePair> merges(view.products.size());
        for (const auto& pair : view.pairs) {
            if (pair.rank != gpt2::detail::no_rank) {
                merges[pair.rank] = pair;
            }
        }
        WholeTokens whole(view, merges);
        const std::vector<std::uint8_t> found = whole.find();
        REQUIRE(found == whole.by_encoding());
        const reference::Tokenizer plain(files.vocab, files.merges);
        for (std::size_t id = 0; id < found.size(); ++id) {
            const std::string bytes(view.token(id));
            const bool expected = view.is_special[id] == 0 &&
                                  plain.merge(bytes) == std::vector<TokenId>{static_cast<TokenId>(id)};
            REQUIRE((found[id] != 0) == expected);
            REQUIRE((view.whole_token({bytes.data(), bytes.size(), bytes.size()}) == id) == expected);
            broken += expected ? 0 : 1;
        }
    }
    CHECK(broken > 1000); // random vocabularies have many such tokens: the test is not empty
}

TEST_CASE("in GPT-2's and in Novella's vocabulary every token but the special one comes of its bytes") {
    for (const auto& directory :
         {root / "tests/data/tokenizer", std::filesystem::path(GPT2_FIXTURES) / "novella"}) {
        const auto tables = build(files_in(directory));
        const auto view = tables.view();
        std::vector<gpt2::detail::MergePair> merges(view.products.size());
        for (const auto& pair : view.pairs) {
            if (pair.rank != gpt2::detail::no_rank) {
                merges[pair.rank] = pair;
            }
        }
        WholeTokens whole(view, merges);
        const std::vector<std::uint8_t> found = whole.find();
        CHECK(found == whole.by_encoding());
        std::size_t n = 0;
        for (const std::uint8_t one : found) {
            n += one;
        }
        CHECK(n == found.size() - 1);
    }
}

TEST_CASE("words of a megabyte, of every bad kind") {
    const auto tables = build(files_in(root / "tests/data/tokenizer"));
    const auto view = tables.view();
    PairMerger merger(view);
    std::mt19937 random(4);
    constexpr std::size_t size = 1 << 20;
    std::string alternating;
    while (alternating.size() < size) {
        alternating += "ab";
    }
    const std::vector<std::string> words = {std::string(size, 'a'), std::string(size, ' '), alternating,
                                            random_word(random, "abcdefghijklmnopqrstuvwxyz", size),
                                            random_word(random, "aeo", size)};
    for (const std::string& word : words) {
        const std::vector<TokenId> tokens = by_heap(merger, word);
        std::string decoded;
        for (const TokenId token : tokens) {
            decoded += view.token(static_cast<std::size_t>(token));
        }
        CHECK(decoded == word);
        // What is left does not merge.
        for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
            REQUIRE(view.rank(static_cast<std::uint32_t>(tokens[i]),
                              static_cast<std::uint32_t>(tokens[i + 1])) == gpt2::detail::no_rank);
        }
    }
}

TEST_CASE("long words of the real vocabulary agree with the plain algorithm") {
    const VocabularyFiles files = files_in(root / "tests/data/tokenizer");
    const auto tables = build(files);
    const auto view = tables.view();
    PairMerger merger(view);
    const reference::Tokenizer plain(files.vocab, files.merges);
    std::mt19937 random(5);
    for (const std::string_view alphabet :
         {"a", "ab", "aeinrst", " ", "-=", "\xd0\xb0\xbf\xd1\x80", "0123456789"}) {
        for (const std::size_t size : {1u, 2u, 17u, 63u, 64u, 65u, 127u, 500u}) {
            const std::string word = random_word(random, alphabet, size);
            const std::vector<TokenId> expected = plain.merge(word);
            REQUIRE(by_heap(merger, word) == expected);
            if (size <= PairMerger::scan_limit) {
                REQUIRE(by_scan(merger, word) == expected);
            }
            std::vector<TokenId> out;
            merger.merge(word, out);
            REQUIRE(out == expected);
        }
    }
}
