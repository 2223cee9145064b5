// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/constraint/recognizer.hpp"
#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

/// @file
/// Which tokens may follow: all of a vocabulary at once, each common beginning looked at once.

namespace gpt2 {

/// The tokens that may follow a text.
class TokenMask {
public:
    /// @param size  V of the tokenizer
    explicit TokenMask(std::size_t size, bool is_complete = false)
        : words_((size + 63) / 64), is_complete_(is_complete) {}

    void allow(TokenId token) noexcept {
        const auto i = static_cast<std::size_t>(token);
        words_[i / 64] |= std::uint64_t{1} << i % 64;
    }

    /// Whether the text may go on with a token of the vocabulary. False for special tokens.
    [[nodiscard]] bool allows(TokenId token) const noexcept {
        const auto i = static_cast<std::size_t>(token);
        return (words_[i / 64] >> i % 64 & 1) != 0;
    }

    /// Whether it may go on at all.
    [[nodiscard]] bool allows_any() const noexcept {
        return std::ranges::any_of(words_, [](std::uint64_t word) { return word != 0; });
    }

    /// Whether it may end.
    [[nodiscard]] bool is_complete() const noexcept { return is_complete_; }

    /// Bit i % 64 of word i / 64 is that of token i.
    [[nodiscard]] const std::vector<std::uint64_t>& words() const noexcept { return words_; }

private:
    std::vector<std::uint64_t> words_;
    bool is_complete_;
};

namespace detail {

/// The bytes of all tokens that are not special, as a tree. Immutable.
class TokenTrie {
public:
    explicit TokenTrie(const Tokenizer& tokenizer) : vocab_size_(tokenizer.size()) {
        std::vector<TokenId> tokens;
        for (std::size_t i = 0; i < vocab_size_; ++i) {
            const auto token = static_cast<TokenId>(i);
            if (!tokenizer.is_special(token) && !tokenizer.token_bytes(token).empty()) {
                tokens.push_back(token);
            }
        }
        std::ranges::sort(tokens, [&](TokenId a, TokenId b) {
            return tokenizer.token_bytes(a) < tokenizer.token_bytes(b);
        });
        std::vector<std::uint32_t> open; // the node of each byte of the token before
        std::string_view before;
        for (const TokenId token : tokens) {
            const std::string_view bytes = tokenizer.token_bytes(token);
            const auto differ = std::ranges::mismatch(bytes, before).in1;
            const auto common = static_cast<std::size_t>(differ - bytes.begin());
            close(open, common);
            for (std::size_t depth = common; depth < bytes.size(); ++depth) {
                open.push_back(static_cast<std::uint32_t>(nodes_.size()));
                nodes_.push_back({0, static_cast<std::uint32_t>(depth), no_token,
                                  static_cast<std::uint8_t>(bytes[depth])});
            }
            nodes_.back().token = token;
            deepest_ = std::max(deepest_, bytes.size());
            before = bytes;
        }
        close(open, 0);
    }

    /// The tokens that may follow a state.
    /// @throws OptionError as Recognizer::next
    [[nodiscard]] TokenMask mask(Recognizer& recognizer, Recognizer::State state) const {
        TokenMask mask(vocab_size_, recognizer.is_complete(state));
        std::vector<Recognizer::State> states(deepest_ + 1); // before each byte of a token
        states[0] = state;
        recognizer.begin_count();
        for (std::size_t i = 0; i < nodes_.size();) {
            const Node& node = nodes_[i];
            const Recognizer::State next = recognizer.next(states[node.depth], node.byte);
            if (next == Recognizer::dead) {
                i = node.end;
                continue;
            }
            states[node.depth + 1] = next;
            if (node.token != no_token) {
                mask.allow(node.token);
            }
            ++i;
        }
        return mask;
    }

    [[nodiscard]] std::size_t vocab_size() const noexcept { return vocab_size_; }

private:
    struct Node {
        std::uint32_t end;   ///< the first node behind all that begin as this one
        std::uint32_t depth; ///< bytes before
        TokenId token;       ///< that ends here
        std::uint8_t byte;
    };

    static constexpr TokenId no_token = -1;

    void close(std::vector<std::uint32_t>& open, std::size_t depth) {
        while (open.size() > depth) {
            nodes_[open.back()].end = static_cast<std::uint32_t>(nodes_.size());
            open.pop_back();
        }
    }

    std::size_t vocab_size_;
    std::size_t deepest_ = 0;
    std::vector<Node> nodes_; ///< each before those that begin as it
};

} // namespace detail
} // namespace gpt2
