// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <gpt2/floating_point.hpp>
#include <gpt2/thread_pool.hpp>

#include <atomic>
#include <cfenv>
#include <cfloat>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

/// What arithmetic does in the current state. The operands are volatile, so it happens at run time.
struct Behaviour {
    bool rounds_to_nearest;
    bool makes_subnormals;
    bool reads_subnormals;
    friend bool operator==(const Behaviour&, const Behaviour&) = default;
};
constexpr Behaviour normal{true, true, true};

Behaviour observe() {
    volatile float one = 1.0f;
    volatile float little = FLT_EPSILON / 4;
    volatile float smallest_normal = FLT_MIN;
    volatile float half = 0.5f;
    volatile float subnormal = FLT_MIN / 4;
    volatile float large = 16.0f;
    volatile float minus_one = -1.0f;
    volatile const float up = one + little;
    volatile const float down = minus_one - little;
    volatile const float made = smallest_normal * half;
    volatile const float read = subnormal * large;
    return {up == 1.0f && down == -1.0f, made != 0.0f, read != 0.0f};
}

/// Brings the thread into a state that other libraries are known to leave: flush-to-zero,
/// denormals-are-zero, rounding upwards. Returns what arithmetic does then.
class Spoiled {
public:
    Spoiled() {
        std::fegetenv(&saved_);
        std::fesetround(FE_UPWARD);
#if defined(GPT2_FP_MXCSR)
        _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(GPT2_FP_FPCR)
        std::uint64_t value;
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(value));
        __asm__ __volatile__("msr fpcr, %0" : : "r"(value | (1u << 24)));
#endif
    }
    ~Spoiled() {
        std::fesetenv(&saved_);
    }
    Spoiled(const Spoiled&) = delete;
    Spoiled& operator=(const Spoiled&) = delete;

private:
    std::fenv_t saved_;
};

} // namespace

TEST_CASE("the scope brings the normal state and gives the old one back") {
    CHECK(observe() == normal);
    {
        const Spoiled spoiled;
        const Behaviour bad = observe();
        CHECK_FALSE(bad.rounds_to_nearest);
#if defined(GPT2_FP_MXCSR) || defined(GPT2_FP_FPCR)
        CHECK_FALSE(bad.makes_subnormals);
        CHECK_FALSE(bad.reads_subnormals);
#endif
        {
            const gpt2::FloatingPointScope scope;
            CHECK(observe() == normal);
            {
                const gpt2::FloatingPointScope again;
                CHECK(observe() == normal);
            }
            CHECK(observe() == normal);
        }
        CHECK(observe() == bad);
        try {
            const gpt2::FloatingPointScope scope;
            throw std::runtime_error("leaves the scope early");
        } catch (const std::runtime_error&) {
            CHECK(observe() == bad);
        }
    }
    CHECK(observe() == normal);
}

#if defined(GPT2_FP_MXCSR)
TEST_CASE("traps are masked inside, and flags raised inside do not leak out") {
    const unsigned before = _mm_getcsr();
    const unsigned trapping = 0x1f80u & ~0x0200u; // division by zero would raise SIGFPE; no flags
    _mm_setcsr(trapping);
    {
        const gpt2::FloatingPointScope scope;
        volatile float zero = 0.0f;
        volatile float infinite = 1.0f / zero;
        static_cast<void>(infinite);
        CHECK((_mm_getcsr() & 0x0004u) != 0); // the flag of a division by zero
    }
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK(after == trapping);
}
#endif

TEST_CASE("bodies run in the normal state on every thread, whatever state the pool was made or called in") {
    const Spoiled spoiled; // the workers inherit it
    const Behaviour bad = observe();
    gpt2::ThreadPool pool(4);
    for (int round = 0; round < 10; ++round) {
        std::vector<Behaviour> seen(pool.size());
        std::atomic<std::size_t> here{0};
        pool.parallel_for(pool.size(), 1, [&](std::size_t begin, std::size_t) {
            seen[begin] = observe();
            ++here;
            while (here < pool.size()) { // so that each thread takes one
                std::this_thread::yield();
            }
        });
        CHECK(seen == std::vector<Behaviour>(pool.size(), normal));
        CHECK(observe() == bad);
    }
    Behaviour in_place{};
    pool.parallel_for(1, 1, [&](std::size_t, std::size_t) { in_place = observe(); });
    CHECK(in_place == normal);
    CHECK(observe() == bad);
    const auto body = [](std::size_t, std::size_t) { throw std::runtime_error("x"); };
    CHECK_THROWS(pool.parallel_for(8, 1, body));
    CHECK(observe() == bad);
    {
        const auto turn = pool.take_turn();
        CHECK(observe() == normal);
        {
            const auto again = pool.take_turn();
            CHECK(observe() == normal);
        }
        CHECK(observe() == normal);
    }
    CHECK(observe() == bad);
}

TEST_CASE("a body that spoils the state spoils it for no later loop") {
    gpt2::ThreadPool pool(2);
    for (int round = 0; round < 20; ++round) {
        std::atomic<int> wrong{0};
        std::atomic<std::size_t> here{0};
        pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
            wrong += observe() == normal ? 0 : 1;
            ++here;
            while (here < 2) {
                std::this_thread::yield();
            }
            std::fesetround(FE_DOWNWARD);
        });
        CHECK(wrong == 0);
        CHECK(observe() == normal);
    }
}
