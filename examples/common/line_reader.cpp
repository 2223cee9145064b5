// SPDX-License-Identifier: MIT
#include "line_reader.hpp"

#include "line_history.hpp"
#include "terminal.hpp"

#include <cerrno>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <utility>

#if defined(GPT2_LIBEDIT)
#include <clocale>
#include <cstdlib>
#include <editline/readline.h>
#endif

LineReader::LineReader(std::string question, std::FILE* where, bool always, [[maybe_unused]] bool keep)
    : question_(std::move(question)), where_(where), terminal_(standard_input_is_terminal()),
      asks_(always || terminal_) {
#if defined(GPT2_LIBEDIT)
    if (terminal_) {
        std::setlocale(LC_CTYPE, ""); // which bytes are one character to edit
        rl_outstream = where_;
        using_history();
        history_ = std::make_unique<LineHistory>(keep ? default_history_file() : std::filesystem::path());
        for (const std::string& line : history_->lines()) {
            add_history(line.c_str());
        }
    }
#endif
}

LineReader::~LineReader() = default;

std::optional<std::string> LineReader::next() {
#if defined(GPT2_LIBEDIT)
    if (terminal_) {
        const std::unique_ptr<char, void (*)(void*)> line(readline(question_.c_str()), std::free);
        if (line == nullptr) {
            write("\n");
            return std::nullopt;
        }
        if (*line != '\0') {
            add_history(line.get());
            history_->add(line.get());
        }
        return line.get();
    }
#endif
    return read_plain();
}

std::optional<std::string> LineReader::read_plain() {
    if (asks_) {
        write(question_);
    }
    std::string line;
    if (!std::getline(std::cin, line)) {
        if (std::cin.bad()) {
            throw std::runtime_error("cannot read standard input");
        }
        if (asks_) {
            write("\n");
        }
        return std::nullopt;
    }
    if (line.ends_with('\r')) {
        line.pop_back();
    }
    return line;
}

void LineReader::write(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), where_) != text.size() || std::fflush(where_) != 0) {
        throw std::runtime_error(std::string("cannot write the prompt for a line: ") + std::strerror(errno));
    }
}
