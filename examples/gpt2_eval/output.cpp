// SPDX-License-Identifier: MIT
#include "output.hpp"

#include "../common/terminal.hpp"

#include <cstddef>
#include <span>

Output::Output(const std::optional<std::filesystem::path>& path) {
    if (path) {
        file_.emplace(*path);
    }
}

void Output::write(std::string_view text) {
    if (file_) {
        file_->write(std::as_bytes(std::span(text)));
    } else {
        print(text);
    }
}

void Output::finish() {
    if (file_) {
        file_->finish();
    }
}

void replace_file(const std::filesystem::path& path, std::string_view contents) {
    Output output(path);
    output.write(contents);
    output.finish();
}
