// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

/// @file
/// Any bytes in formats that are text.

/// One line without tabs: backslash, tab, line feed and carriage return as \\, \t, \n and \r; as \xHH all
/// other control characters, U+2028 and U+2029, and every byte that is not part of a whole UTF-8 character.
/// docs/evaluation.md says how to read it.
[[nodiscard]] std::string escaped(std::string_view bytes);

/// A member of a JSON object: `"token":"..."` for valid UTF-8, else `"bytes":"e282"`, hexadecimal.
[[nodiscard]] std::string json_member(std::string_view bytes);

/// Valid UTF-8 as the text of an HTML element, or of an attribute in double quotes. A browser shows what
/// stands there: carriage returns are kept by reference, and U+0000, which HTML cannot hold, is U+2400.
[[nodiscard]] std::string html(std::string_view text);
