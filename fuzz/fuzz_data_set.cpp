// SPDX-License-Identifier: MIT

// The input is a data set; its first byte says of which task.

#include <gpt2/evaluation/data_set.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>

namespace {

namespace evaluation = gpt2::evaluation;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// What is accepted can be scored.
void check(const evaluation::Example& example) {
    require(example.label < example.choices.size());
    for (const std::string& choice : example.choices) {
        require(!choice.empty() && gpt2::is_valid_utf8(choice));
    }
    const bool begins_apart = gpt2::detail::trimmed(example.context).empty() || //
                              gpt2::detail::end_of_last(example.context, true) == example.context.size() ||
                              example.before.starts_with(' ');
    require(begins_apart);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static constexpr evaluation::ReadExample readers[] = {
        evaluation::read_last_word, evaluation::read_plain_last_word, evaluation::read_choice,
        evaluation::read_harness_choice, evaluation::read_cloze};
    if (size == 0) {
        return 0;
    }
    const evaluation::ReadExample read = readers[data[0] % std::size(readers)];
    evaluation::DataLines lines({reinterpret_cast<const char*>(data) + 1, size - 1}, "input");
    try {
        std::size_t before = 0;
        for (auto examples = next_examples(lines, read, 3); !examples.empty();
             examples = next_examples(lines, read, 3)) {
            require(examples.size() <= 3 && lines.bytes_read() > before);
            before = lines.bytes_read();
            for (const evaluation::Example& example : examples) {
                check(example);
            }
        }
        require(lines.bytes_read() + 1 == size);
    } catch (const gpt2::FormatError& error) {
        require(std::string_view(error.what()).starts_with("\"input\": line ")); // it names the line
    }
    return 0;
}
