// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <utility>

#include "gpt2/floating_point.hpp"

/// @file
/// One parallel loop as the threads of a pool see it, and how they wait for the next.

namespace gpt2 {

class ThreadPool;

namespace detail {

/// Two lines of 64 bytes: neighbouring lines are fetched in pairs on x86.
inline constexpr std::size_t line_pair = 128;

/// Tells the processor that this is a waiting loop (frees the core's other thread, saves power).
inline void pause_briefly() noexcept {
#if defined(GPT2_FP_MXCSR)
    _mm_pause();
#elif defined(GPT2_FP_FPCR)
    __asm__ __volatile__("isb" ::: "memory"); // `yield` is a no-op on most arm64 cores
#endif
}

/// Waits for @p ready in a loop, no longer than @p limit; true if it came true.
template <class Ready> [[nodiscard]] bool spin_until(Ready ready, std::chrono::nanoseconds limit) {
    constexpr int looks_per_clock = 64; // reading the clock is slow on some virtual machines
    if (ready()) {
        return true;
    }
    if (limit <= std::chrono::nanoseconds::zero()) {
        return false;
    }
    const auto end = std::chrono::steady_clock::now() + limit;
    do {
        for (int i = 0; i < looks_per_clock; ++i) {
            pause_briefly();
            if (ready()) {
                return true;
            }
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

/// The loops that the current thread is inside of, innermost first. A body that runs on a worker sees the
/// loops around the caller too, so a loop nested at any distance in a pool's own loop is known as such.
struct LoopFrame {
    const ThreadPool* pool;
    const LoopFrame* outer;
};
inline constinit thread_local const LoopFrame* current_loop = nullptr;

/// One loop. Lives on the caller's stack; workers see it only between joining and leaving (see ThreadPool).
struct Loop {
    void (*call)(void* body, std::size_t begin, std::size_t end);
    void* body;
    std::size_t n_items;
    std::size_t grain;
    std::size_t n_chunks;
    LoopFrame frame;
    std::exception_ptr error{};
    std::atomic<bool> failed{false};
    /// Chunks given out; runs past n_chunks by at most one per thread. On a line of its own: all write it.
    alignas(line_pair) std::atomic<std::size_t> next_chunk{0};

    /// Takes chunks until none is left. The first exception stays in `error` and ends the loop for all.
    void run() noexcept {
        const FloatingPointScope floating_point;
        const LoopFrame* const outer = std::exchange(current_loop, &frame);
        // Relaxed: the counter only divides the chunks; what they wrote is published through the gate.
        std::size_t chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
        while (chunk < n_chunks) {
            const std::size_t begin = chunk * grain;
            const std::size_t end = n_items - begin > grain ? begin + grain : n_items;
            try {
                call(body, begin, end);
            } catch (...) {
                if (!failed.exchange(true, std::memory_order_relaxed)) {
                    error = std::current_exception();
                }
                next_chunk.store(n_chunks, std::memory_order_relaxed);
            }
            chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
        }
        current_loop = outer;
    }
};

} // namespace detail
} // namespace gpt2
