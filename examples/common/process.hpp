// SPDX-License-Identifier: MIT
#pragma once

#if defined(__linux__)

#include <gpt2/error.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <vector>

/// @file
/// Other programs, and this one once more.

/// What the system calls the program that runs.
inline constexpr const char* this_program = "/proc/self/exe";

/// A program under way, its standard output read line by line. The destructor waits for its end.
class Process {
public:
    /// @throws gpt2::FileError if it cannot be started
    explicit Process(const std::vector<std::string>& command) {
        std::array<int, 2> ends{};
        if (pipe(ends.data()) != 0) {
            fail("pipe", errno);
        }
        std::vector<char*> arguments;
        for (const std::string& word : command) {
            arguments.push_back(const_cast<char*>(word.c_str()));
        }
        arguments.push_back(nullptr);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
        posix_spawn_file_actions_addclose(&actions, ends[0]);
        posix_spawn_file_actions_addclose(&actions, ends[1]);
        const int error = posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ);
        posix_spawn_file_actions_destroy(&actions);
        close(ends[1]);
        out_ = fdopen(ends[0], "r");
        if (error != 0) {
            pid_ = -1;
            std::fclose(out_);
            fail(command.front(), error);
        }
    }
    ~Process() {
        if (pid_ > 0) {
            wait();
        }
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    /// The next line without its end; empty at the end of all.
    [[nodiscard]] std::string line() {
        std::string text;
        for (int c = std::fgetc(out_); c != EOF && c != '\n'; c = std::fgetc(out_)) {
            text += static_cast<char>(c);
        }
        return text;
    }

    /// @returns its exit status, or 128 and the signal that ended it
    int wait() {
        std::fclose(out_);
        int status = 0;
        while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

private:
    [[noreturn]] static void fail(const std::string& what, int error) {
        throw gpt2::FileError(what +
                              ": cannot start: " + std::error_code(error, std::generic_category()).message());
    }

    pid_t pid_ = -1;
    std::FILE* out_ = nullptr;
};

#endif
