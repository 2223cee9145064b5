// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/kernels/kernels.hpp>
#include <gpt2/tensor.hpp>
#include <gpt2/thread_pool.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>

/// @file
/// What the machine can do at best, measured: the limits that benchmarks are held against.

#define GPT2_LEVEL portable
#define GPT2_TARGET
#include "machine.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL

#if GPT2_X86
#define GPT2_LEVEL avx2
#define GPT2_TARGET GPT2_TARGET_AVX2
#include "machine.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL

#define GPT2_LEVEL avx512
#define GPT2_TARGET GPT2_TARGET_AVX512
#include "machine.inl"
#undef GPT2_TARGET
#undef GPT2_LEVEL
#endif

namespace gpt2::bench {

using Clock = std::chrono::steady_clock;

inline float read(Isa isa, const float* p, std::size_t n) {
#if GPT2_X86
    if (isa == Isa::avx512) {
        return avx512::read(p, n);
    }
    if (isa == Isa::avx2) {
        return avx2::read(p, n);
    }
#endif
    static_cast<void>(isa);
    return portable::read(p, n);
}

inline float multiply_add(Isa isa, std::size_t steps, float factor, float addend) {
#if GPT2_X86
    if (isa == Isa::avx512) {
        return avx512::multiply_add(steps, factor, addend);
    }
    if (isa == Isa::avx2) {
        return avx2::multiply_add(steps, factor, addend);
    }
#endif
    static_cast<void>(isa);
    return portable::multiply_add(steps, factor, addend);
}

/// Seconds of the fastest of several calls of @p body: at least five, and about half a second of them.
template <class Body> [[nodiscard]] double fastest(Body&& body) {
    double best = 1e30;
    double total = 0.0;
    for (int pass = 0; pass < 5 || (total < 0.5 && pass < 10000); ++pass) {
        const auto begin = Clock::now();
        body();
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        best = std::min(best, seconds);
        total += seconds;
    }
    return best;
}

/// Bytes per second at which the threads of @p pool together read @p bytes bytes again and again, best of
/// several passes. With fewer bytes than a cache holds it is the cache's.
[[nodiscard]] inline double read_bandwidth(std::size_t bytes, ThreadPool& pool, Isa isa = supported_isa()) {
    constexpr std::size_t step = 128;
    const std::size_t n = std::max<std::size_t>(1, bytes / sizeof(float) / step) * step;
    Tensor<float, 1> memory({n});
    std::fill_n(memory.data(), n, 1.0f); // pages never written would all be one page of zeros
    std::atomic<float> sink{0.0f};
    const auto turn = pool.take_turn();
    const std::size_t grain = std::max<std::size_t>(1, n / step / (pool.size() * 16));
    const double seconds = fastest([&] {
        pool.parallel_for(n / step, grain, [&](std::size_t begin, std::size_t end) {
            sink.store(read(isa, memory.data() + begin * step, (end - begin) * step),
                       std::memory_order_relaxed);
        });
    });
    return static_cast<double>(n * sizeof(float)) / seconds;
}

/// Floating-point operations per second of the threads of @p pool together, two for each multiply-add, best
/// of several passes.
[[nodiscard]] inline double fma_peak(ThreadPool& pool, Isa isa = supported_isa()) {
    constexpr std::size_t steps = 100'000;
    constexpr std::size_t flop_per_step = 8 * 16 * 2;
    const std::size_t pieces = pool.size() * 8;
    std::atomic<float> sink{0.0f};
    const auto turn = pool.take_turn();
    const double seconds = fastest([&] {
        pool.parallel_for(pieces, 1, [&](std::size_t begin, std::size_t end) {
            sink.store(multiply_add(isa, (end - begin) * steps, 0.5f, 0.5f), std::memory_order_relaxed);
        });
    });
    return static_cast<double>(pieces * steps * flop_per_step) / seconds;
}

} // namespace gpt2::bench
