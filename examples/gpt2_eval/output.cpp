// SPDX-License-Identifier: MIT
#include "output.hpp"

#include "../common/terminal.hpp"

#include <gpt2/error.hpp>

#include <ios>
#include <system_error>

Output::Output(const std::optional<std::filesystem::path>& path) : path_(path) {
    if (path_) {
        part_ = *path_;
        part_ += ".part";
        file_.open(part_, std::ios::binary | std::ios::trunc);
        if (!file_) {
            fail();
        }
    }
}

Output::~Output() {
    if (file_.is_open()) {
        file_.close();
        std::error_code ignored;
        std::filesystem::remove(part_, ignored);
    }
}

void Output::write(std::string_view text) {
    if (!path_) {
        print(text);
        return;
    }
    file_.write(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file_) {
        fail();
    }
}

void Output::finish() {
    if (!path_) {
        return;
    }
    file_.close();
    std::error_code error;
    if (file_) {
        std::filesystem::rename(part_, *path_, error);
    }
    if (!file_ || error) {
        fail();
    }
}

void Output::fail() const {
    throw gpt2::FileError("cannot write " + gpt2::detail::quoted(path_->string(), 4096));
}

void replace_file(const std::filesystem::path& path, std::string_view contents) {
    Output output(path);
    output.write(contents);
    output.finish();
}
