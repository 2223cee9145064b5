// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>

/// @file
/// How conversations on one pool take turns.

namespace gpt2::detail {

/// A recursive mutex that serves in order of arrival. (A std::mutex may be taken again and again by the
/// thread that has just released it, and another conversation on the same pool would stand still.)
class FairMutex {
public:
    void lock() {
        const auto self = std::this_thread::get_id();
        // No order needed: the value equals `self` only if this thread wrote it last.
        if (owner_.load(std::memory_order_relaxed) == self) {
            ++depth_;
            return;
        }
        std::unique_lock lock(mutex_);
        if (locked_) {
            Waiter me;
            *last_ = &me;
            last_ = &me.next;
            me.changed.wait(lock, [&] { return me.served; });
        }
        locked_ = true;
        owner_.store(self, std::memory_order_relaxed);
        depth_ = 1;
    }

    void unlock() {
        if (--depth_ != 0) {
            return;
        }
        const std::lock_guard lock(mutex_);
        owner_.store(std::thread::id(), std::memory_order_relaxed);
        if (Waiter* const next = first_) {
            // Handed over without ever being free. Told under the mutex: the waiter's stack frame, and the
            // condition variable in it, is gone as soon as it has seen `served`.
            first_ = next->next;
            last_ = first_ != nullptr ? last_ : &first_;
            next->served = true;
            next->changed.notify_one();
        } else {
            locked_ = false;
        }
    }

    /// Threads that stand in line.
    [[nodiscard]] std::size_t waiting() {
        const std::lock_guard lock(mutex_);
        std::size_t count = 0;
        for (const Waiter* waiter = first_; waiter != nullptr; waiter = waiter->next) {
            ++count;
        }
        return count;
    }

private:
    struct Waiter {
        std::condition_variable changed;
        Waiter* next = nullptr;
        bool served = false;
    };
    std::mutex mutex_;
    bool locked_ = false;
    Waiter* first_ = nullptr;
    Waiter** last_ = &first_;
    std::atomic<std::thread::id> owner_{};
    std::size_t depth_ = 0; ///< only the owner looks
};

} // namespace gpt2::detail
