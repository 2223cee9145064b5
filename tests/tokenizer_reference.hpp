// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/byte_alphabet.hpp>
#include <gpt2/config.hpp>
#include <gpt2/unicode_tables.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The tokenizer once more, as plainly as it can be put: UTF-8 from the table of well-formed sequences,
/// the pattern alternative by alternative, merges of strings as encoder.py does them. Slow, and shares
/// nothing with the library but the alphabet and the Unicode tables.

namespace reference {

using Kind = gpt2::detail::CharacterClass;

/// The bytes that may stand at each place of a well-formed sequence.
/// The Unicode Standard 15.0, table 3-7 "Well-Formed UTF-8 Byte Sequences".
inline const std::vector<std::vector<std::pair<int, int>>>& well_formed_sequences() {
    static const std::vector<std::vector<std::pair<int, int>>> rows = {
        {{0x00, 0x7f}},
        {{0xc2, 0xdf}, {0x80, 0xbf}},
        {{0xe0, 0xe0}, {0xa0, 0xbf}, {0x80, 0xbf}},
        {{0xe1, 0xec}, {0x80, 0xbf}, {0x80, 0xbf}},
        {{0xed, 0xed}, {0x80, 0x9f}, {0x80, 0xbf}},
        {{0xee, 0xef}, {0x80, 0xbf}, {0x80, 0xbf}},
        {{0xf0, 0xf0}, {0x90, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}},
        {{0xf1, 0xf3}, {0x80, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}},
        {{0xf4, 0xf4}, {0x80, 0x8f}, {0x80, 0xbf}, {0x80, 0xbf}},
    };
    return rows;
}

struct Character {
    std::string bytes;
    bool valid;
    Kind kind; ///< of a valid one
};

/// The characters and the maximal invalid subparts of a text: at each place the longest beginning of any
/// well-formed sequence, or else one byte.
inline std::vector<Character> characters(std::string_view text) {
    std::vector<Character> out;
    for (std::size_t at = 0; at < text.size();) {
        std::size_t longest = 0;
        bool whole = false;
        for (const auto& row : well_formed_sequences()) {
            std::size_t n = 0;
            while (n < row.size() && at + n < text.size()) {
                const int byte = static_cast<unsigned char>(text[at + n]);
                if (byte < row[n].first || byte > row[n].second) {
                    break;
                }
                ++n;
            }
            if (n > longest) {
                longest = n;
                whole = n == row.size();
            }
        }
        const std::string bytes(text.substr(at, std::max<std::size_t>(longest, 1)));
        std::uint32_t code_point = 0;
        if (whole) {
            const auto lead = static_cast<unsigned char>(bytes[0]);
            code_point = bytes.size() == 1   ? lead
                         : bytes.size() == 2 ? lead & 0x1fu
                         : bytes.size() == 3 ? lead & 0x0fu
                                             : lead & 0x07u;
            for (std::size_t i = 1; i < bytes.size(); ++i) {
                code_point = code_point * 64 + (static_cast<unsigned char>(bytes[i]) & 0x3fu);
            }
        }
        out.push_back({bytes, whole, whole ? gpt2::detail::unicode_class(code_point) : Kind::other});
        at += bytes.size();
    }
    return out;
}

/// Each maximal invalid subpart replaced by U+FFFD.
inline std::string replaced(std::string_view text) {
    std::string out;
    for (const Character& character : characters(text)) {
        out += character.valid ? character.bytes : "\xef\xbf\xbd";
    }
    return out;
}

/// Matches the pattern's alternatives one after the other, as a backtracking engine would.
class Pattern {
public:
    explicit Pattern(std::string_view text) : characters_(characters(text)) {}

    /// The number of characters that the first alternative which matches at @p at takes.
    std::size_t match(std::size_t at) const {
        if (!characters_[at].valid) {
            return 1;
        }
        for (const char* contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
            const std::size_t n = std::string_view(contraction).size();
            if (literal(at, contraction)) {
                return n;
            }
        }
        for (const Kind kind : {Kind::letter, Kind::number, Kind::other}) { // " ?X+"; X never is a space
            const std::size_t space = literal(at, " ") ? 1 : 0;
            if (const std::size_t n = run(at + space, kind); n > 0) {
                return space + n;
            }
        }
        const std::size_t spaces = run(at, Kind::space);
        for (std::size_t n = spaces; n > 0; --n) { // \s+(?!\S) gives back one character after the other
            const bool at_end = at + n == characters_.size();
            const bool before_space =
                !at_end && characters_[at + n].valid && characters_[at + n].kind == Kind::space;
            if (at_end || before_space) {
                return n;
            }
        }
        return spaces; // \s+
    }

    std::vector<std::string> pieces() const {
        std::vector<std::string> out;
        for (std::size_t at = 0; at < characters_.size();) {
            std::string piece;
            for (std::size_t n = match(at); n > 0; --n) {
                piece += characters_[at++].bytes;
            }
            out.push_back(piece);
        }
        return out;
    }

private:
    bool literal(std::size_t at, std::string_view text) const {
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (at + i >= characters_.size() || characters_[at + i].bytes != text.substr(i, 1)) {
                return false;
            }
        }
        return true;
    }

    std::size_t run(std::size_t at, Kind kind) const {
        std::size_t n = 0;
        while (at + n < characters_.size() && characters_[at + n].valid && characters_[at + n].kind == kind) {
            ++n;
        }
        return n;
    }

    std::vector<Character> characters_;
};

class Tokenizer {
public:
    Tokenizer(std::string_view vocab_json, std::string_view merges_txt) {
        const nlohmann::json vocabulary = nlohmann::json::parse(vocab_json);
        for (const auto& [token, id] : vocabulary.items()) {
            ids_[token] = id.get<gpt2::TokenId>();
        }
        std::istringstream lines{std::string(merges_txt)};
        for (std::string line; std::getline(lines, line);) {
            const std::size_t space = line.find(' ');
            if (!line.starts_with("#version") && space != std::string::npos) {
                ranks_.emplace(std::pair(line.substr(0, space), line.substr(space + 1)), ranks_.size());
            }
        }
    }

    /// `bpe` of encoder.py: each round merges all occurrences of the pair with the lowest rank.
    std::vector<gpt2::TokenId> merge(std::string_view piece) const {
        std::vector<std::string> word;
        for (const char byte : piece) {
            word.push_back(gpt2::detail::spell({&byte, 1}));
        }
        for (;;) {
            auto best = ranks_.end();
            for (std::size_t i = 0; i + 1 < word.size(); ++i) {
                const auto pair = ranks_.find({word[i], word[i + 1]});
                if (pair != ranks_.end() && (best == ranks_.end() || pair->second < best->second)) {
                    best = pair;
                }
            }
            if (best == ranks_.end()) {
                break;
            }
            std::vector<std::string> merged;
            for (std::size_t i = 0; i < word.size(); ++i) {
                const bool here =
                    i + 1 < word.size() && word[i] == best->first.first && word[i + 1] == best->first.second;
                merged.push_back(here ? word[i] + word[i + 1] : word[i]);
                i += here ? 1 : 0;
            }
            word = merged;
        }
        std::vector<gpt2::TokenId> out;
        for (const std::string& token : word) {
            out.push_back(ids_.at(token));
        }
        return out;
    }

    std::vector<gpt2::TokenId> encode(std::string_view text) const {
        std::vector<gpt2::TokenId> out;
        for (const std::string& piece : Pattern(text).pieces()) {
            for (const gpt2::TokenId token : merge(piece)) {
                out.push_back(token);
            }
        }
        return out;
    }

private:
    std::map<std::string, gpt2::TokenId> ids_;
    std::map<std::pair<std::string, std::string>, std::size_t> ranks_;
};

} // namespace reference
