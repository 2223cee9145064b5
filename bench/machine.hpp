// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/kernels/kernels.hpp>
#include <gpt2/tensor.hpp>
#include <gpt2/thread_pool.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/// @file
/// What the machine can do at best, measured: the limits that benchmarks are held against.

namespace gpt2::bench {

/// One level's ways to read memory, and its multiply-adds.
struct Routines {
    using Read = float (*)(const float* p, std::size_t n);
    std::array<Read, 4> read; ///< 1 stream; the same with software prefetch; 2 streams; 4
    float (*multiply_add)(std::size_t steps, float factor, float addend, const float* starts);
};

inline constexpr std::size_t flop_per_step = 12 * 16 * 2; ///< of Routines::multiply_add

/// Floats that every Routines::read takes a multiple of: 4 streams of 64.
inline constexpr std::size_t read_unit = 256;

} // namespace gpt2::bench

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

[[nodiscard]] inline double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Those of the best level that this machine has, whatever level the library was told to use.
[[nodiscard]] inline Routines best_routines() {
#if GPT2_X86
    if (supported_isa() >= Isa::avx512) {
        return avx512::routines();
    }
    if (supported_isa() >= Isa::avx2) {
        return avx2::routines();
    }
#endif
    return portable::routines();
}

/// A total and the time it took.
struct Amount {
    double quantity = 0.0;
    double seconds = 0.0;

    Amount& operator+=(const Amount& other) {
        quantity += other.quantity;
        seconds += other.seconds;
        return *this;
    }
    [[nodiscard]] double rate() const { return quantity / seconds; }
};

/// Runs @p body, which does @p quantity, for about @p seconds, after @p warm_up calls that do not count.
template <class Body> [[nodiscard]] Amount repeat(double seconds, int warm_up, double quantity, Body&& body) {
    for (int i = 0; i < warm_up; ++i) {
        body();
    }
    Amount total;
    const auto begin = Clock::now();
    do {
        body();
        total += {quantity, 0.0};
        total.seconds = seconds_since(begin);
    } while (total.seconds < seconds);
    return total;
}

/// The pages of the memory that is read. Small ones cost address translation, which is a part of what the
/// machine allows only if the weights lie in such pages too.
enum class Pages {
    as_tensors, ///< whatever the library's tensors get
    huge,       ///< asks the system for large ones
};

/// Memory to be read, shared by meters that read its first bytes.
class ReadBuffer {
public:
    explicit ReadBuffer(std::size_t bytes, Pages pages = Pages::as_tensors)
        : memory_({(bytes / sizeof(float) / read_unit + 1) * read_unit}) {
#if defined(__linux__)
        if (pages == Pages::huge) {
            constexpr std::size_t page = std::size_t{2} << 20;
            const auto address = reinterpret_cast<std::size_t>(memory_.data());
            const std::size_t skipped = (page - address % page) % page;
            if (memory_.size() * sizeof(float) > skipped) {
                madvise(reinterpret_cast<std::byte*>(memory_.data()) + skipped,
                        memory_.size() * sizeof(float) - skipped, MADV_HUGEPAGE);
            }
        }
#else
        static_cast<void>(pages);
#endif
        std::fill_n(memory_.data(), memory_.size(), 1.0f); // pages never written are all one page of zeros
    }

    [[nodiscard]] const float* data() const noexcept {
        return memory_.data();
    }
    [[nodiscard]] std::size_t size() const noexcept {
        return memory_.size();
    }

private:
    Tensor<float, 1> memory_;
};

/// How fast the threads of a pool together read the first so many bytes of a buffer, again and again. With
/// fewer bytes than a cache holds it is the cache's speed. Which way of reading is the fastest depends on the
/// machine and on the size, so the constructor tries several, and the best is used from then on.
class BandwidthMeter {
public:
    BandwidthMeter(std::shared_ptr<const ReadBuffer> buffer, std::size_t bytes, ThreadPool& pool)
        : buffer_(std::move(buffer)), pool_(&pool), routines_(best_routines()),
          n_(std::clamp(bytes / sizeof(float) / read_unit, std::size_t{1}, buffer_->size() / read_unit) *
             read_unit) {
        choose_method();
    }

    /// Bytes read and the time it took: whole passes, for about @p seconds, after one that does not count.
    [[nodiscard]] Amount measure(double seconds) const {
        const auto turn = pool_->take_turn();
        return repeat(seconds, 1, static_cast<double>(n_ * sizeof(float)), [this] { pass(method_, n_); });
    }

    /// How it reads, in words.
    [[nodiscard]] std::string method() const {
        constexpr const char* ways[] = {"1 stream", "1 stream, prefetched", "2 streams", "4 streams"};
        return std::string(ways[method_.way]) +
               (method_.chunk == 0
                    ? ", one part a thread"
                    : ", parts of " + std::to_string(method_.chunk * sizeof(float) >> 10) + " KiB");
    }

private:
    struct Method {
        std::size_t way = 0;   ///< of Routines::read
        std::size_t chunk = 0; ///< floats that a thread takes at a time; 0: all at once
    };

    void pass(const Method& method, std::size_t n) const {
        const std::size_t units = n / read_unit;
        const std::size_t grain =
            method.chunk == 0 ? (units + pool_->size() - 1) / pool_->size() : method.chunk / read_unit;
        const auto read = routines_.read[method.way];
        pool_->parallel_for(units, grain, [&](std::size_t begin, std::size_t end) {
            sink().store(read(buffer_->data() + begin * read_unit, (end - begin) * read_unit),
                         std::memory_order_relaxed);
        });
    }

    /// Two rounds over all methods; the least of a method's times counts, as nothing makes it too short.
    /// Beyond all caches the size makes no difference, so no more than 512 MB are tried.
    void choose_method() {
        const std::size_t n = std::min(n_, (std::size_t{512} << 20) / sizeof(float));
        const auto turn = pool_->take_turn();
        double best = 0.0;
        for (int round = 0; round < 2; ++round) {
            for (std::size_t way = 0; way < routines_.read.size(); ++way) {
                for (const std::size_t chunk : {std::size_t{0}, std::size_t{1} << 14, std::size_t{1} << 18}) {
                    if (chunk * pool_->size() > n) {
                        continue; // not a part for each thread
                    }
                    const Method method{way, chunk};
                    const double rate = repeat(0.004, 0, 1.0, [&] { pass(method, n); }).rate();
                    if (rate > best) {
                        best = rate;
                        method_ = method;
                    }
                }
            }
        }
    }

    static std::atomic<float>& sink() {
        static std::atomic<float> value{0.0f};
        return value;
    }

    std::shared_ptr<const ReadBuffer> buffer_;
    ThreadPool* pool_;
    Routines routines_;
    std::size_t n_; ///< floats
    Method method_;
};

/// Floating-point operations that the threads of a pool together do, two for each multiply-add, for about
/// @p seconds.
[[nodiscard]] inline Amount measure_fma(ThreadPool& pool, double seconds) {
    constexpr std::size_t steps = 10'000;
    const std::size_t pieces = pool.size() * 8;
    std::atomic<float> sink{0.0f};
    const auto multiply_add = best_routines().multiply_add;
    std::array<float, 12 * 16> starts{};
    std::iota(starts.begin(), starts.end(), 0.0f);
    const auto turn = pool.take_turn();
    return repeat(seconds, 1, static_cast<double>(pieces * steps * flop_per_step), [&] {
        pool.parallel_for(pieces, 1, [&](std::size_t begin, std::size_t end) {
            sink.store(multiply_add((end - begin) * steps, 0.5f, 0.5f, starts.data()),
                       std::memory_order_relaxed);
        });
    });
}

} // namespace gpt2::bench
