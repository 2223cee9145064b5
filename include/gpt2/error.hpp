// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

/// @file
/// The exceptions of the library. Every message names the thing (file, tensor, option), what was
/// expected and what was found.

namespace gpt2 {

/// Base of everything this library throws on purpose.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The operating system refused: no such file, no permission, a directory where a file was expected.
class FileError : public Error {
public:
    using Error::Error;
};

/// A file or a buffer does not hold what its format demands.
class FormatError : public Error {
public:
    using Error::Error;
};

/// An option or an argument has no meaning, or contradicts another.
class OptionError : public Error {
public:
    using Error::Error;
};

/// The tokens asked for do not fit into the positions that the model has.
class ContextError : public Error {
public:
    using Error::Error;
};

/// A computation left the finite numbers.
class NumericError : public Error {
public:
    using Error::Error;
};

namespace detail {

/// Joins its arguments as an output stream prints them.
template <class... Parts> [[nodiscard]] std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return std::move(out).str();
}

/// Text from outside in quotation marks, for a message: control characters and bytes that are not
/// ASCII become \xNN, and text beyond @p limit bytes is cut with a note of its full length.
[[nodiscard]] inline std::string quoted(std::string_view text, std::size_t limit = 120) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out = "\"";
    for (const char c : text.substr(0, limit)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte >= 0x7f) {
            out += "\\x";
            out += digits[byte >> 4];
            out += digits[byte & 15];
        } else {
            if (c == '"' || c == '\\') {
                out += '\\';
            }
            out += c;
        }
    }
    out += '"';
    if (text.size() > limit) {
        out += concat("... (", text.size(), " bytes)");
    }
    return out;
}

} // namespace detail
} // namespace gpt2
