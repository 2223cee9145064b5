// SPDX-License-Identifier: MIT
/// What it costs to begin and end a parallel loop.
#include <gpt2/thread_pool.hpp>

#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace {

/// Threads that compute all the time and belong to somebody else.
class Neighbours {
public:
    explicit Neighbours(std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
            threads_.emplace_back([this] {
                while (!stop_.load(std::memory_order_relaxed)) {
                }
            });
        }
    }
    ~Neighbours() {
        stop_ = true;
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }
    Neighbours(const Neighbours&) = delete;
    Neighbours& operator=(const Neighbours&) = delete;

private:
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

/// One range per thread, nothing in it: what a loop adds to a caller who needs no help.
void empty_loop(benchmark::State& state) {
    gpt2::ThreadPool pool(static_cast<std::size_t>(state.range(0)));
    const Neighbours neighbours(state.range(1));
    for (auto _ : state) {
        pool.parallel_for(pool.size(), 1, [](std::size_t, std::size_t) {});
    }
}

/// The same with the turn held, as a forward pass has it.
void empty_loop_in_turn(benchmark::State& state) {
    gpt2::ThreadPool pool(static_cast<std::size_t>(state.range(0)));
    const auto turn = pool.take_turn();
    for (auto _ : state) {
        pool.parallel_for(pool.size(), 1, [](std::size_t, std::size_t) {});
    }
}

/// A loop that ends only when every thread has come: out to all and back.
void all_come(benchmark::State& state) {
    gpt2::ThreadPool pool(static_cast<std::size_t>(state.range(0)));
    const Neighbours neighbours(state.range(1));
    const auto turn = pool.take_turn();
    for (auto _ : state) {
        std::atomic<std::size_t> here{0};
        pool.parallel_for(pool.size(), 1, [&](std::size_t, std::size_t) {
            here.fetch_add(1, std::memory_order_relaxed);
            while (here.load(std::memory_order_relaxed) < pool.size()) {
                gpt2::detail::pause_briefly();
            }
        });
    }
}

/// The same after a pause long enough for all threads to have gone to sleep.
void all_come_from_sleep(benchmark::State& state) {
    using Clock = std::chrono::steady_clock;
    gpt2::ThreadPool pool(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        std::atomic<std::size_t> here{0};
        const auto begin = Clock::now();
        pool.parallel_for(pool.size(), 1, [&](std::size_t, std::size_t) {
            here.fetch_add(1, std::memory_order_relaxed);
            while (here.load(std::memory_order_relaxed) < pool.size()) {
                gpt2::detail::pause_briefly();
            }
        });
        state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
    }
}

/// 100 microseconds of arithmetic in ranges of 5, the size of a matrix product while decoding. Ideal:
/// 100 microseconds over the processors this process gets.
void arithmetic(benchmark::State& state) {
    gpt2::ThreadPool pool(static_cast<std::size_t>(state.range(0)));
    const Neighbours neighbours(state.range(1));
    const auto work = [](std::size_t steps) {
        std::uint64_t x = steps;
        for (std::size_t i = 0; i < steps; ++i) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            benchmark::DoNotOptimize(x);
        }
    };
    const auto before = std::chrono::steady_clock::now();
    work(10'000'000);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - before;
    const auto steps = static_cast<std::size_t>(5e-6 / (taken.count() / 1e7));
    const auto turn = pool.take_turn();
    for (auto _ : state) {
        pool.parallel_for(20, 1, [&](std::size_t begin, std::size_t end) { work((end - begin) * steps); });
    }
}

BENCHMARK(empty_loop)
    ->ArgNames({"threads", "neighbours"})
    ->Args({1, 0})
    ->Args({2, 0})
    ->Args({2, 1})
    ->UseRealTime();
BENCHMARK(empty_loop_in_turn)->ArgName("threads")->Arg(2)->UseRealTime();
BENCHMARK(all_come)
    ->ArgNames({"threads", "neighbours"})
    ->Args({2, 0})
    ->Args({2, 1})
    ->Args({4, 0})
    ->UseRealTime();
BENCHMARK(all_come_from_sleep)->ArgName("threads")->Arg(2)->Arg(4)->UseManualTime()->Iterations(500);
BENCHMARK(arithmetic)
    ->ArgNames({"threads", "neighbours"})
    ->Args({1, 0})
    ->Args({2, 0})
    ->Args({2, 1})
    ->UseRealTime();

} // namespace

BENCHMARK_MAIN();
