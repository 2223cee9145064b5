// SPDX-License-Identifier: MIT
#include "line_history.hpp"

#include <gpt2/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace {

/// A variable of the environment with an absolute path; the specification says to ignore others.
std::filesystem::path path_in(const char* variable) {
    const char* const value = std::getenv(variable);
    const std::filesystem::path path = value == nullptr ? "" : value;
    return path.is_absolute() ? path : std::filesystem::path();
}

std::string joined(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) {
        text += line + '\n';
    }
    return text;
}

} // namespace

std::filesystem::path default_history_file() {
    std::filesystem::path state = path_in("XDG_STATE_HOME");
    if (const std::filesystem::path home = path_in("HOME"); state.empty() && !home.empty()) {
        state = home / ".local" / "state";
    }
    return state.empty() ? state : state / "gpt2" / "history";
}

LineHistory::LineHistory(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code error;
    const auto status =
        path_.empty() ? std::filesystem::file_status() : std::filesystem::status(path_, error);
    if (std::filesystem::is_regular_file(status)) {
        read();
    } else if (std::filesystem::exists(status)) {
        give_up("use", EINVAL);
    }
}

void LineHistory::add(const std::string& line) {
    if (path_.empty() || line.empty() || line == last_) {
        return;
    }
    last_ = line;
    std::error_code error;
    if (std::filesystem::create_directories(path_.parent_path(), error)) {
        std::filesystem::permissions(path_.parent_path(), std::filesystem::perms::owner_all, error);
    }
    if (error) {
        give_up("write", error.value());
        return;
    }
    write(path_, O_APPEND, line + '\n');
}

void LineHistory::read() {
    errno = 0;
    std::ifstream in(path_, std::ios::binary);
    bool is_torn = false;
    for (std::string line; std::getline(in, line);) {
        is_torn = in.eof(); // a run was killed while it wrote
        lines_.push_back(std::move(line));
    }
    if (!in.is_open() || in.bad()) {
        give_up("read", errno);
        return;
    }
    last_ = lines_.empty() ? "" : lines_.back();
    if (!is_torn && lines_.size() <= most) {
        return;
    }
    lines_.erase(lines_.begin(), lines_.end() - static_cast<std::ptrdiff_t>(std::min(lines_.size(), most)));
    std::filesystem::path part = path_;
    part += ".part";
    write(part, O_TRUNC, joined(lines_));
    std::error_code error;
    std::filesystem::rename(part, path_, error);
    if (error && !path_.empty()) {
        give_up("write", error.value());
    }
}

/// @param how  O_APPEND or O_TRUNC
void LineHistory::write(const std::filesystem::path& path, int how, std::string_view text) {
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | how, S_IRUSR | S_IWUSR);
    bool good = file >= 0 && fchmod(file, S_IRUSR | S_IWUSR) == 0;
    while (good && !text.empty()) {
        const ssize_t n = ::write(file, text.data(), text.size());
        good = n > 0 || (n < 0 && errno == EINTR);
        text.remove_prefix(n > 0 ? static_cast<std::size_t>(n) : 0);
    }
    const int error = errno;
    if (file >= 0) {
        close(file);
    }
    if (!good) {
        give_up("write", error);
    }
}

void LineHistory::give_up(const char* what, int error) {
    std::cerr << "cannot " << what << " the history " << gpt2::detail::quoted(path_.string(), 4096) << ": "
              << std::error_code(error, std::generic_category()).message()
              << "; the lines of this run are not kept\n";
    path_.clear();
}
