// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "gpt2/affinity.hpp"
#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#endif

/// @file
/// How many processors this process may use: what the machine has, less what the affinity mask and a
/// container's quota take away.

namespace gpt2 {

/// Processors that this process may use. Neither member is ever 0.
struct ProcessorCount {
    std::size_t hardware_threads = 1; ///< logical processors
    std::size_t cores = 1; ///< physical cores; simultaneous multithreading brings dense arithmetic nothing
};

/// The largest number of threads that a pool may have.
inline constexpr std::size_t max_threads = 1024;

namespace detail {

/// A whole file, or nothing if it cannot be read. For the small files of /proc and /sys.
[[nodiscard]] GPT2_COLD inline std::optional<std::string> read_small_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) {
        return std::nullopt;
    }
    std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (in.bad()) {
        return std::nullopt;
    }
    return text;
}

/// @p text without spaces and line ends around it, as a number; nothing if it is anything else.
[[nodiscard]] GPT2_COLD inline std::optional<std::int64_t> parse_integer(std::string_view text) {
    constexpr std::string_view blank = " \t\r\n";
    const auto first = text.find_first_not_of(blank);
    if (first == std::string_view::npos) {
        return std::nullopt;
    }
    text = text.substr(first, text.find_last_not_of(blank) - first + 1);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

/// The number of threads that GPT2_THREADS asks for.
/// @throws OptionError if @p value is not a whole number from 1 to max_threads.
[[nodiscard]] GPT2_COLD inline std::size_t parse_thread_count(std::string_view value) {
    const auto count = parse_integer(value);
    if (!count || *count < 1 || *count > static_cast<std::int64_t>(max_threads)) {
        throw OptionError(concat("environment variable GPT2_THREADS: expected a whole number from 1 to ",
                                 max_threads, ", found ", quoted(value)));
    }
    return static_cast<std::size_t>(*count);
}

/// Processors' worth of time per period, rounded up; nothing if unlimited or not understood.
[[nodiscard]] GPT2_COLD inline std::optional<std::size_t>
quota_in_processors(std::optional<std::int64_t> quota, std::optional<std::int64_t> period) {
    if (!quota || !period || *quota <= 0 || *period <= 0) {
        return std::nullopt;
    }
    return static_cast<std::size_t>((*quota - 1) / *period + 1);
}

/// The content of cgroup v2's `cpu.max`: "<quota or max> <period>", both in microseconds.
/// (Linux Documentation/admin-guide/cgroup-v2.rst)
[[nodiscard]] GPT2_COLD inline std::optional<std::size_t> parse_cpu_max(std::string_view text) {
    const auto space = text.find(' ');
    if (space == std::string_view::npos) {
        return std::nullopt;
    }
    return quota_in_processors(parse_integer(text.substr(0, space)), parse_integer(text.substr(space)));
}

/// A path in /proc/self/mountinfo: blanks and backslashes are written as \ooo (man 5 proc_pid_mountinfo).
[[nodiscard]] GPT2_COLD inline std::string unescape_mount_path(std::string_view text) {
    std::string out;
    const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
            is_octal(text[i + 3])) {
            const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
            out += static_cast<char>(code);
            i += 3;
        } else {
            out += text[i];
        }
    }
    return out;
}

/// Where a control group hierarchy with processor quotas is mounted.
struct CgroupMount {
    bool is_v2 = false;
    std::string root;  ///< the group that appears at `point`, "/" for the whole hierarchy
    std::string point; ///< absolute path
};

/// Whether @p list, separated by commas, has @p item.
[[nodiscard]] GPT2_COLD inline bool list_has(std::string_view list, std::string_view item) {
    while (true) {
        const auto comma = list.find(',');
        if (list.substr(0, comma) == item) {
            return true;
        }
        if (comma == std::string_view::npos) {
            return false;
        }
        list.remove_prefix(comma + 1);
    }
}

/// Picks the hierarchies that can carry a quota (v2, and v1 with the cpu controller) out of the content of
/// /proc/self/mountinfo: "id parent dev root point options [tags...] - type source super-options".
[[nodiscard]] GPT2_COLD inline std::vector<CgroupMount> parse_cgroup_mounts(const std::string& mountinfo) {
    std::vector<CgroupMount> mounts;
    std::istringstream lines(mountinfo);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string skipped, root, point, word, type, source, super_options;
        words >> skipped >> skipped >> skipped >> root >> point;
        while (words >> word && word != "-") {
        }
        words >> type >> source >> super_options;
        const bool is_v2 = type == "cgroup2";
        if (is_v2 || (type == "cgroup" && list_has(super_options, "cpu"))) {
            mounts.push_back({is_v2, unescape_mount_path(root), unescape_mount_path(point)});
        }
    }
    return mounts;
}

/// This process's group in a hierarchy, from the content of /proc/self/cgroup: "id:controllers:path", where
/// version 2 has id 0 and no controllers.
[[nodiscard]] GPT2_COLD inline std::optional<std::string> parse_cgroup_path(const std::string& text,
                                                                            bool is_v2) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const auto first = line.find(':');
        const auto second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (is_v2 ? controllers.empty() && line.substr(0, first) == "0" : list_has(controllers, "cpu")) {
            return line.substr(second + 1);
        }
    }
    return std::nullopt;
}

/// The quota of the control group whose folder is @p folder, in processors; nothing if it has none.
[[nodiscard]] GPT2_COLD inline std::optional<std::size_t> group_quota(const std::string& folder, bool is_v2) {
    if (is_v2) {
        return parse_cpu_max(read_small_file(folder + "/cpu.max").value_or(""));
    }
    return quota_in_processors(parse_integer(read_small_file(folder + "/cpu.cfs_quota_us").value_or("")),
                               parse_integer(read_small_file(folder + "/cpu.cfs_period_us").value_or("")));
}

/// The group @p path as a path below the mount point; "" where only the mounted group itself can be seen:
/// inside a container the mount may begin at the container's group, and the path may lead out of it
/// ("/../other").
[[nodiscard]] GPT2_COLD inline std::string path_below_mount(const CgroupMount& mount,
                                                            const std::string& path) {
    const std::string root = mount.root == "/" ? "" : mount.root;
    const bool below = path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
    return below && path.find("/..") == std::string::npos ? path.substr(root.size()) : "";
}

/// The smallest quota of this process's control group and all groups above it that can be seen, in
/// processors, rounded up; nothing if there is none. @p root is put before every path (tests).
[[nodiscard]] GPT2_COLD inline std::optional<std::size_t> cgroup_quota(const std::string& root) {
    const std::string groups = read_small_file(root + "/proc/self/cgroup").value_or("");
    auto mounts = parse_cgroup_mounts(read_small_file(root + "/proc/self/mountinfo").value_or(""));
    if (mounts.empty()) {
        mounts = {{true, "/", "/sys/fs/cgroup"}, {false, "/", "/sys/fs/cgroup/cpu"}};
    }
    std::optional<std::size_t> smallest;
    for (const CgroupMount& mount : mounts) {
        std::string path = path_below_mount(mount, parse_cgroup_path(groups, mount.is_v2).value_or("/"));
        while (true) {
            while (!path.empty() && path.back() == '/') {
                path.pop_back();
            }
            const auto quota = group_quota(root + mount.point + path, mount.is_v2);
            if (quota && (!smallest || *quota < *smallest)) {
                smallest = quota;
            }
            if (path.empty()) {
                break;
            }
            path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
        }
    }
    return smallest;
}

/// Physical cores among the logical processors @p processors. A processor whose topology is not told counts
/// as a core of its own. @p root is put before every path (tests).
[[nodiscard]] GPT2_COLD inline std::size_t count_cores(const std::string& root,
                                                       const std::vector<std::size_t>& processors) {
    std::set<std::string> cores;
    for (const std::size_t processor : processors) {
        const std::string folder = concat(root, "/sys/devices/system/cpu/cpu", processor, "/topology/");
        // The first name since Linux 5.1, the second deprecated then; both list the core's processors.
        auto siblings = read_small_file(folder + "core_cpus_list");
        if (!siblings || siblings->empty()) {
            siblings = read_small_file(folder + "thread_siblings_list");
        }
        cores.insert(siblings && !siblings->empty() ? *siblings : concat("processor ", processor));
    }
    return cores.size();
}

/// What the three limits allow together: @p affinity lists the logical processors this process may run on.
[[nodiscard]] GPT2_COLD inline ProcessorCount linux_processors(const std::string& root,
                                                               const std::vector<std::size_t>& affinity) {
    ProcessorCount count{affinity.size(), count_cores(root, affinity)};
    if (const auto quota = cgroup_quota(root)) {
        count.hardware_threads = std::min(count.hardware_threads, *quota);
        count.cores = std::min(count.cores, *quota);
    }
    return {std::max<std::size_t>(count.hardware_threads, 1), std::max<std::size_t>(count.cores, 1)};
}

/// Where nothing better is known.
[[nodiscard]] GPT2_COLD inline ProcessorCount portable_processors() {
    const std::size_t count = std::max(1u, std::thread::hardware_concurrency());
    return {count, count};
}

} // namespace detail

/// The processors that this process may use now: the least of affinity mask, control group quota (Linux,
/// versions 1 and 2, rounded up) and what the machine has. macOS: performance cores only. Thread-safe;
/// reads a few files on every call.
[[nodiscard]] GPT2_COLD inline ProcessorCount usable_processors() {
#if defined(__linux__)
    const auto affinity = detail::affinity_mask();
    return affinity.empty() ? detail::portable_processors() : detail::linux_processors("", affinity);
#elif defined(__APPLE__)
    const auto query = [](const char* name) -> std::size_t {
        int value = 0;
        std::size_t size = sizeof value;
        return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value > 0
                   ? static_cast<std::size_t>(value)
                   : 0;
    };
    // perflevel0 is the fastest kind of core; Intel machines have only the general names.
    ProcessorCount count = detail::portable_processors();
    const std::size_t fast = query("hw.perflevel0.physicalcpu");
    const std::size_t all = query("hw.physicalcpu");
    if (fast != 0 || all != 0) {
        count.cores = std::min(count.cores, fast != 0 ? fast : all);
    }
    return count;
#elif defined(_WIN32)
    ProcessorCount count = detail::portable_processors();
    DWORD_PTR process_mask = 0;
    DWORD_PTR system_mask = 0;
    DWORD bytes = 0;
    GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> entries(bytes /
                                                              sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    // A process that spans several processor groups (more than 64 processors) reports a mask of 0.
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process_mask, &system_mask) || process_mask == 0 ||
        entries.empty() || !GetLogicalProcessorInformation(entries.data(), &bytes)) {
        return count;
    }
    std::size_t threads = 0;
    for (DWORD_PTR mask = process_mask; mask != 0; mask &= mask - 1) {
        ++threads;
    }
    const auto cores = std::count_if(entries.begin(), entries.end(), [&](const auto& entry) {
        return entry.Relationship == RelationProcessorCore && (entry.ProcessorMask & process_mask) != 0;
    });
    return {threads, std::max<std::size_t>(static_cast<std::size_t>(cores), 1)};
#else
    return detail::portable_processors();
#endif
}

/// The physical cores that this process may use: usable_processors().cores. Never 0.
[[nodiscard]] GPT2_COLD inline std::size_t usable_cores() {
    return usable_processors().cores;
}

/// The size of a pool for which nobody asked for a size: the environment variable GPT2_THREADS if it is set
/// and not empty, else usable_cores().
/// @throws OptionError if GPT2_THREADS is not a whole number from 1 to 1024.
GPT2_HEAVY [[nodiscard]] GPT2_COLD std::size_t default_thread_count() {
    const char* const wanted = std::getenv("GPT2_THREADS");
    if (wanted != nullptr && *wanted != '\0') {
        return detail::parse_thread_count(wanted);
    }
    return std::min(usable_cores(), max_threads);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::size_t default_thread_count<void>();
#endif

} // namespace gpt2
