// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/io/mapped_file.hpp>

#include "support/files.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>

#if !defined(_WIN32)
#include <sys/stat.h>
#include <unistd.h>
#endif

using namespace gpt2;
using namespace gpt2::test;

static_assert(!std::is_copy_constructible_v<MappedFile> && !std::is_copy_assignable_v<MappedFile>);
static_assert(std::is_nothrow_move_constructible_v<MappedFile> &&
              std::is_nothrow_move_assignable_v<MappedFile>);

TEST_CASE("a mapped file shows the file's bytes") {
    const TemporaryDirectory directory;
    for (const std::size_t size : {1u, 4095u, 4096u, 4097u, 100'000u}) {
        std::string contents(size, '\0');
        for (std::size_t i = 0; i < size; ++i) {
            contents[i] = static_cast<char>(i * 31 + i / 251);
        }
        write_file(directory / "file", contents);
        const MappedFile file = MappedFile::open(directory / "file");
        CHECK(file.text() == contents);
        CHECK(file.bytes().size() == size);
        CHECK(reinterpret_cast<std::uintptr_t>(file.bytes().data()) % 4096 == 0);
        CHECK(file.path() == directory / "file");
    }
}

TEST_CASE("a file of no bytes is an empty span") {
    const TemporaryDirectory directory;
    write_file(directory / "empty", "");
    const MappedFile file = MappedFile::open(directory / "empty");
    CHECK(file.bytes().empty());
    CHECK(file.text().empty());
    CHECK(MappedFile().bytes().empty());
}

TEST_CASE("moving a mapped file moves the mapping") {
    const TemporaryDirectory directory;
    write_file(directory / "a", "first");
    write_file(directory / "b", "second");
    MappedFile a = MappedFile::open(directory / "a");
    const std::byte* address = a.bytes().data();
    MappedFile moved(std::move(a));
    CHECK(moved.bytes().data() == address);
    CHECK(a.bytes().empty()); // NOLINT: what a moved-from file shows is part of the promise
    moved = MappedFile::open(directory / "b");
    CHECK(moved.text() == "second");
    MappedFile& same = moved;
    moved = std::move(same);
    CHECK(moved.text() == "second");
}

#if !defined(_WIN32)

TEST_CASE("a mapping keeps the old contents when the file is replaced or removed") {
    const TemporaryDirectory directory;
    write_file(directory / "file", "old contents");
    const MappedFile file = MappedFile::open(directory / "file");
    write_file(directory / "new", "new");
    std::filesystem::rename(directory / "new", directory / "file");
    CHECK(file.text() == "old contents");
    std::filesystem::remove(directory / "file");
    CHECK(file.text() == "old contents");
}

TEST_CASE("what is not a regular file is refused with its kind") {
    const TemporaryDirectory directory;
    REQUIRE(::mkfifo((directory / "pipe").c_str(), 0600) == 0);
    check_throws<FileError>([&] { (void)MappedFile::open(directory / "pipe"); },
                            {"/pipe\"", "regular file", "a pipe"});
    check_throws<FileError>([] { (void)MappedFile::open("/dev/null"); },
                            {"\"/dev/null\"", "regular file", "character device"});
}

TEST_CASE("a file without permission is refused with the system's reason") {
    const TemporaryDirectory directory;
    write_file(directory / "secret", "text");
    std::filesystem::permissions(directory / "secret", std::filesystem::perms::none);
    if (::access((directory / "secret").c_str(), R_OK) == 0) {
        MESSAGE("skipped: this user may read every file");
        return;
    }
    check_throws<FileError>([&] { (void)MappedFile::open(directory / "secret"); },
                            {"/secret\"", "Permission denied"});
}

TEST_CASE("symbolic links are followed, and a broken one is named") {
    const TemporaryDirectory directory;
    write_file(directory / "file", "text");
    std::filesystem::create_symlink("file", directory / "link");
    std::filesystem::create_symlink("nowhere", directory / "broken");
    CHECK(MappedFile::open(directory / "link").text() == "text");
    check_throws<FileError>([&] { (void)MappedFile::open(directory / "broken"); },
                            {"/broken\"", "cannot open", "No such file"});
}

#endif

TEST_CASE("a directory and a missing file are refused by name") {
    const TemporaryDirectory directory;
    check_throws<FileError>([&] { (void)MappedFile::open(directory.path()); },
                            {directory.path().filename().string(), "regular file", "a directory"});
    check_throws<FileError>([&] { (void)MappedFile::open(directory / "missing"); },
                            {"/missing\"", "cannot open"});
    check_throws<FileError>([&] { (void)MappedFile::open(""); }, {"\"\"", "cannot open"});
}
