// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// From the bytes of tokens to text that can be shown at once: whole UTF-8 characters, ended by the
/// first stop string, no matter how the bytes were cut into tokens.

namespace gpt2 {

namespace detail {

/// Follows one stop string through a stream: after each byte, how long is the longest beginning of the
/// string that the stream ends with? (Knuth, Morris, Pratt, "Fast pattern matching in strings", 1977.)
class StopMatcher {
public:
    explicit StopMatcher(std::string pattern) : pattern_(std::move(pattern)), border_(pattern_.size()) {
        std::size_t length = 0;
        for (std::size_t i = 1; i < pattern_.size(); ++i) {
            length = advance(length, pattern_[i]);
            border_[i] = length;
        }
    }

    void push(char byte) { matched_ = advance(matched_, byte); }

    /// Only until the string is complete; a stream ends there.
    [[nodiscard]] std::size_t matched() const noexcept { return matched_; }
    [[nodiscard]] bool complete() const noexcept { return matched_ == pattern_.size(); }
    [[nodiscard]] const std::string& pattern() const noexcept { return pattern_; }

private:
    [[nodiscard]] std::size_t advance(std::size_t length, char byte) const {
        while (length > 0 && pattern_[length] != byte) {
            length = border_[length - 1];
        }
        return pattern_[length] == byte ? length + 1 : length;
    }

    std::string pattern_;
    std::vector<std::size_t> border_; ///< of each beginning: its longest end that is also a beginning
    std::size_t matched_ = 0;
};

} // namespace detail

/// Turns bytes into text up to the first stop string. Bytes are held back only while they could still
/// become a stop string or a character. The stop string that is complete first wins; of two that are
/// complete with the same byte, the longer. It is not part of the text, nor is what follows.
/// The text is the same however the bytes are cut into pushes. One caller at a time.
class TextStream {
public:
    TextStream() = default;

    /// @throws OptionError on an empty stop string
    explicit TextStream(const std::vector<std::string>& stop_strings) {
        for (std::size_t i = 0; i < stop_strings.size(); ++i) {
            if (stop_strings[i].empty()) {
                throw OptionError(
                    detail::concat("stop_strings[", i, "] is empty, expected at least one byte"));
            }
            matchers_.emplace_back(stop_strings[i]);
        }
    }

    /// @returns the text, valid UTF-8, that these bytes make certain; after a stop string, nothing
    [[nodiscard]] std::string push(std::string_view bytes) {
        if (stop_) {
            return {};
        }
        for (const char byte : bytes) {
            held_ += byte;
            follow(byte);
            if (stop_) {
                held_.resize(held_.size() - stop_string().size());
                return release_all();
            }
        }
        std::size_t possible = 0;
        for (const detail::StopMatcher& matcher : matchers_) {
            possible = std::max(possible, matcher.matched());
        }
        return release(held_.size() - possible);
    }

    /// The end of the stream.
    /// @returns what was held back; a character that is not complete becomes U+FFFD
    [[nodiscard]] std::string flush() { return stop_ ? std::string() : release_all(); }

    /// True once a stop string was found.
    [[nodiscard]] bool stopped() const noexcept { return stop_.has_value(); }

    /// The stop string that was found; empty before.
    [[nodiscard]] std::string_view stop_string() const noexcept {
        return stop_ ? std::string_view(matchers_[*stop_].pattern()) : std::string_view();
    }

private:
    void follow(char byte) {
        for (std::size_t i = 0; i < matchers_.size(); ++i) {
            matchers_[i].push(byte);
            if (matchers_[i].complete() &&
                (!stop_ || matchers_[i].pattern().size() > matchers_[*stop_].pattern().size())) {
                stop_ = i;
            }
        }
    }

    [[nodiscard]] std::string release(std::size_t n) {
        std::string text = utf8_.push(std::string_view(held_).substr(0, n));
        held_.erase(0, n);
        return text;
    }

    [[nodiscard]] std::string release_all() {
        std::string text = release(held_.size());
        text += utf8_.flush();
        return text;
    }

    std::vector<detail::StopMatcher> matchers_;
    std::string held_; ///< the end of the stream that a stop string may begin with
    std::optional<std::size_t> stop_;
    Utf8Stream utf8_;
};

} // namespace gpt2
