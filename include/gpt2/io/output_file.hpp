// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/io/mapped_file.hpp"

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <span>
#include <system_error>

/// @file
/// Files that appear when they are complete.

namespace gpt2::detail {

/// A file in the making, under its name with ".part" at the end. finish() gives it the name, and whoever
/// opens that finds the old contents or the new; without finish() nothing is left. One writer of a name at a
/// time.
class OutputFile {
public:
    /// @throws FileError naming @p path, as do the others
    explicit OutputFile(const std::filesystem::path& path) : path_(path), part_(path) {
        part_ += ".part";
        errno = 0;
        stream_.open(part_, std::ios::binary | std::ios::trunc);
        check();
    }
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;
    ~OutputFile() {
        if (!finished_) {
            stream_.close();
            std::error_code ignored;
            std::filesystem::remove(part_, ignored);
        }
    }

    void write(std::span<const std::byte> bytes) {
        errno = 0;
        stream_.write(reinterpret_cast<const char*>(bytes.data()),
                      static_cast<std::streamsize>(bytes.size()));
        check();
    }

    /// The next bytes are written over the first.
    void rewind() {
        errno = 0;
        stream_.seekp(0);
        check();
    }

    void finish() {
        errno = 0;
        stream_.close();
        check();
        std::error_code error;
        std::filesystem::rename(part_, path_, error);
        if (error) {
            throw_file_error(path_, "write", error);
        }
        finished_ = true;
    }

private:
    void check() {
        if (!stream_) {
            throw_file_error(path_, "write", {errno != 0 ? errno : EIO, std::generic_category()});
        }
    }

    std::filesystem::path path_;
    std::filesystem::path part_;
    std::ofstream stream_;
    bool finished_ = false;
};

} // namespace gpt2::detail
