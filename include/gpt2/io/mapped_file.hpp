// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/// @file
/// Files seen as memory. Nothing is copied: pages are read when they are first touched, and processes
/// that map the same file share them.

namespace gpt2 {

namespace detail {

/// A path as UTF-8, whatever the system's own encoding of paths is.
[[nodiscard]] GPT2_COLD inline std::string path_text(const std::filesystem::path& path) {
    const std::u8string text = path.u8string();
    return {text.begin(), text.end()};
}

/// A path in quotation marks, for a message.
[[nodiscard]] GPT2_COLD inline std::string quoted_path(const std::filesystem::path& path) {
    return quoted(path_text(path), 4096);
}

/// Whether there is something at @p path that is no directory.
[[nodiscard]] GPT2_COLD inline bool is_file(const std::filesystem::path& path) {
    std::error_code ignored; // what cannot be looked at is reported when it is opened
    const std::filesystem::file_status status = std::filesystem::status(path, ignored);
    return std::filesystem::exists(status) && !std::filesystem::is_directory(status);
}

/// `"file": cannot open: No such file or directory`
[[noreturn]] inline void throw_file_error(const std::filesystem::path& path, std::string_view action,
                                          const std::error_code& reason) {
    throw FileError(concat(quoted_path(path), ": cannot ", action, ": ", reason.message()));
}

} // namespace detail

/// A whole file, mapped read-only. Move-only; the mapping lives as long as the object.
///
/// Any number of threads may read bytes() at once. The file may be deleted, or replaced by renaming
/// another onto it, while it is mapped: the mapping keeps the old contents. Truncating or overwriting it
/// in place is not safe (POSIX systems answer an access behind the new end with SIGBUS; Windows refuses
/// the truncation).
class MappedFile {
public:
    /// Nothing mapped: no path, no bytes.
    MappedFile() noexcept = default;

    /// Maps a regular file (or what a symbolic link to one leads to). A file of no bytes is legal.
    /// @throws FileError naming @p path and the system's reason when there is no such file, no permission,
    ///         or something other than a regular file there (a directory, a pipe, a device).
    [[nodiscard]] static MappedFile open(const std::filesystem::path& path) { return MappedFile(path); }

    MappedFile(MappedFile&& other) noexcept
        : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    MappedFile& operator=(MappedFile&& other) noexcept {
        if (this != &other) {
            unmap();
            path_ = std::move(other.path_);
            data_ = std::exchange(other.data_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile() { unmap(); }

    /// The file's contents. The first byte lies on a page boundary.
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

    /// The contents as text, not checked in any way.
    [[nodiscard]] std::string_view text() const noexcept {
        return {reinterpret_cast<const char*>(data_), size_};
    }

    /// The path as it was given to open().
    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

private:
    explicit MappedFile(const std::filesystem::path& path);
    void unmap() noexcept;

    /// The length of a file as a number of bytes that can be addressed.
    static std::size_t checked_size(const std::filesystem::path& path, std::int64_t length) {
        if (length < 0 || static_cast<std::uint64_t>(length) > std::numeric_limits<std::size_t>::max() / 2) {
            throw FileError(
                detail::concat(detail::quoted_path(path), ": cannot map: expected a file of at most ",
                               std::numeric_limits<std::size_t>::max() / 2, " bytes, found ", length));
        }
        return static_cast<std::size_t>(length);
    }

    std::filesystem::path path_;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

#if defined(_WIN32)

namespace detail {

/// Closes a handle of the system at the end of its scope.
class HandleCloser {
public:
    explicit HandleCloser(HANDLE handle) noexcept : handle_(handle) {}
    HandleCloser(const HandleCloser&) = delete;
    HandleCloser& operator=(const HandleCloser&) = delete;
    ~HandleCloser() { CloseHandle(handle_); }

private:
    HANDLE handle_;
};

[[noreturn]] inline void throw_last_error(const std::filesystem::path& path, std::string_view action) {
    throw_file_error(path, action, {static_cast<int>(GetLastError()), std::system_category()});
}

} // namespace detail

GPT2_COLD inline MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
        throw FileError(
            detail::concat(detail::quoted_path(path), ": expected a regular file, found a directory"));
    }
    const HANDLE file = CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE) {
        detail::throw_last_error(path, "open");
    }
    const detail::HandleCloser close_file(file);
    if (GetFileType(file) != FILE_TYPE_DISK) {
        throw FileError(
            detail::concat(detail::quoted_path(path), ": expected a regular file, found a device or a pipe"));
    }
    LARGE_INTEGER length{};
    if (GetFileSizeEx(file, &length) == 0) {
        detail::throw_last_error(path, "find the size");
    }
    const std::size_t size = checked_size(path, length.QuadPart);
    if (size == 0) {
        return; // the system refuses to map nothing
    }
    const HANDLE mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping == nullptr) {
        detail::throw_last_error(path, "map");
    }
    const detail::HandleCloser close_mapping(mapping); // the view keeps the mapping alive
    const void* view = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, size);
    if (view == nullptr) {
        detail::throw_last_error(path, "map");
    }
    data_ = static_cast<const std::byte*>(view);
    size_ = size;
}

GPT2_COLD inline void MappedFile::unmap() noexcept {
    if (data_ != nullptr) {
        UnmapViewOfFile(data_);
    }
}

#else

namespace detail {

/// Closes a file descriptor at the end of its scope.
class DescriptorCloser {
public:
    explicit DescriptorCloser(int descriptor) noexcept : descriptor_(descriptor) {}
    DescriptorCloser(const DescriptorCloser&) = delete;
    DescriptorCloser& operator=(const DescriptorCloser&) = delete;
    ~DescriptorCloser() { ::close(descriptor_); }

private:
    int descriptor_;
};

[[nodiscard]] GPT2_COLD inline std::string_view file_kind(mode_t mode) noexcept {
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISSOCK(mode) ? "a socket"
                            : "something else";
}

} // namespace detail

GPT2_COLD inline MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
    const auto fail = [&](std::string_view action) {
        detail::throw_file_error(path, action, {errno, std::generic_category()});
    };
    int descriptor = -1;
    do { // O_NONBLOCK: opening a pipe must not wait for somebody to write into it
        descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) {
        fail("open");
    }
    const detail::DescriptorCloser close_descriptor(descriptor); // the mapping stays when it closes
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) {
        fail("find the size");
    }
    if (!S_ISREG(status.st_mode)) {
        throw FileError(detail::concat(detail::quoted_path(path), ": expected a regular file, found ",
                                       detail::file_kind(status.st_mode)));
    }
    const std::size_t size = checked_size(path, static_cast<std::int64_t>(status.st_size));
    if (size == 0) {
        return; // the system refuses to map nothing
    }
    // Nobody writes through the mapping, so private and shared are the same pages; private is what every
    // file system offers.
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
        fail("map");
    }
    data_ = static_cast<const std::byte*>(address);
    size_ = size;
}

GPT2_COLD inline void MappedFile::unmap() noexcept {
    if (data_ != nullptr) {
        ::munmap(const_cast<std::byte*>(data_), size_);
    }
}

#endif

} // namespace gpt2
