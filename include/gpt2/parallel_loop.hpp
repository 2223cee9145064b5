// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
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

/// How far one thread's share of the loops has got: the number of a loop and the runs of its chunks already
/// taken. A loop with another number has not begun here, so nobody has to reset anything between loops. On
/// lines of its own: as long as nobody steals, only its thread writes it.
struct alignas(line_pair) Share {
    static constexpr int number_bits = 40;
    static constexpr int taken_bits = 64 - number_bits;
    static constexpr std::uint64_t most_taken = (std::uint64_t{1} << taken_bits) - 1;
    std::atomic<std::uint64_t> state{0};

    /// Takes the next of @p n_runs runs of loop @p number; n_runs if none is left.
    [[nodiscard]] std::size_t take(std::uint64_t number, std::size_t n_runs) noexcept {
        // Relaxed: the state only divides the chunks; what they wrote is published through the gate.
        std::uint64_t seen = state.load(std::memory_order_relaxed);
        while (true) {
            const std::uint64_t taken = seen >> taken_bits == number ? seen & most_taken : 0;
            if (taken >= n_runs) {
                return n_runs;
            }
            if (state.compare_exchange_weak(seen, number << taken_bits | (taken + 1),
                                            std::memory_order_relaxed)) {
                return static_cast<std::size_t>(taken);
            }
        }
    }
};

/// One loop. Lives on the caller's stack; workers see it only between joining and leaving (see ThreadPool).
///
/// Each thread of the pool has a share of neighbouring chunks and takes them in order, so that it reads
/// memory as one stream and meets nobody; then it takes what others have left of theirs, who may be late.
struct Loop {
    void (*call)(void* body, std::size_t begin, std::size_t end);
    void* body;
    std::size_t n_items;
    std::size_t grain;
    std::size_t n_chunks;
    LoopFrame frame;
    std::uint64_t number = 0;
    std::exception_ptr error{};
    std::atomic<bool> failed{false};

    /// Takes chunks until none is left, those of share @p own first. The first exception stays in `error`
    /// and ends the loop for all.
    void run(std::span<Share> shares, std::size_t own) noexcept {
        const FloatingPointScope floating_point;
        const LoopFrame* const outer = std::exchange(current_loop, &frame);
        for (std::size_t i = 0; i < shares.size(); ++i) {
            run_share(shares, own + i < shares.size() ? own + i : own + i - shares.size());
        }
        current_loop = outer;
    }

private:
    /// The first chunk of a share.
    [[nodiscard]] std::size_t share_begin(std::size_t n_shares, std::size_t index) const noexcept {
        return n_chunks / n_shares * index + std::min(n_chunks % n_shares, index);
    }

    void run_share(std::span<Share> shares, std::size_t index) noexcept {
        const std::size_t first = share_begin(shares.size(), index);
        const std::size_t last = share_begin(shares.size(), index + 1);
        const auto length = static_cast<std::size_t>((last - first) / Share::most_taken + 1); // 1, usually
        const std::size_t n_runs = (last - first + length - 1) / length;
        std::size_t run = shares[index].take(number, n_runs);
        while (run < n_runs) {
            const std::size_t begin = first + run * length;
            run_chunks(begin, std::min(last, begin + length));
            run = shares[index].take(number, n_runs);
        }
    }

    void run_chunks(std::size_t chunk, std::size_t end) noexcept {
        for (; chunk < end && !failed.load(std::memory_order_relaxed); ++chunk) {
            const std::size_t begin = chunk * grain;
            try {
                call(body, begin, n_items - begin > grain ? begin + grain : n_items);
            } catch (...) {
                if (!failed.exchange(true, std::memory_order_relaxed)) {
                    error = std::current_exception();
                }
            }
        }
    }
};

} // namespace detail
} // namespace gpt2
