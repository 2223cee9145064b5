// SPDX-License-Identifier: MIT
#include "job_output.hpp"

#include "../common/terminal.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/json.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

using gpt2::detail::concat;

JobOutput::JobOutput(std::string path) : path_(std::move(path)) {}

std::size_t JobOutput::resume(std::span<const std::string> digests) {
    std::error_code ignored;
    if (is_standard_output() || !std::filesystem::is_regular_file(path_, ignored)) {
        open(std::ios::app);
        return 0;
    }
    std::ifstream in(path_, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (!in.is_open() || in.bad()) {
        throw gpt2::FileError("cannot read " + gpt2::detail::quoted(path_, 4096));
    }
    std::size_t done = 0;
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
        check_line(std::string_view(text).substr(begin, end - begin), done++, digests);
    }
    if (begin < text.size()) {
        std::error_code error;
        std::filesystem::resize_file(path_, begin, error);
        if (error) {
            gpt2::detail::throw_file_error(path_, "write", error);
        }
    }
    open(std::ios::app);
    return done;
}

void JobOutput::overwrite() {
    open(std::ios::trunc);
}

void JobOutput::open(std::ios::openmode mode) {
    if (!is_standard_output()) {
        errno = 0;
        file_.open(path_, std::ios::binary | mode);
        if (!file_) {
            gpt2::detail::throw_file_error(path_, "write", {errno, std::generic_category()});
        }
    }
}

void JobOutput::write(std::string_view line) {
    if (is_standard_output()) {
        print(line);
        return;
    }
    errno = 0;
    file_.write(line.data(), static_cast<std::streamsize>(line.size()));
    if (!file_.flush()) {
        gpt2::detail::throw_file_error(path_, "write", {errno != 0 ? errno : EIO, std::generic_category()});
    }
}

void JobOutput::check_line(std::string_view line, std::size_t index, std::span<const std::string> digests) {
    const std::string where = concat(gpt2::detail::quoted(path_, 4096), ": line ", index + 1);
    const gpt2::detail::Json json = gpt2::detail::parse_json_at(line, where);
    const gpt2::detail::JsonObject object(json, where);
    constexpr std::string_view advice = " (--overwrite begins anew)";
    if (index >= digests.size()) {
        throw gpt2::FormatError(
            concat(where, ": expected the results of ", digests.size(), " jobs, found more", advice));
    }
    const auto fail = [&](std::string_view key, std::string_view expected) {
        object.fail(key, concat(expected, advice), object.at(key, concat(expected, advice)));
    };
    if (gpt2::detail::JsonObject::to_size(object.at("index", concat(index, advice))) != index) {
        fail("index", concat(index));
    }
    if (object.at("digest", concat("that of the job", advice)) != digests[index]) {
        fail("digest", concat(digests[index], " of the same line, options and model"));
    }
    failed_before_ += object.find("error") == nullptr ? 0 : 1;
}
