// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/thread_pool.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <csignal>
#include <filesystem>
#include <fstream>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define GPT2_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define GPT2_TEST_SANITIZED 1
#endif
#endif
#ifndef GPT2_TEST_SANITIZED
#define GPT2_TEST_SANITIZED 0
#endif

using gpt2::ThreadPool;

namespace {

/// Runs the loop over plain, unsynchronised counters (so that a sanitizer sees any overlap, and any missing
/// visibility) and tells how many items were not visited exactly once.
std::size_t count_wrong(ThreadPool& pool, std::size_t n, std::size_t grain, std::vector<int>& visits) {
    visits.assign(n, 0);
    pool.parallel_for(n, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            ++visits[i];
        }
    });
    std::size_t wrong = 0;
    for (const int count : visits) {
        wrong += count == 1 ? 0 : 1;
    }
    return wrong;
}

/// A pool of 2 or more in whose loop every thread takes part: each body waits until all have come.
void meet(ThreadPool& pool) {
    std::atomic<std::size_t> here{0};
    pool.parallel_for(pool.size(), 1, [&](std::size_t, std::size_t) {
        here.fetch_add(1);
        while (here.load() < pool.size()) {
            std::this_thread::yield();
        }
    });
    REQUIRE(here.load() == pool.size());
}

} // namespace

TEST_CASE("a loop visits every item exactly once, in ranges of whole grains") {
    std::vector<int> visits;
    for (const std::size_t threads : {1u, 2u, 3u, 5u, 16u}) {
        ThreadPool pool(threads);
        CHECK(pool.size() == threads);
        for (const std::size_t n : {0u, 1u, 2u, 3u, 7u, 16u, 17u, 63u, 64u, 65u, 1000u, 4097u}) {
            for (const std::size_t grain : {0u, 1u, 2u, 3u, 16u, 64u, 1000u, 5000u}) {
                CAPTURE(threads);
                CAPTURE(n);
                CAPTURE(grain);
                REQUIRE(count_wrong(pool, n, grain, visits) == 0);
                std::atomic<bool> aligned{true};
                pool.parallel_for(n, grain, [&](std::size_t begin, std::size_t end) {
                    const std::size_t step = std::max<std::size_t>(grain, 1);
                    const bool whole = end == n || end - begin == step;
                    if (begin % step != 0 || !whole || begin >= end || end > n) {
                        aligned = false;
                    }
                });
                REQUIRE(aligned);
            }
        }
    }
}

TEST_CASE("item numbers near the end of size_t do not overflow") {
    ThreadPool pool(2);
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
    std::atomic<std::size_t> total{0};
    std::atomic<int> calls{0};
    pool.parallel_for(most, most / 2, [&](std::size_t begin, std::size_t end) {
        total += end - begin;
        ++calls;
    });
    CHECK(total == most);
    CHECK(calls == 3);
    total = 0;
    pool.parallel_for(most, most, [&](std::size_t begin, std::size_t end) { total += end - begin; });
    CHECK(total == most);
}

TEST_CASE("more ranges than a thread's share counts one by one") {
    ThreadPool pool(2);
    constexpr std::size_t n = std::size_t{3} << gpt2::detail::Share::taken_bits;
    std::atomic<std::size_t> total{0};
    std::atomic<bool> in_range{true};
    pool.parallel_for(n, 2, [&](std::size_t begin, std::size_t end) {
        total.fetch_add(end - begin, std::memory_order_relaxed);
        if (begin % 2 != 0 || end != begin + 2 || end > n) {
            in_range = false;
        }
    });
    CHECK(total == n);
    CHECK(in_range);
}

TEST_CASE("what a thread leaves of its part, others do") {
    ThreadPool pool(3);
    const auto caller = std::this_thread::get_id();
    for (int round = 0; round < 200; ++round) {
        std::atomic<std::size_t> done{0};
        std::atomic<std::size_t> waiting{0};
        constexpr std::size_t n = 61;
        pool.parallel_for(n, 1, [&](std::size_t, std::size_t) {
            if (std::this_thread::get_id() != caller) { // stays at its first range until no other is left
                ++waiting;
                while (done + waiting < n) {
                    std::this_thread::yield();
                }
            }
            ++done;
            if (std::this_thread::get_id() != caller) {
                --waiting;
            }
        });
        REQUIRE(done == n);
    }
}

TEST_CASE("a share knows which loop it is at") {
    gpt2::detail::Share share;
    CHECK(share.take(1, 2) == 0);
    CHECK(share.take(1, 2) == 1);
    CHECK(share.take(1, 2) == 2); // none left
    CHECK(share.take(1, 2) == 2);
    CHECK(share.take(2, 0) == 0); // an empty one
    CHECK(share.take(2, 1) == 0);
    CHECK(share.take(2, 1) == 1);
    CHECK(share.take(std::uint64_t{1} << 38, 1) == 0);
    CHECK(share.take(std::uint64_t{1} << 38, 1) == 1);
}

TEST_CASE("every thread of the pool takes part, whether it was asleep or not") {
    for (const std::size_t threads : {2u, 3u, 16u}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 20; ++round) {
            meet(pool);
            if (round % 5 == 0) {
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
            }
        }
    }
}

TEST_CASE("many tiny loops on more threads than processors") {
    ThreadPool pool(16);
    std::vector<int> visits;
    for (int round = 0; round < 3000; ++round) {
        REQUIRE(count_wrong(pool, 40, 1, visits) == 0);
    }
}

TEST_CASE("no wake-up is lost: loops after pauses of every length around the spin time") {
    // Every thread must come to each loop, so a worker that sleeps through its call hangs the test.
    for (const std::size_t threads : {2u, 4u}) {
        ThreadPool pool(threads);
        std::mt19937 random(static_cast<unsigned>(threads));
        for (int round = 0; round < 1500; ++round) {
            meet(pool);
            const auto pause = std::chrono::nanoseconds(random() % 160'000);
            if (round % 3 == 0) {
                std::this_thread::sleep_for(pause);
            } else {
                const auto end = std::chrono::steady_clock::now() + pause;
                while (std::chrono::steady_clock::now() < end) {
                }
            }
        }
    }
}

TEST_CASE("the caller sleeps and is woken when another thread's part takes long") {
    ThreadPool pool(2);
    for (int round = 0; round < 100; ++round) {
        const auto caller = std::this_thread::get_id();
        std::atomic<bool> worker_began{false};
        pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
            if (std::this_thread::get_id() == caller) {
                while (!worker_began) {
                    std::this_thread::yield();
                }
            } else {
                worker_began = true;
                std::this_thread::sleep_for(std::chrono::microseconds(round * 5));
            }
        });
        CHECK(worker_began);
    }
}

TEST_CASE("the first exception reaches the caller after all have finished, and the pool lives on") {
    for (const std::size_t threads : {1u, 2u, 3u, 16u}) {
        ThreadPool pool(threads);
        std::vector<int> visits;
        for (int round = 0; round < 200; ++round) {
            std::atomic<int> inside{0};
            std::atomic<std::size_t> begun{0};
            std::string message;
            try {
                pool.parallel_for(100, 1, [&](std::size_t begin, std::size_t) {
                    ++inside;
                    ++begun;
                    const struct Leave {
                        std::atomic<int>& count;
                        ~Leave() { --count; }
                    } leave{inside};
                    // One thread: the only call has begin 0.
                    if (begin == 0 || begin == 5) {
                        throw std::runtime_error("item " + std::to_string(begin));
                    }
                });
            } catch (const std::runtime_error& error) {
                message = error.what();
            }
            CHECK(inside == 0);
            CHECK((message == "item 0" || message == "item 5"));
        }
        REQUIRE(count_wrong(pool, 1000, 7, visits) == 0);
    }
}

TEST_CASE("an exception ends the loop early") {
    ThreadPool pool(2);
    std::atomic<std::size_t> begun{0};
    const auto body = [&](std::size_t, std::size_t) {
        ++begun;
        throw 7;
    };
    CHECK_THROWS_AS(pool.parallel_for(1'000'000, 1, body), int);
    CHECK(begun <= 2);
}

TEST_CASE("exceptions from every thread at once") {
    ThreadPool pool(4);
    for (int round = 0; round < 100; ++round) {
        std::atomic<std::size_t> here{0};
        const auto body = [&](std::size_t begin, std::size_t) {
            here.fetch_add(1);
            while (here.load() < pool.size()) {
                std::this_thread::yield();
            }
            throw static_cast<int>(begin);
        };
        CHECK_THROWS_AS(pool.parallel_for(pool.size(), 1, body), int);
    }
}

TEST_CASE("a loop inside a loop of the same pool runs in place") {
    ThreadPool pool(3);
    std::atomic<int> total{0};
    std::atomic<bool> in_place{true};
    pool.parallel_for(30, 1, [&](std::size_t, std::size_t) {
        const auto here = std::this_thread::get_id();
        pool.parallel_for(10, 1, [&](std::size_t begin, std::size_t end) {
            in_place = in_place && std::this_thread::get_id() == here;
            total += static_cast<int>(end - begin);
        });
    });
    CHECK(total == 300);
    CHECK(in_place);
}

TEST_CASE("loops of two pools nest, and a loop back on the outer pool is known as nested") {
    ThreadPool outer(2);
    ThreadPool inner(2);
    std::atomic<int> total{0};
    for (int round = 0; round < 50; ++round) {
        outer.parallel_for(4, 1, [&](std::size_t, std::size_t) {
            inner.parallel_for(4, 1, [&](std::size_t, std::size_t) {
                // On a worker of `inner`, which never ran a body of `outer` itself.
                outer.parallel_for(4, 1, [&](std::size_t begin, std::size_t end) {
                    total += static_cast<int>(end - begin);
                });
            });
        });
    }
    CHECK(total == 50 * 64);
}

TEST_CASE("the nesting mark goes away with the loop, also by an exception") {
    ThreadPool pool(2);
    CHECK_THROWS(pool.parallel_for(4, 1, [](std::size_t, std::size_t) { throw std::runtime_error("x"); }));
    meet(pool); // would hang if this ran in place
}

TEST_CASE("callers from many threads take turns") {
    ThreadPool pool(3);
    std::vector<std::thread> callers;
    std::array<std::size_t, 6> wrong{};
    int unguarded = 0; // only touched under a turn
    for (std::size_t caller = 0; caller < wrong.size(); ++caller) {
        callers.emplace_back([&, caller] {
            std::vector<int> visits;
            for (int round = 0; round < 100; ++round) {
                if (round % 2 == 0) {
                    const auto turn = pool.take_turn();
                    const auto again = pool.take_turn();
                    ++unguarded;
                    for (int part = 0; part < 3; ++part) {
                        wrong[caller] += count_wrong(pool, 100, 3, visits);
                    }
                } else {
                    wrong[caller] += count_wrong(pool, 100, 3, visits);
                }
            }
        });
    }
    for (std::thread& caller : callers) {
        caller.join();
    }
    CHECK(unguarded == 300);
    CHECK(std::accumulate(wrong.begin(), wrong.end(), std::size_t{0}) == 0);
}

TEST_CASE("turns are given in order of arrival") {
    gpt2::detail::FairMutex turns;
    std::vector<int> order;
    std::vector<std::thread> callers;
    turns.lock();
    turns.lock();
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&, caller] {
            turns.lock();
            order.push_back(caller);
            turns.unlock();
        });
        while (turns.waiting() != static_cast<std::size_t>(caller) + 1) {
            std::this_thread::yield();
        }
    }
    turns.unlock();
    CHECK(order.empty());
    turns.unlock();
    // Arrives last, though this thread ran without a pause since it gave its turn back.
    turns.lock();
    order.push_back(4);
    turns.unlock();
    for (std::thread& caller : callers) {
        caller.join();
    }
    CHECK(order == std::vector<int>{0, 1, 2, 3, 4});
}

TEST_CASE("a turn inside a loop of the same pool is an error, not a deadlock") {
    ThreadPool pool(2);
    const auto body = [&](std::size_t, std::size_t) { const auto turn = pool.take_turn(); };
    CHECK_THROWS_AS(pool.parallel_for(2, 1, body), gpt2::Error);
    ThreadPool other(2);
    std::atomic<int> taken{0};
    pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
        const auto turn = other.take_turn();
        ++taken;
    });
    CHECK(taken == 2);
}

TEST_CASE("pools come and go") {
    std::vector<int> visits;
    for (int round = 0; round < 100; ++round) {
        ThreadPool pool(static_cast<std::size_t>(round % 5 + 1));
        if (round % 3 != 0) {
            REQUIRE(count_wrong(pool, 50, 3, visits) == 0);
        }
        if (round % 10 == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1)); // ended while all sleep
        }
    }
}

TEST_CASE("sizes without a meaning are refused by name") {
    for (const std::size_t size :
         {std::size_t{0}, gpt2::max_threads + 1, std::numeric_limits<std::size_t>::max()}) {
        try {
            ThreadPool pool(size);
            FAIL("accepted");
        } catch (const gpt2::OptionError& error) {
            CHECK(std::string(error.what()).find(std::to_string(size)) != std::string::npos);
        }
    }
}

TEST_CASE("a body that is const, a function, or cannot be copied") {
    ThreadPool pool(2);
    static std::atomic<int> calls;
    calls = 0;
    const auto constant = [](std::size_t, std::size_t) { ++calls; };
    pool.parallel_for(4, 1, constant);
    pool.parallel_for(4, 1, +constant);
    struct Unique {
        std::unique_ptr<int> step = std::make_unique<int>(1);
        void operator()(std::size_t, std::size_t) { calls += *step; }
    };
    pool.parallel_for(4, 1, Unique{});
    Unique named;
    pool.parallel_for(4, 1, named);
    CHECK(calls == 16);
}

TEST_CASE("the process-wide pool is one, and outlives those who drop it") {
    const auto first = ThreadPool::process_wide();
    const auto second = ThreadPool::process_wide();
    CHECK(first == second);
    CHECK(first->size() == gpt2::default_thread_count());
    std::vector<int> visits;
    CHECK(count_wrong(*first, 1000, 10, visits) == 0);
}

namespace {

/// Made before the process-wide pool and so destroyed after the program has given that pool up.
struct UsesPoolAtExit {
    ~UsesPoolAtExit() {
        std::vector<int> visits;
        const auto pool = ThreadPool::process_wide();
        if (count_wrong(*pool, 1000, 10, visits) != 0 || ThreadPool::process_wide() != pool) {
            std::abort();
        }
    }
};
const UsesPoolAtExit uses_pool_at_exit;

} // namespace

#if defined(__linux__)

TEST_CASE("threads have names, and leave the program's signals alone") {
    ThreadPool pool(2);
    const auto caller = std::this_thread::get_id();
    std::array<char, 32> name{};
    sigset_t mask;
    sigemptyset(&mask);
    std::atomic<std::size_t> here{0};
    pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
        if (std::this_thread::get_id() != caller) {
            pthread_getname_np(pthread_self(), name.data(), name.size());
            pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        }
        ++here;
        while (here < 2) {
            std::this_thread::yield();
        }
    });
    CHECK(std::string(name.data()) == "gpt2-1");
    CHECK(sigismember(&mask, SIGINT) == 1);
    CHECK(sigismember(&mask, SIGTERM) == 1);
    CHECK(sigismember(&mask, SIGSEGV) == 0);
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    CHECK(sigismember(&mask, SIGINT) == 0);
}

TEST_CASE("no wake-up is lost by a thread that is just falling asleep") {
    // Made while only one processor is allowed, a pool of two never spins: its thread falls asleep after
    // each loop, and the next begins at any point of that. If it sleeps through a call, it is not counted as
    // asleep any more, nobody wakes it, and the last line hangs.
    cpu_set_t before;
    cpu_set_t one;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    CPU_ZERO(&one);
    CPU_SET(gpt2::detail::affinity_mask().back(), &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    ThreadPool pool(2);
    REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
    std::mt19937 random(1);
    for (int round = 0; round < 60'000; ++round) {
        pool.parallel_for(2, 1, [](std::size_t, std::size_t) {});
        for (auto steps = random() % 400; steps != 0; --steps) {
            gpt2::detail::pause_briefly();
        }
    }
    meet(pool);
}

TEST_CASE("threads run on the processors that were chosen for them") {
    const std::vector<std::size_t> usable = gpt2::detail::affinity_mask();
    if (usable.size() < 2) {
        return;
    }
    const std::array<std::size_t, 2> chosen{usable.back(), usable.front()};
    ThreadPool pool(2, chosen);
    std::vector<std::size_t> of_worker;
    const auto caller = std::this_thread::get_id();
    std::atomic<int> here{0};
    pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
        if (std::this_thread::get_id() != caller) {
            of_worker = gpt2::detail::affinity_mask();
        }
        ++here;
        while (here < 2) {
            std::this_thread::yield();
        }
    });
    CHECK(of_worker == std::vector{usable.front()});
    CHECK(gpt2::detail::affinity_mask() == usable); // the caller is left as it was

    std::vector<std::size_t> bound;
    std::thread([&] {
        gpt2::bind_this_thread(usable.back());
        bound = gpt2::detail::affinity_mask();
    }).join();
    CHECK(bound == std::vector{usable.back()});

    const auto message_of = [](auto&& make) -> std::string {
        try {
            make();
        } catch (const gpt2::OptionError& error) {
            return error.what();
        }
        return "nothing thrown";
    };
    const std::size_t absent = usable.back() + 100'000;
    const std::array<std::size_t, 2> twice{usable.front(), usable.front()};
    const std::array<std::size_t, 2> wrong{usable.front(), absent};
    CHECK(message_of([&] { ThreadPool(3, chosen); }).find("for each of 3 threads, found 2") !=
          std::string::npos);
    CHECK(message_of([&] { ThreadPool(2, twice); }).find("each once") != std::string::npos);
    CHECK(message_of([&] { ThreadPool(2, wrong); }).find("found " + std::to_string(absent)) !=
          std::string::npos);
    CHECK(message_of([&] { gpt2::bind_this_thread(absent); }).find("found " + std::to_string(absent)) !=
          std::string::npos);
}

TEST_CASE("a child of fork can use an idle pool and end") {
    if (GPT2_TEST_SANITIZED) {
        return; // sanitizers do not support threads and fork together
    }
    auto pool = std::make_unique<ThreadPool>(3);
    meet(*pool);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(20); // a hang becomes a failure
        std::vector<int> visits;
        const bool right = count_wrong(*pool, 100, 1, visits) == 0 && count_wrong(*pool, 100, 1, visits) == 0;
        pool.reset();
        _exit(right ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    meet(*pool);
}

TEST_CASE("when the system refuses a thread, the error counts it and those begun are ended") {
    if (GPT2_TEST_SANITIZED) {
        return; // they reserve too much address space to limit it
    }
    const auto count_threads = [] {
        const std::filesystem::directory_iterator tasks("/proc/self/task");
        return std::distance(begin(tasks), end(tasks));
    };
    const auto before = count_threads();
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit{};
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    pthread_attr_t usual;
    pthread_attr_t large;
    REQUIRE(pthread_getattr_default_np(&usual) == 0);
    REQUIRE(pthread_getattr_default_np(&large) == 0);
    constexpr std::size_t stack = std::size_t{1} << 30;
    REQUIRE(pthread_attr_setstacksize(&large, stack) == 0);
    REQUIRE(pthread_setattr_default_np(&large) == 0);
    rlimit tight = limit;
    tight.rlim_cur = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + 3 * stack + stack / 2;
    REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
    std::string message;
    try {
        ThreadPool pool(8);
    } catch (const gpt2::Error& error) {
        message = error.what();
    }
    setrlimit(RLIMIT_AS, &limit);
    pthread_setattr_default_np(&usual);
    CAPTURE(message);
    CHECK(message.find("thread 5 of 8") != std::string::npos); // the caller is the first, three fit
    CHECK(count_threads() == before);
}

#endif
