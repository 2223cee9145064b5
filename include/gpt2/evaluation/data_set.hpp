// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/io/json.hpp"
#include "gpt2/unicode_tables.hpp"
#include "gpt2/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Data sets of published tasks: files of lines, each an example. docs/evaluation.md defines their fields.

namespace gpt2::evaluation {

/// A context and what may follow it. What is compared is before + choice + after, for every choice.
struct Example {
    std::string where;    ///< `"file": line 7`, for messages
    std::size_t line = 0; ///< counted from 1
    std::string context;
    std::string before; ///< between the context and each choice
    std::vector<std::string> choices;
    std::string after;     ///< each choice
    std::size_t label = 0; ///< the number of the right choice
};

/// One line of a data set.
struct DataLine {
    std::string_view text;  ///< without its end
    std::size_t number = 0; ///< counted from 1
    std::string where;      ///< `"file": line 7`
};

/// The lines of a data set, one after the other; those of white space alone are passed over. One caller at a
/// time.
class DataLines {
public:
    /// Bytes in a line at most. A text of any size may be read, and nothing of it is copied.
    static constexpr std::size_t max_line = std::size_t(1) << 20;

    /// @param text  must outlive this
    /// @param name  of the file, for messages
    DataLines(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {
        constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
        read_ = text_.starts_with(byte_order_mark) ? byte_order_mark.size() : 0;
    }

    /// The next line, or nothing at the end.
    /// @throws FormatError naming the line, if it is longer than max_line or no UTF-8
    [[nodiscard]] std::optional<DataLine> next() {
        while (read_ < text_.size()) {
            DataLine line = take();
            if (line.text.find_first_not_of(" \t\r\v\f") != std::string_view::npos) {
                return line;
            }
        }
        return std::nullopt;
    }

    /// Whether the first line that is not empty begins as a JSON object does.
    [[nodiscard]] bool are_json() const noexcept {
        const std::size_t first = text_.find_first_not_of(" \t\r\v\f\n", read_);
        return first != std::string_view::npos && text_[first] == '{';
    }

    [[nodiscard]] std::size_t bytes_read() const noexcept { return read_; }

private:
    [[nodiscard]] DataLine take() {
        DataLine line{.text = {},
                      .number = ++number_,
                      .where = detail::concat(detail::quoted(name_, 4096), ": line ", number_)};
        const std::string_view rest = text_.substr(read_);
        const std::size_t end = rest.substr(0, max_line + 1).find('\n');
        if (end == std::string_view::npos && rest.size() > max_line) {
            throw FormatError(
                detail::concat(line.where, ": expected at most ", max_line, " bytes, found more"));
        }
        line.text = rest.substr(0, end);
        read_ += std::min(line.text.size() + 1, rest.size());
        if (line.text.ends_with('\r')) {
            line.text.remove_suffix(1);
        }
        if (!is_valid_utf8(line.text)) {
            throw FormatError(detail::concat(line.where, ": expected UTF-8, found ",
                                             detail::quoted(from_first_error(line.text), 16)));
        }
        return line;
    }

    [[nodiscard]] static std::string_view from_first_error(std::string_view text) noexcept {
        while (detail::decode_utf8(text).status == detail::Utf8Status::valid) {
            text.remove_prefix(detail::decode_utf8(text).size);
        }
        return text;
    }

    std::string_view text_;
    std::string name_;
    std::size_t read_ = 0;
    std::size_t number_ = 0;
};

} // namespace gpt2::evaluation

namespace gpt2::detail {

/// The place behind the last character of a text that is, or is not, white space (as the tokenizer takes it:
/// that of Unicode); 0 if there is none.
[[nodiscard]] inline std::size_t end_of_last(std::string_view text, bool space) noexcept {
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Char c = decode_utf8(text.substr(at));
        at += c.size;
        const bool is_space =
            c.status == Utf8Status::valid && unicode_class(c.code_point) == CharacterClass::space;
        end = is_space == space ? at : end;
    }
    return end;
}

/// Without white space at its ends.
[[nodiscard]] inline std::string_view trimmed(std::string_view text) noexcept {
    text = text.substr(0, end_of_last(text, false));
    while (!text.empty()) {
        const Utf8Char c = decode_utf8(text);
        if (c.status != Utf8Status::valid || unicode_class(c.code_point) != CharacterClass::space) {
            break;
        }
        text.remove_prefix(c.size);
    }
    return text;
}

/// Every occurrence replaced, from left to right, as Python's str.replace does.
[[nodiscard]] inline std::string replaced_all(std::string_view text, std::string_view from,
                                              std::string_view to) {
    std::string out;
    for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from)) {
        out.append(text.substr(0, at)).append(to);
        text.remove_prefix(at + from.size());
    }
    return out.append(text);
}

/// Without what stands in square brackets, and these: the regular expression `\[.*?\]`, whose dot is no line
/// end.
[[nodiscard]] inline std::string without_brackets(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t open = std::min(text.find('['), text.size());
        const std::size_t close = text.find_first_of("]\n", open);
        const bool found = close != std::string_view::npos && text[close] == ']';
        const std::size_t end = found ? open : std::min(open + 1, text.size());
        out.append(text.substr(0, end));
        text.remove_prefix(found ? close + 1 : end);
    }
    return out;
}

/// What lm-evaluation-harness makes of the texts of HellaSwag, whose brackets are left from WikiHow.
[[nodiscard]] inline std::string harness_text(std::string_view text) {
    return replaced_all(without_brackets(replaced_all(trimmed(text), " [title]", ". ")), "  ", " ");
}

/// The first letter large and all others small, of those in ASCII.
[[nodiscard]] inline std::string capitalized(std::string text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
        char& c = text[i];
        if (i == 0 && c >= 'a' && c <= 'z') {
            c = static_cast<char>(c - 'a' + 'A');
        } else if (i > 0 && c >= 'A' && c <= 'Z') {
            c = static_cast<char>(c - 'A' + 'a');
        }
    }
    return text;
}

/// The JSON object on a line, and what its fields must be. Every error names the line and the field.
class ExampleFields {
public:
    explicit ExampleFields(const evaluation::DataLine& line)
        : json_(parse_json_at(line.text, line.where)), object_(json_, line.where) {}
    ExampleFields(const ExampleFields&) = delete; // object_ refers to json_
    ExampleFields& operator=(const ExampleFields&) = delete;

    [[nodiscard]] bool has(std::string_view key) const { return object_.find(key) != nullptr; }

    /// Which of two names of a field is there.
    /// @throws FormatError for none or both
    [[nodiscard]] std::string_view one_of(std::string_view key, std::string_view other) const {
        const std::string choice = concat("this field or ", detail::quoted(other));
        if (has(key) == has(other)) {
            object_.fail(key, choice, has(key) ? std::string_view("both") : std::string_view("neither"));
        }
        return has(key) ? key : other;
    }

    [[nodiscard]] std::string text(std::string_view key) const {
        const Json& value = object_.at(key, "a string");
        if (!value.is_string()) {
            object_.fail(key, "a string", value);
        }
        return value.get<std::string>();
    }

    [[nodiscard]] std::string text_if_any(std::string_view key) const {
        return has(key) ? text(key) : std::string();
    }

    /// An array of strings that are not empty.
    [[nodiscard]] std::vector<std::string> texts(std::string_view key, std::size_t least) const {
        const std::string expected =
            concat("an array of ", least == 0 ? "" : concat("at least ", least, " "), "strings");
        const Json& value = object_.at(key, expected);
        if (!value.is_array() || value.size() < least) {
            object_.fail(key, expected, value);
        }
        std::vector<std::string> out;
        for (const Json& element : value) {
            if (!element.is_string() || element.get_ref<const std::string&>().empty()) {
                object_.fail(key, concat("a string that is not empty as element ", out.size()), element);
            }
            out.push_back(element.get<std::string>());
        }
        return out;
    }

    /// The number of a choice: a whole number, or a string of its digits.
    [[nodiscard]] std::size_t label(std::string_view key, std::size_t n_choices) const {
        const std::string expected = concat("a number from 0 to ", n_choices - 1, ", that of a choice");
        const Json& value = object_.at(key, expected);
        const std::optional<std::size_t> number =
            value.is_string() ? of_digits(value.get_ref<const std::string&>()) : JsonObject::to_size(value);
        if (!number || *number >= n_choices) {
            object_.fail(key, expected, value);
        }
        return *number;
    }

    /// The right one of @p choices: the text itself, or its number.
    [[nodiscard]] std::size_t answer(std::string_view key, const std::vector<std::string>& choices) const {
        const Json& value = object_.at(key, "one of the candidates");
        if (!value.is_string()) {
            return label(key, choices.size());
        }
        const auto found = std::ranges::find(choices, value.get_ref<const std::string&>());
        if (found == choices.end()) {
            object_.fail(key, "one of the candidates", value);
        }
        return static_cast<std::size_t>(found - choices.begin());
    }

    [[noreturn]] void fail(std::string_view key, std::string_view expected, std::string_view found) const {
        object_.fail(key, expected, found);
    }

private:
    /// At most 9 of them, as many as any label has.
    [[nodiscard]] static std::optional<std::size_t> of_digits(std::string_view text) noexcept {
        if (text.empty() || text.size() > 9 ||
            text.find_first_not_of("0123456789") != std::string_view::npos) {
            return std::nullopt;
        }
        std::size_t value = 0;
        for (const char c : text) {
            value = 10 * value + static_cast<std::size_t>(c - '0');
        }
        return value;
    }

    Json json_;
    JsonObject object_;
};

/// Cuts off the last word: behind the last space.
/// @param where  what an error begins with
[[nodiscard]] inline evaluation::Example last_word_of(std::string_view text, const evaluation::DataLine& line,
                                                      std::string_view where) {
    text = text.substr(0, end_of_last(text, false));
    const std::size_t space = text.rfind(' ');
    if (space == std::string_view::npos || trimmed(text.substr(0, space)).empty()) {
        throw FormatError(concat(where, ": expected at least two words with a space between them, found ",
                                 detail::quoted(text)));
    }
    return {.where = line.where,
            .line = line.number,
            .context = std::string(text.substr(0, space)),
            .before = " ",
            .choices = {std::string(text.substr(space + 1))},
            .after = {},
            .label = 0};
}

/// A blank in a text: where it begins, and its length; nothing without one.
struct Blank {
    std::size_t begin = 0;
    std::size_t size = 0;
    std::size_t count = 0; ///< how many there are
};

/// `XXXXX`; in a text without it `[MASK]`; in one without either, any number of `_` in a row.
[[nodiscard]] inline Blank find_blank(std::string_view text) noexcept {
    for (const std::string_view mark : {std::string_view("XXXXX"), std::string_view("[MASK]")}) {
        Blank blank{.begin = text.find(mark), .size = mark.size(), .count = 0};
        for (std::size_t at = blank.begin; at != std::string_view::npos;
             at = text.find(mark, at + mark.size())) {
            ++blank.count;
        }
        if (blank.count != 0) {
            return blank;
        }
    }
    Blank blank;
    for (std::size_t at = text.find('_'); at != std::string_view::npos; at = text.find('_', at)) {
        const std::size_t end = std::min(text.find_first_not_of('_', at), text.size());
        blank = blank.count == 0 ? Blank{at, end - at, 1} : Blank{blank.begin, blank.size, blank.count + 1};
        at = end;
    }
    return blank;
}

} // namespace gpt2::detail

namespace gpt2::evaluation {

/// Makes an example of a line.
using ReadExample = Example (*)(const DataLine&);

/// LAMBADA as OpenAI has it, {"text": "..."}: the last word is to be foreseen.
/// @throws FormatError naming line and field, as all of these do
[[nodiscard]] GPT2_COLD inline Example read_last_word(const DataLine& line) {
    return detail::last_word_of(detail::ExampleFields(line).text("text"), line, line.where + ": \"text\"");
}

/// The same of a line that is the text.
[[nodiscard]] GPT2_COLD inline Example read_plain_last_word(const DataLine& line) {
    return detail::last_word_of(line.text, line, line.where);
}

/// Multiple choice. HellaSwag's own fields, "ctx" (or "ctx_a" and "ctx_b"), "endings", "label", as they
/// stand, which is how llm.c takes them; or "context" (or "question"), "choices", "label".
[[nodiscard]] GPT2_COLD inline Example read_choice(const DataLine& line) {
    const detail::ExampleFields fields(line);
    Example example{.where = line.where,
                    .line = line.number,
                    .context = {},
                    .before = " ",
                    .choices = {},
                    .after = {},
                    .label = 0};
    const std::string_view choices = fields.one_of("endings", "choices");
    if (choices == "choices") {
        example.context = fields.text(fields.one_of("context", "question"));
    } else if (fields.has("ctx") || !fields.has("ctx_a")) {
        example.context = fields.text("ctx");
    } else {
        const std::string rest = fields.text_if_any("ctx_b");
        example.context = fields.text("ctx_a") + (rest.empty() ? "" : " ") + rest;
    }
    example.choices = fields.texts(choices, 2);
    example.label = fields.label("label", example.choices.size());
    return example;
}

/// HellaSwag as lm-evaluation-harness takes it: "activity_label: ctx_a Ctx_b", and brackets removed.
[[nodiscard]] GPT2_COLD inline Example read_harness_choice(const DataLine& line) {
    const detail::ExampleFields fields(line);
    Example example{.where = line.where,
                    .line = line.number,
                    .context =
                        detail::harness_text(fields.text("activity_label") + ": " + fields.text("ctx_a") +
                                             " " + detail::capitalized(fields.text("ctx_b"))),
                    .before = " ",
                    .choices = fields.texts("endings", 2),
                    .after = {},
                    .label = 0};
    for (std::string& choice : example.choices) {
        choice = detail::harness_text(choice);
        if (choice.empty()) {
            fields.fail("endings", "a text outside brackets in each", "none");
        }
    }
    example.label = fields.label("label", example.choices.size());
    return example;
}

/// A text with a blank, and candidates for it: "text" (or "question", with "context" or "sentences" before
/// it), "candidates" (or "options"), "answer".
[[nodiscard]] GPT2_COLD inline Example read_cloze(const DataLine& line) {
    const detail::ExampleFields fields(line);
    const std::string_view key = fields.one_of("text", "question");
    const std::string text = fields.text(key);
    const detail::Blank blank = detail::find_blank(text);
    if (blank.count != 1) {
        fields.fail(key, "one blank (XXXXX, [MASK] or _)", std::to_string(blank.count));
    }
    Example example{.where = line.where,
                    .line = line.number,
                    .context = {},
                    .before = {},
                    .choices = fields.texts(fields.one_of("candidates", "options"), 2),
                    .after = text.substr(blank.begin + blank.size),
                    .label = 0};
    example.label = fields.answer("answer", example.choices);
    if (fields.has("sentences") && fields.one_of("sentences", "context") == "sentences") {
        for (const std::string& sentence : fields.texts("sentences", 0)) {
            example.context += sentence + " ";
        }
    } else if (fields.has("context")) {
        example.context = fields.text("context") + " ";
    }
    example.context += text.substr(0, blank.begin);
    // The word that the blank is part of is scored whole, so that its tokens are those it has in the text.
    const std::size_t word = detail::end_of_last(example.context, true);
    example.before = example.context.substr(word);
    example.context.resize(word);
    return example;
}

/// The next examples, as many as go well together, or none at the end.
/// @param most  at most so many
[[nodiscard]] inline std::vector<Example> next_examples(DataLines& lines, ReadExample read,
                                                        std::size_t most = 32) {
    constexpr std::size_t enough = 4096; // bytes of text
    std::vector<Example> examples;
    for (std::size_t bytes = 0; bytes < enough && examples.size() < std::min<std::size_t>(most, 32);) {
        const auto line = lines.next();
        if (!line) {
            break;
        }
        examples.push_back(read(*line));
        bytes += line->text.size();
    }
    return examples;
}

} // namespace gpt2::evaluation
