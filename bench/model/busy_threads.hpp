// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

/// @file
/// Neighbours that compute.

namespace gpt2::bench {

/// Threads of normal priority, bound to no processor, that compute without a pause while work() is held, and
/// sleep otherwise.
class BusyThreads {
public:
    explicit BusyThreads(std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            threads_.emplace_back([this] { run(); });
        }
    }
    ~BusyThreads() {
        set(stopped);
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }
    BusyThreads(const BusyThreads&) = delete;
    BusyThreads& operator=(const BusyThreads&) = delete;

    class [[nodiscard]] Work {
    public:
        explicit Work(BusyThreads& threads) : threads_(threads) { threads_.set(working); }
        ~Work() { threads_.set(asleep); }
        Work(const Work&) = delete;
        Work& operator=(const Work&) = delete;

    private:
        BusyThreads& threads_;
    };
    Work work() { return Work(*this); }

private:
    enum State { asleep, working, stopped };

    void set(State state) {
        {
            const std::lock_guard lock(mutex_);
            state_ = state;
        }
        wake_.notify_all();
    }

    void run() {
        while (true) {
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [this] { return state_ != asleep; });
            }
            while (state_.load(std::memory_order_relaxed) == working) {
            }
            if (state_ == stopped) {
                return;
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<State> state_{asleep};
    std::vector<std::thread> threads_;
};

} // namespace gpt2::bench
