// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/cpu.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

namespace fs = std::filesystem;
namespace detail = gpt2::detail;

namespace {

/// An empty folder that stands for "/" and goes away again.
class FakeRoot {
public:
    FakeRoot() {
        static std::atomic<int> number{0};
        // Unlike any other process's: the address of a stack object and of a function, both randomised.
        const auto unique =
            reinterpret_cast<std::uintptr_t>(this) ^ reinterpret_cast<std::uintptr_t>(&number);
        path_ = fs::temp_directory_path() / detail::concat("gpt2-cpu-test-", unique, "-", number++);
        fs::remove_all(path_);
        fs::create_directories(path_);
    }
    ~FakeRoot() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    FakeRoot(const FakeRoot&) = delete;
    FakeRoot& operator=(const FakeRoot&) = delete;

    FakeRoot& with(const std::string& file, const std::string& text) {
        const fs::path path = path_.string() + file;
        fs::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << text;
        return *this;
    }
    [[nodiscard]] std::string path() const { return path_.string(); }
    [[nodiscard]] std::optional<std::size_t> quota() const { return detail::cgroup_quota(path()); }

private:
    fs::path path_;
};

const std::string v2_mount =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// Sets GPT2_THREADS, or takes it away, and puts it back at the end.
class ThreadsVariable {
public:
    explicit ThreadsVariable(const char* value) {
        if (const char* const old = std::getenv(name)) {
            old_ = old;
        }
        set(value);
    }
    ~ThreadsVariable() { set(old_ ? old_->c_str() : nullptr); }
    ThreadsVariable(const ThreadsVariable&) = delete;
    ThreadsVariable& operator=(const ThreadsVariable&) = delete;

private:
    static constexpr const char* name = "GPT2_THREADS";
    static void set(const char* value) {
#if defined(_WIN32)
        _putenv_s(name, value != nullptr ? value : "");
#else
        value != nullptr ? setenv(name, value, 1) : unsetenv(name);
#endif
    }
    std::optional<std::string> old_;
};

} // namespace

TEST_CASE("this machine has at least one processor, and no more cores than logical processors") {
    const gpt2::ProcessorCount count = gpt2::usable_processors();
    CHECK(count.cores >= 1);
    CHECK(count.hardware_threads >= count.cores);
    CHECK(gpt2::usable_cores() == count.cores);
}

TEST_CASE("numbers in small files") {
    CHECK(detail::parse_integer(" 42\n") == 42);
    CHECK(detail::parse_integer("-1\n") == -1);
    for (const char* text : {"", " ", "\n", "max", "4 2", "4x", "0x4", "99999999999999999999", "1.5", "+4"}) {
        CAPTURE(text);
        CHECK_FALSE(detail::parse_integer(text));
    }
}

TEST_CASE("cpu.max of cgroup v2: quota over period, rounded up") {
    CHECK(detail::parse_cpu_max("200000 100000\n") == 2);
    CHECK(detail::parse_cpu_max("200001 100000\n") == 3);
    CHECK(detail::parse_cpu_max("150000 100000\n") == 2);
    CHECK(detail::parse_cpu_max("1000 100000\n") == 1);
    CHECK(detail::parse_cpu_max("9223372036854775807 1\n") == 9223372036854775807u);
    for (const char* text : {"max 100000\n", "", "100000", "100000 0", "0 100000", "-1 100000", "x y"}) {
        CAPTURE(text);
        CHECK_FALSE(detail::parse_cpu_max(text));
    }
}

TEST_CASE("no cgroup files: no quota") {
    CHECK_FALSE(FakeRoot().quota());
}

TEST_CASE("cgroup v2: the smallest quota on the way up counts") {
    FakeRoot root;
    root.with("/proc/self/mountinfo", v2_mount).with("/proc/self/cgroup", "0::/user.slice/app.scope\n");
    CHECK_FALSE(root.quota());
    root.with("/sys/fs/cgroup/user.slice/app.scope/cpu.max", "max 100000\n");
    CHECK_FALSE(root.quota());
    root.with("/sys/fs/cgroup/user.slice/cpu.max", "350000 100000\n");
    CHECK(root.quota() == 4);
    root.with("/sys/fs/cgroup/user.slice/app.scope/cpu.max", "600000 100000\n");
    CHECK(root.quota() == 4);
    root.with("/sys/fs/cgroup/user.slice/app.scope/cpu.max", "200000 100000\n");
    CHECK(root.quota() == 2);
    root.with("/sys/fs/cgroup/cpu.max", "100000 100000\n");
    CHECK(root.quota() == 1);
}

TEST_CASE("cgroup v2 in a container with its own namespace: the path is /") {
    FakeRoot root;
    root.with("/proc/self/mountinfo", v2_mount).with("/proc/self/cgroup", "0::/\n");
    root.with("/sys/fs/cgroup/cpu.max", "250000 100000\n");
    CHECK(root.quota() == 3);
}

TEST_CASE("cgroup path outside the namespace: the mounted group is looked at") {
    FakeRoot root;
    root.with("/proc/self/mountinfo", v2_mount).with("/proc/self/cgroup", "0::/../other/group\n");
    root.with("/sys/fs/cgroup/cpu.max", "300000 100000\n")
        .with("/sys/other/group/cpu.max", "100000 100000\n");
    CHECK(root.quota() == 3);
}

TEST_CASE("cgroup mount that begins at a group: the path is taken below it") {
    FakeRoot root;
    root.with("/proc/self/mountinfo", "31 30 0:27 /docker/abc /mnt/my\\040groups ro - cgroup2 cgroup rw\n25 "
                                      "1 0:1 / / rw - ext4 /dev/vda rw\n");
    root.with("/proc/self/cgroup", "0::/docker/abc/worker\n");
    root.with("/mnt/my groups/worker/cpu.max", "500000 100000\n");
    CHECK(root.quota() == 5);
    root.with("/proc/self/cgroup", "0::/docker/abcdef\n"); // not below, though it begins alike
    root.with("/mnt/my groups/def/cpu.max", "100000 100000\n")
        .with("/mnt/my groups/cpu.max", "700000 100000\n");
    CHECK(root.quota() == 7);
}

TEST_CASE("cgroup v1: cpu controller, alone or mounted with cpuacct") {
    FakeRoot root;
    root.with(
        "/proc/self/mountinfo",
        "33 24 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "34 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n");
    root.with("/proc/self/cgroup", "5:cpuset:/set\n4:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/y\n");
    const std::string base = "/sys/fs/cgroup/cpu,cpuacct";
    root.with("/sys/fs/cgroup/cpuset/set/cpu.cfs_quota_us", "1\n"); // a hierarchy without quotas
    root.with("/sys/fs/cgroup/cpuset/set/cpu.cfs_period_us", "1\n");
    root.with(base + "/a/b/cpu.cfs_quota_us", "-1\n").with(base + "/a/b/cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(root.quota());
    root.with(base + "/a/cpu.cfs_quota_us", "250000\n").with(base + "/a/cpu.cfs_period_us", "100000\n");
    CHECK(root.quota() == 3);
    root.with(base + "/a/b/cpu.cfs_quota_us", "40000\n").with(base + "/a/b/cpu.cfs_period_us", "20000\n");
    CHECK(root.quota() == 2);
}

TEST_CASE("no mountinfo: the usual places") {
    FakeRoot two;
    two.with("/proc/self/cgroup", "0::/g\n").with("/sys/fs/cgroup/g/cpu.max", "200000 100000\n");
    CHECK(two.quota() == 2);
    FakeRoot one;
    one.with("/proc/self/cgroup", "3:cpu:/g\n");
    one.with("/sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "300000\n");
    one.with("/sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
    CHECK(one.quota() == 3);
}

TEST_CASE("garbage in /proc is no quota and no crash") {
    FakeRoot root;
    root.with("/proc/self/mountinfo",
              "-\n- - -\n\n1 2 3\n1 2 3 4 5 6 - cgroup2\n1 2 3 \\9 \\04 6 - cgroup2 x y\n");
    root.with("/proc/self/cgroup", ":\n::\n0:\nx\n\n0::\n0::nonsense\n");
    CHECK_FALSE(root.quota());
}

TEST_CASE("cores among the processors allowed, by the sibling lists") {
    FakeRoot root;
    const auto topology = [&](int cpu, const char* name, const char* list) {
        root.with(detail::concat("/sys/devices/system/cpu/cpu", cpu, "/topology/", name), list);
    };
    for (const int cpu : {0, 4}) {
        topology(cpu, "core_cpus_list", "0,4\n");
        topology(cpu, "thread_siblings_list", "wrong\n"); // the newer name wins
    }
    for (const int cpu : {1, 5}) {
        topology(cpu, "thread_siblings_list", "1,5\n");
    }
    CHECK(detail::count_cores(root.path(), {0, 1, 4, 5}) == 2);
    CHECK(detail::count_cores(root.path(), {0, 4}) == 1);
    CHECK(detail::count_cores(root.path(), {0, 1}) == 2);
    CHECK(detail::count_cores(root.path(), {4}) == 1);
    CHECK(detail::count_cores(root.path(), {0, 1, 4, 5, 7, 8}) == 4); // 7 and 8 do not tell
}

TEST_CASE("the least of affinity, cores and quota") {
    FakeRoot root;
    for (int cpu = 0; cpu < 8; ++cpu) {
        root.with(detail::concat("/sys/devices/system/cpu/cpu", cpu, "/topology/core_cpus_list"),
                  detail::concat(cpu / 2 * 2, "-", cpu / 2 * 2 + 1, "\n"));
    }
    const std::vector<std::size_t> all{0, 1, 2, 3, 4, 5, 6, 7};
    CHECK(detail::linux_processors(root.path(), all).hardware_threads == 8);
    CHECK(detail::linux_processors(root.path(), all).cores == 4);
    CHECK(detail::linux_processors(root.path(), {2, 3, 6}).hardware_threads == 3);
    CHECK(detail::linux_processors(root.path(), {2, 3, 6}).cores == 2);
    CHECK(detail::linux_processors(root.path(), {}).hardware_threads == 1);
    CHECK(detail::linux_processors(root.path(), {}).cores == 1);
    root.with("/proc/self/mountinfo", v2_mount).with("/proc/self/cgroup", "0::/\n");
    root.with("/sys/fs/cgroup/cpu.max", "550000 100000\n");
    CHECK(detail::linux_processors(root.path(), all).hardware_threads == 6);
    CHECK(detail::linux_processors(root.path(), all).cores == 4);
    root.with("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    CHECK(detail::linux_processors(root.path(), all).hardware_threads == 2);
    CHECK(detail::linux_processors(root.path(), all).cores == 2);
}

TEST_CASE("GPT2_THREADS") {
    {
        const ThreadsVariable unset(nullptr);
        CHECK(gpt2::default_thread_count() == std::min(gpt2::usable_cores(), gpt2::max_threads));
    }
    {
        const ThreadsVariable empty("");
        CHECK(gpt2::default_thread_count() == std::min(gpt2::usable_cores(), gpt2::max_threads));
    }
    for (const auto& [text, count] : {std::pair{"1", 1}, {"7", 7}, {"1024", 1024}, {" 3 ", 3}}) {
        const ThreadsVariable variable(text);
        CHECK(gpt2::default_thread_count() == static_cast<std::size_t>(count));
    }
    for (const char* text : {"0", "-1", "1025", "two", "2x", " ", "1e3", "99999999999999999999999"}) {
        const ThreadsVariable variable(text);
        CAPTURE(text);
        try {
            static_cast<void>(gpt2::default_thread_count());
            FAIL("accepted");
        } catch (const gpt2::OptionError& error) {
            const std::string message = error.what();
            CHECK(message.find("GPT2_THREADS") != std::string::npos);
            CHECK(message.find(detail::quoted(text)) != std::string::npos);
        }
    }
}

#if defined(__linux__)
TEST_CASE("the affinity mask limits what this process may use") {
    const auto allowed = detail::affinity_mask();
    REQUIRE_FALSE(allowed.empty());
    cpu_set_t before;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    CHECK(static_cast<int>(allowed.size()) == CPU_COUNT(&before));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(allowed.back(), &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    const gpt2::ProcessorCount count = gpt2::usable_processors();
    const auto mask = detail::affinity_mask();
    REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
    CHECK(mask == std::vector<std::size_t>{allowed.back()});
    CHECK(count.hardware_threads == 1);
    CHECK(count.cores == 1);
}
#endif
