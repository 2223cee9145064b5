// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

/// @file
/// What the programs ask of the operating system.

/// Writes to standard output, at once.
/// @throws std::runtime_error if it cannot be written
void print(std::string_view text);

[[nodiscard]] bool standard_input_is_terminal();
[[nodiscard]] bool standard_output_is_terminal();
[[nodiscard]] bool standard_error_is_terminal();

/// The rest of standard input, every byte of it.
/// @throws std::runtime_error if it cannot be read
[[nodiscard]] std::string read_input_bytes();

/// The rest of standard input, or a whole file, without one line end at its end.
/// @throws std::runtime_error naming the file
[[nodiscard]] std::string read_standard_input();
[[nodiscard]] std::string read_file(const std::filesystem::path& path);

/// The directory of this program; empty if the system does not tell.
[[nodiscard]] std::filesystem::path program_directory();

/// Bytes of memory that this process had at most; 0 if the system does not tell.
[[nodiscard]] std::size_t peak_memory();

/// Bytes of memory that this process has now, mapped files included; 0 if the system does not tell.
[[nodiscard]] std::size_t resident_memory();

/// While one lives, the first Ctrl-C (or SIGTERM) is only noted. The second one kills. A signal that the
/// program was started to ignore stays ignored.
class InterruptScope {
public:
    InterruptScope();
    ~InterruptScope();
    InterruptScope(const InterruptScope&) = delete;
    InterruptScope& operator=(const InterruptScope&) = delete;

    /// The number of the signal that came, or 0.
    [[nodiscard]] static int signal() noexcept;

private:
    using Handler = void (*)(int);
    Handler interrupt_;
    Handler terminate_;
};

/// Requests a stop soon after the signal that an InterruptScope around it notes. (A handler of signals may
/// not do that itself.)
class StopOnSignal {
public:
    StopOnSignal();

    [[nodiscard]] std::stop_token token() const noexcept { return source_.get_token(); }

private:
    std::stop_source source_;
    std::jthread watcher_;
};
