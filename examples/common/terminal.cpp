// SPDX-License-Identifier: MIT
#include "terminal.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <system_error>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

#include <io.h>
#include <psapi.h>
#else
#include <sys/resource.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <cstdint>
#include <mach-o/dyld.h>
#endif
#endif

namespace {

std::atomic<int> noted_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free); // so a handler may write it

extern "C" void note_interrupt(int signal) {
    std::signal(signal, SIG_DFL); // the next one kills
    noted_signal = signal;
}

std::string without_line_end(std::string text) {
    if (text.ends_with('\n')) {
        text.pop_back();
        if (text.ends_with('\r')) {
            text.pop_back();
        }
    }
    return text;
}

} // namespace

void print(std::string_view text) {
    errno = 0;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
        throw std::runtime_error(std::string("cannot write to standard output: ") + std::strerror(errno));
    }
}

bool standard_input_is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stdin)) != 0;
#else
    return isatty(STDIN_FILENO) != 0;
#endif
}

bool standard_output_is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stdout)) != 0;
#else
    return isatty(STDOUT_FILENO) != 0;
#endif
}

bool standard_error_is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stderr)) != 0;
#else
    return isatty(STDERR_FILENO) != 0;
#endif
}

std::string read_input_bytes() {
    std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    if (std::cin.bad()) {
        throw std::runtime_error("cannot read standard input");
    }
    return text;
}

std::string read_standard_input() {
    return without_line_end(read_input_bytes());
}

std::string read_file(const std::filesystem::path& path) {
    const auto fail = [&](const char* reason) -> std::runtime_error {
        return std::runtime_error("cannot read " + path.string() + ": " + reason);
    };
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        throw fail("it is a directory");
    }
    errno = 0;
    std::ifstream in(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (!in.is_open() || in.bad()) {
        throw fail(std::strerror(errno));
    }
    return without_line_end(std::move(text));
}

std::filesystem::path program_directory() {
#if defined(_WIN32)
    wchar_t name[32768];
    const DWORD size = GetModuleFileNameW(nullptr, name, static_cast<DWORD>(std::size(name)));
    return std::filesystem::path(std::wstring(name, size)).parent_path();
#elif defined(__APPLE__)
    char name[4096];
    std::uint32_t size = sizeof name;
    return _NSGetExecutablePath(name, &size) == 0 ? std::filesystem::path(name).parent_path()
                                                  : std::filesystem::path();
#else
    std::error_code error;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
    return error ? std::filesystem::path() : program.parent_path();
#endif
}

std::size_t peak_memory() {
#if defined(_WIN32)
    PROCESS_MEMORY_COUNTERS counters{};
    return K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) != 0
               ? counters.PeakWorkingSetSize
               : 0;
#else
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return 0;
    }
    const auto most = static_cast<std::size_t>(usage.ru_maxrss);
#if defined(__APPLE__)
    return most; // bytes there, KiB on Linux and the BSDs
#else
    return most * 1024;
#endif
#endif
}

std::size_t resident_memory() {
#if defined(_WIN32)
    PROCESS_MEMORY_COUNTERS counters{};
    return K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) != 0
               ? counters.WorkingSetSize
               : 0;
#elif defined(__linux__)
    std::ifstream in("/proc/self/statm");
    std::size_t all = 0;
    std::size_t resident = 0;
    in >> all >> resident;
    return in ? resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) : 0;
#else
    return 0;
#endif
}

InterruptScope::InterruptScope()
    : interrupt_(std::signal(SIGINT, note_interrupt)), terminate_(std::signal(SIGTERM, note_interrupt)) {
    noted_signal = 0;
    if (interrupt_ == SIG_IGN) {
        std::signal(SIGINT, SIG_IGN);
    }
    if (terminate_ == SIG_IGN) {
        std::signal(SIGTERM, SIG_IGN);
    }
}

InterruptScope::~InterruptScope() {
    std::signal(SIGINT, interrupt_);
    std::signal(SIGTERM, terminate_);
}

int InterruptScope::signal() noexcept {
    return noted_signal;
}

StopOnSignal::StopOnSignal()
    : watcher_([source = source_](const std::stop_token& end) mutable {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any never; // but for the end, which wakes it
          while (!end.stop_requested()) {
              if (noted_signal != 0) {
                  source.request_stop();
                  return;
              }
              never.wait_for(lock, end, std::chrono::milliseconds(20), [] { return false; });
          }
      }) {}
