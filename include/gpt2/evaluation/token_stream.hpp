// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The tokens of a text of any size, without holding them all.

namespace gpt2::detail {

/// The first place from @p from on where a text may be cut without changing a token: before a single space
/// between two visible ASCII characters. The tokenizer's pattern begins a piece there in any case, and never
/// looks back (pre_tokenizer.hpp). The text's size if there is none.
[[nodiscard]] inline std::size_t token_boundary(std::string_view text, std::size_t from) noexcept {
    const auto visible = [](char c) { return c > ' ' && c < '\x7f'; };
    for (std::size_t i = std::max<std::size_t>(from, 1); i + 1 < text.size(); ++i) {
        if (text[i] == ' ' && visible(text[i - 1]) && visible(text[i + 1])) {
            return i;
        }
    }
    return text.size();
}

} // namespace gpt2::detail

namespace gpt2::evaluation {

/// Encodes a text piece by piece: the tokens are those of Tokenizer::encode for the whole text. Memory is
/// that of the tokens that were looked at and not yet dropped. One caller at a time.
class TokenStream {
public:
    /// @param text   must outlive the stream
    /// @param start  a token before the text, if any
    /// @param limit  tokens after which the stream ends, the start token included
    /// @param piece  bytes of text that are encoded at once, about
    TokenStream(Tokenizer tokenizer, std::string_view text, std::optional<TokenId> start = {},
                std::size_t limit = std::numeric_limits<std::size_t>::max(), std::size_t piece = 1 << 18)
        : tokenizer_(std::move(tokenizer)), text_(text), piece_(piece), left_(limit) {
        if (start && left_ > 0) {
            tokens_.push_back(*start);
            --left_;
        }
    }

    /// The next @p n tokens, fewer at the end. Good until the next non-const call.
    [[nodiscard]] std::span<const TokenId> peek(std::size_t n) {
        while (tokens_.size() - front_ < n && left_ > 0 && read_ < text_.size()) {
            const std::string_view rest = text_.substr(read_);
            const std::size_t size = detail::token_boundary(rest, piece_);
            append(tokenizer_.encode(rest.substr(0, size)));
            read_ += size;
        }
        const auto held = std::span<const TokenId>(tokens_).subspan(front_);
        return held.first(std::min(n, held.size()));
    }

    /// Goes on by @p n tokens, or to the end.
    void drop(std::size_t n) {
        while (n > 0) {
            const std::size_t held = peek(std::min(n, piece_)).size();
            if (held == 0) {
                return;
            }
            front_ += held;
            n -= held;
        }
        if (front_ > tokens_.size() / 2) {
            tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(front_));
            front_ = 0;
        }
    }

private:
    void append(std::span<const TokenId> tokens) {
        const std::size_t n = std::min(tokens.size(), left_);
        tokens_.insert(tokens_.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n));
        left_ -= n;
    }

    Tokenizer tokenizer_;
    std::string_view text_;
    std::size_t piece_;
    std::size_t left_;      ///< tokens that may still come
    std::size_t read_ = 0;  ///< bytes of text
    std::size_t front_ = 0; ///< of tokens_
    std::vector<TokenId> tokens_;
};

} // namespace gpt2::evaluation
