// SPDX-License-Identifier: MIT
#pragma once

#include "../machine.hpp"
#include "table.hpp"

#include <gpt2/cpu.hpp>
#include <gpt2/kernels/isa.hpp>
#include <gpt2/thread_pool.hpp>
#include <gpt2/version.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/utsname.h>
#endif

/// @file
/// On what the measurements were made.

namespace gpt2::bench {

/// What is known of a machine; empty or 0 for what is not.
struct Machine {
    std::string cpu, caches, kernel, compiler, isa, huge_pages, date;
    std::size_t cores = 0;            ///< that this process may use
    std::size_t hardware_threads = 0; ///< likewise
    std::size_t threads = 0;          ///< of the pool
    double memory = 0.0;              ///< bytes
    double load_average = 0.0;        ///< over a minute, before the measurements
    double bandwidth = 0.0;           ///< bytes/s from beyond the caches
    double fma = 0.0;                 ///< FLOP/s
};

namespace detail {

/// What follows "@p key :" in a file of lines of that form.
inline std::string value_of(const char* path, const std::string& key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const std::size_t colon = line.find(':');
        if (colon != std::string::npos && line.starts_with(key)) {
            const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
            return begin == std::string::npos ? std::string() : line.substr(begin);
        }
    }
    return {};
}

inline std::string first_line(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

/// "L1d 32K, L2 1024K, L3 32768K (shared by processors 0-1)", as processor 0 has them.
inline std::string caches() {
    std::string list;
    for (int i = 0; i < 8; ++i) {
        const auto folder =
            std::filesystem::path("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i));
        const std::string type = first_line(folder / "type");
        if (type.empty() || type == "Instruction") {
            continue;
        }
        const std::string shared = first_line(folder / "shared_cpu_list");
        list += (list.empty() ? "L" : ", L") + first_line(folder / "level") + (type == "Data" ? "d " : " ") +
                first_line(folder / "size");
        if (shared.find_first_of(",-") != std::string::npos) {
            list += " (shared by processors " + shared + ")";
        }
    }
    return list;
}

inline std::string kernel_name() {
#if defined(__unix__) || defined(__APPLE__)
    utsname name{};
    if (uname(&name) == 0) {
        return std::string(name.sysname) + " " + name.release + " " + name.machine;
    }
#endif
    return {};
}

inline std::string compiler_name() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return {};
#endif
}

/// The one in brackets, of words as in "always [madvise] never".
inline std::string chosen_word(const std::string& words) {
    const std::size_t begin = words.find('[');
    const std::size_t end = words.find(']');
    return end == std::string::npos || begin > end ? std::string() : words.substr(begin + 1, end - begin - 1);
}

/// ISO 8601, UTC.
inline std::string now() {
    const std::time_t time = std::time(nullptr);
    char text[32] = {};
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&time));
    return text;
}

} // namespace detail

[[nodiscard]] inline Machine describe_machine(ThreadPool& pool, Pages pages) {
    Machine machine;
    machine.cpu = detail::value_of("/proc/cpuinfo", "model name");
    machine.caches = detail::caches();
    machine.kernel = detail::kernel_name();
    machine.compiler = detail::compiler_name();
    machine.isa = std::string(to_string(choose_isa()));
    machine.huge_pages =
        detail::chosen_word(detail::first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
    machine.date = detail::now();
    machine.cores = usable_processors().cores;
    machine.hardware_threads = usable_processors().hardware_threads;
    machine.threads = pool.size();
    machine.memory = std::strtod(detail::value_of("/proc/meminfo", "MemTotal").c_str(), nullptr) * 1024.0;
#if defined(__unix__) || defined(__APPLE__)
    double load[1] = {};
    machine.load_average = getloadavg(load, 1) == 1 ? load[0] : 0.0;
#endif
    constexpr std::size_t bytes = std::size_t{256} << 20;
    const BandwidthMeter meter(std::make_shared<ReadBuffer>(bytes, pages), bytes, pool);
    machine.bandwidth = meter.measure(0.3).rate();
    machine.fma = measure_fma(pool, 0.2).rate();
    return machine;
}

[[nodiscard]] inline std::string to_text(const Machine& machine) {
    std::ostringstream out;
    out << machine.cpu << ", " << machine.cores << " cores, " << machine.hardware_threads
        << " hardware threads; " << machine.caches << "; " << detail::number(machine.memory * 1e-9)
        << " GB of memory, transparent huge pages: " << machine.huge_pages << "\n"
        << machine.kernel << "; " << machine.compiler << ", gpt2 " << version_string << " with "
        << machine.isa << " kernels on " << machine.threads << " threads\n"
        << "at the start: load average " << detail::number(machine.load_average) << ", reading "
        << detail::number(machine.bandwidth * 1e-9) << " GB/s from memory, multiply-adds "
        << detail::number(machine.fma * 1e-9) << " GFLOP/s (float32)\n";
    return out.str();
}

[[nodiscard]] inline nlohmann::ordered_json to_json(const Machine& machine) {
    return {{"date", machine.date},
            {"cpu", machine.cpu},
            {"cores", machine.cores},
            {"hardware_threads", machine.hardware_threads},
            {"caches", machine.caches},
            {"memory", machine.memory},
            {"huge_pages", machine.huge_pages},
            {"kernel", machine.kernel},
            {"compiler", machine.compiler},
            {"library", version_string},
            {"isa", machine.isa},
            {"threads", machine.threads},
            {"load_average", machine.load_average},
            {"bandwidth", machine.bandwidth},
            {"fma", machine.fma}};
}

} // namespace gpt2::bench
