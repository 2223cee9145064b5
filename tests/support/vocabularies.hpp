// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/byte_alphabet.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Small vocabularies for tests, as the texts of their two files.

namespace gpt2::test {

struct VocabularyFiles {
    std::string vocab;
    std::string merges;
};

/// The 256 bytes with ids in their order, then the products of the merges, then further tokens as they are.
/// @param merges  pairs of bytes, not spelled
inline VocabularyFiles make_vocabulary(const std::vector<std::pair<std::string, std::string>>& merges,
                                       const std::vector<std::string>& specials = {}) {
    nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
    const auto add = [&](const std::string& token) {
        if (!vocab.contains(token)) {
            const std::size_t id = vocab.size();
            vocab[token] = id;
        }
    };
    for (int byte = 0; byte < 256; ++byte) {
        const char text = static_cast<char>(static_cast<unsigned char>(byte));
        add(detail::spell({&text, 1}));
    }
    std::string lines = "#version: 0.2\n";
    for (const auto& [left, right] : merges) {
        add(detail::spell(left + right));
        lines += detail::spell(left) + ' ' + detail::spell(right) + '\n';
    }
    for (const std::string& special : specials) {
        add(special);
    }
    return {vocab.dump(), lines};
}

/// Merges drawn at random over an alphabet, each of tokens that are there already.
/// @param orderly  whether every product has one merge and comes after its parts; otherwise the ranks are
///                 shuffled and products repeat
inline std::vector<std::pair<std::string, std::string>>
random_merges(std::mt19937& random, std::string_view alphabet, std::size_t n, bool orderly) {
    std::vector<std::string> tokens;
    for (const char byte : alphabet) {
        tokens.emplace_back(1, byte);
    }
    std::vector<std::pair<std::string, std::string>> merges;
    for (std::size_t tries = 0; merges.size() < n && tries < 50 * n; ++tries) {
        std::pair<std::string, std::string> merge{tokens[random() % tokens.size()],
                                                  tokens[random() % tokens.size()]};
        const std::string product = merge.first + merge.second;
        const bool is_new = std::find(tokens.begin(), tokens.end(), product) == tokens.end();
        if (product.size() > 24 || (orderly && !is_new) ||
            std::find(merges.begin(), merges.end(), merge) != merges.end()) {
            continue;
        }
        if (is_new) {
            tokens.push_back(product);
        }
        merges.push_back(std::move(merge));
    }
    if (!orderly) {
        std::shuffle(merges.begin(), merges.end(), random);
    }
    return merges;
}

} // namespace gpt2::test
