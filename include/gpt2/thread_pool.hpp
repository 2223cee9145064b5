// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "gpt2/cpu.hpp"
#include "gpt2/error.hpp"
#include "gpt2/fair_mutex.hpp"
#include "gpt2/floating_point.hpp"
#include "gpt2/parallel_loop.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define GPT2_HAS_PTHREAD 1
#include <csignal>
#include <pthread.h>
#include <unistd.h>
#endif

/// @file
/// A pool of threads for many short parallel loops in a row: one forward pass has about a hundred, each of
/// some 10 to 500 microseconds, so a loop must begin and end within about a microsecond.

namespace gpt2 {

namespace detail {

#if defined(GPT2_HAS_PTHREAD)
/// While it lives, threads that this thread starts begin with signals blocked, so that SIGINT and the like
/// reach the program's own threads. Not blocked: those that a fault raises in the thread itself (a handler
/// must get them), and SIGPROF (a profiler wants it on every thread).
class BlockedSignals {
public:
    BlockedSignals() noexcept {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) {
            sigdelset(&blocked, signal);
        }
        pthread_sigmask(SIG_SETMASK, &blocked, &saved_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

private:
    sigset_t saved_;
};
#endif

} // namespace detail

/// Threads that run parallel loops together with the thread that asks for the loop.
///
/// - Any number of threads may use one pool; they take turns, in order of arrival, loop by loop, or for as
///   long as they hold a Turn.
/// - A loop nested in a body of the same pool (at any distance, on any of the threads) runs in place, on the
///   thread that asked. Two pools whose loops are nested in each other from independent threads (one A in B,
///   another B in A) can wait for each other for ever.
/// - The threads look for the next loop for some 60 microseconds after each, then sleep. A pool larger than
///   usable_processors().hardware_threads never spins.
/// - A caller never waits for a thread that has not begun to work: on a busy machine a loop takes no longer
///   than the caller alone would need, plus the chunks others have begun.
/// - After fork() the child has none of the threads. Loops there run on the calling thread alone, provided no
///   loop and no Turn was under way in the parent at the time; this is not supported further.
///
/// ## How it works
///
/// One atomic word, the gate, holds the number of the loop (epoch), whether workers may join it (open), how
/// many are in it (active), how many sleep (sleepers), whether the caller sleeps (caller_sleeps), and stop.
/// Only the holder of the turn begins, closes and awaits loops, so there is one writer of epoch and open.
///
/// 1. Begin: the caller fills `loop_` while the gate is closed and nobody is active, then exchanges the gate
///    for (epoch + 1, open, active 0, sleepers 0), with release order.
/// 2. Join: a worker raises `active` by a compare-exchange that succeeds only on an open gate, with acquire
///    order. All changes of the gate are read-modify-writes, so each continues the release sequence of (1):
///    the worker sees the loop. An old value that compares equal after 2^40 epochs does no harm: what
///    counts is that the gate is open at that moment.
/// 3. Leave: a worker lowers `active`, release. It does not touch the loop again.
/// 4. End: the caller, having found no chunk left, takes `open` away; nobody can join from here on. Then it
///    waits until `active` is 0, acquire: release sequences of (3) make all that workers wrote visible, and
///    nobody can touch the loop, its body or its captures any more. A worker that never came is not missed.
/// 5. A worker goes to sleep by raising `sleepers` with a compare-exchange that succeeds only if the gate
///    still has the epoch it has seen; after that it waits on `sleep_->wake` until the epoch is another. In
///    the gate's modification order that is either before the exchange of (1), which then returns sleepers >
///    0 and the caller notifies; or after, and the compare-exchange fails. Between the raise and the wait no
///    notification is lost: the caller passes through `sleep_->mutex` after the exchange and before it
///    notifies, so the worker either is in the wait by then, or takes `sleep_->mutex` later and sees the new
///    epoch first. With nobody asleep there is no system call.
/// 6. The caller goes to sleep by setting `caller_sleeps`; if `active` is still not 0 in the value so
///    replaced, the last worker's leave comes later in the modification order, sees the bit, passes through
///    `sleep_->mutex` and notifies `sleep_->done`; not lost for the same reason as in (5).
class ThreadPool {
public:
    /// Starts @p n_threads - 1 threads; the thread that asks for a loop is always one of those that run it.
    /// @param processors  empty, or a logical processor for each thread, on which alone it runs (Linux). The
    ///        first is for the threads that ask for loops, which the pool leaves as they are:
    ///        bind_this_thread().
    /// @throws OptionError if @p n_threads is 0 or larger than max_threads, or @p processors are not as many,
    ///         one of them twice, or none that this thread may run on.
    /// @throws Error if the system refuses a thread; those already started are ended first.
    explicit ThreadPool(std::size_t n_threads, std::span<const std::size_t> processors = {})
        : n_threads_(n_threads) {
        if (n_threads == 0 || n_threads > max_threads) {
            throw OptionError(
                detail::concat("thread pool: expected 1 to ", max_threads, " threads, found ", n_threads));
        }
        if (!processors.empty()) {
            if (processors.size() != n_threads) {
                throw OptionError(detail::concat("thread pool: expected a processor for each of ", n_threads,
                                                 " threads, found ", processors.size()));
            }
            detail::check_processors(processors);
        }
        if (n_threads == 1) {
            return;
        }
        shares_ = std::vector<detail::Share>(n_threads);
        const bool crowded = n_threads > usable_processors().hardware_threads;
        spin_ = std::chrono::microseconds(crowded ? 0 : 60);
        workers_.reserve(n_threads - 1);
#if defined(GPT2_HAS_PTHREAD)
        process_ = getpid();
        const detail::BlockedSignals blocked;
#endif
        for (std::size_t number = 1; number < n_threads; ++number) {
            start_worker(number, processors.empty() ? nullptr : &processors[number]);
        }
    }

    /// Ends and joins the threads. No loop may be under way and nobody may hold a turn.
    ~ThreadPool() {
        end_workers();
    }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    /// Threads that run a loop, the caller included.
    [[nodiscard]] std::size_t size() const noexcept {
        return n_threads_;
    }

    /// The pool that everything uses for which no other was given; made at the first call, with
    /// default_thread_count() threads. Ended when the program ends, or the library it is in is unloaded,
    /// unless somebody still holds it; a call after that (from the destructor of a static object) makes a
    /// fresh one.
    /// @throws OptionError if GPT2_THREADS is set to nonsense.
    [[nodiscard]] static std::shared_ptr<ThreadPool> process_wide();

    /// The right to run loops on the pool, held until destruction, and a FloatingPointScope for as long.
    /// A local variable of the thread that took it.
    class [[nodiscard]] Turn {
    public:
        ~Turn() { pool_.turns_.unlock(); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

    private:
        friend class ThreadPool;
        explicit Turn(ThreadPool& pool) : pool_(pool) { pool_.turns_.lock(); }
        ThreadPool& pool_;
        FloatingPointScope floating_point_;
    };

    /// Waits until no other thread holds a turn, in order of arrival. A thread may take turns recursively.
    /// @throws Error if called from a body of this pool's own loop: the turn belongs to the loop's caller,
    ///         who waits for the body.
    [[nodiscard]] Turn take_turn() {
        if (inside_own_loop()) {
            throw Error(
                "thread pool: a turn was asked for inside a parallel loop of the same pool; use another pool "
                "there, of 1 thread if need be");
        }
        return Turn(*this);
    }

    /// Calls `body(begin, end)` for disjoint ranges that cover [0, @p n_items) exactly, on up to size()
    /// threads at once, the calling thread among them, and returns when all are done: what the bodies wrote
    /// is visible then. Ranges have @p grain items (0 counts as 1) and begin at multiples of it. Each thread
    /// takes those of its part of [0, @p n_items) in order, then what is left of others' parts; with @p
    /// n_items <= @p grain, one thread, or inside a loop of this pool it is one range. Which thread gets
    /// which range is not determined, so a result may depend on neither thread nor range.
    ///
    /// Bodies run under a FloatingPointScope. If some throw, the first exception is thrown here after all
    /// have ended, and ranges not yet begun are left out. Does not allocate. Thread-safe.
    template <class Body> void parallel_for(std::size_t n_items, std::size_t grain, Body&& body) {
        grain = std::max<std::size_t>(grain, 1);
        if (n_items == 0) {
            return;
        }
        if (n_items <= grain || n_threads_ == 1 || inside_own_loop()) {
            const FloatingPointScope floating_point;
            body(std::size_t{0}, n_items);
            return;
        }
        using Target = std::remove_reference_t<Body>;
        detail::Loop loop{[](void* target, std::size_t begin, std::size_t end) {
                              (*static_cast<Target*>(target))(begin, end);
                          },
                          const_cast<void*>(static_cast<const volatile void*>(std::addressof(body))),
                          n_items,
                          grain,
                          (n_items - 1) / grain + 1,
                          detail::LoopFrame{this, detail::current_loop}};
        run(loop);
    }

private:
    /// Where threads sleep.
    struct Sleep {
        std::mutex mutex; ///< protects nothing but the way to sleep
        std::condition_variable wake;
        std::condition_variable done;
    };
    using Gate = std::uint64_t;
    // From the low end: 11 bits active, 11 bits sleepers (both at most max_threads - 1), open, caller_sleeps,
    // stop, 39 bits epoch.
    static constexpr Gate one_active = 1;
    static constexpr Gate one_sleeper = Gate{1} << 11;
    static constexpr Gate open = Gate{1} << 22;
    static constexpr Gate caller_sleeps = Gate{1} << 23;
    static constexpr Gate stop = Gate{1} << 24;
    static constexpr int epoch_shift = 25;
    static_assert(max_threads <= 2048);

    static constexpr Gate active(Gate gate) {
        return gate & 0x7ff;
    }
    static constexpr Gate sleepers(Gate gate) {
        return (gate >> 11) & 0x7ff;
    }
    static constexpr Gate epoch(Gate gate) {
        return gate >> epoch_shift;
    }

    /// @param processor  null: any
    void start_worker(std::size_t number, [[maybe_unused]] const std::size_t* processor) {
        std::string refused;
        try {
            workers_.emplace_back([this, number] { work(number); });
#if defined(__linux__)
            if (processor != nullptr && !detail::bind_thread(workers_.back().native_handle(), *processor)) {
                refused = detail::concat("to bind it to processor ", *processor);
            }
#endif
        } catch (const std::system_error& error) {
            refused = error.what();
        }
        if (!refused.empty()) {
            end_workers();
            throw Error(detail::concat("thread pool: the system refused thread ", number + 1, " of ",
                                       n_threads_, ": ", refused));
        }
    }

    [[nodiscard]] Gate next_epoch() const noexcept {
        constexpr Gate most = ~Gate{0} >> epoch_shift;
        return (epoch(gate_.load(std::memory_order_relaxed)) + 1) & most;
    }

    [[nodiscard]] bool inside_own_loop() const noexcept {
        const detail::LoopFrame* frame = detail::current_loop;
        while (frame != nullptr && frame->pool != this) {
            frame = frame->outer;
        }
        return frame != nullptr;
    }

    void run(detail::Loop& loop) {
        {
            const Turn turn(*this);
            loop.number = next_epoch();
            if (loop.number == 0) { // the numbers begin again, and shares know only those of before
                for (detail::Share& share : shares_) {
                    share.state.store(0, std::memory_order_relaxed);
                }
            }
            loop_ = &loop;
            begin_epoch(open);
            loop.run(shares_, 0);
            close_and_wait();
        }
        if (loop.error) {
            std::rethrow_exception(std::move(loop.error));
        }
    }

    /// Step 1. @p state is `open` or `stop`.
    void begin_epoch(Gate state) {
        const Gate old = gate_.exchange(next_epoch() << epoch_shift | state, std::memory_order_acq_rel);
        if (sleepers(old) != 0) {
            { const std::lock_guard lock(sleep_->mutex); }
            sleep_->wake.notify_all();
        }
    }

    /// Steps 4 and 6.
    void close_and_wait() {
        if (active(gate_.fetch_and(~open, std::memory_order_acq_rel)) == 0) {
            return;
        }
        const auto all_left = [this] { return active(gate_.load(std::memory_order_acquire)) == 0; };
        if (detail::spin_until(all_left, spin_)) {
            return;
        }
        if (active(gate_.fetch_or(caller_sleeps, std::memory_order_acq_rel)) != 0) {
            std::unique_lock lock(sleep_->mutex);
            sleep_->done.wait(lock, all_left);
        }
    }

    void work(std::size_t number) noexcept {
        name_this_thread(number);
        Gate seen = 0; // epochs begin with 1
        while (true) {
            Gate gate = await_epoch(seen);
            if ((gate & stop) != 0) {
                return;
            }
            bool joined = false;
            while ((gate & open) != 0 && !joined) { // step 2
                joined = gate_.compare_exchange_weak(gate, gate + one_active, std::memory_order_acq_rel,
                                                     std::memory_order_acquire);
            }
            seen = epoch(gate);
            if (joined) {
                loop_->run(shares_, number);
                const Gate old = gate_.fetch_sub(one_active, std::memory_order_acq_rel); // step 3
                if (active(old) == 1 && (old & caller_sleeps) != 0) {
                    { const std::lock_guard lock(sleep_->mutex); }
                    sleep_->done.notify_one();
                }
            }
        }
    }

    /// Returns the gate once its epoch is another than @p seen, or stop is set. Step 5.
    [[nodiscard]] Gate await_epoch(Gate seen) {
        Gate gate = 0;
        const auto is_new = [&] {
            gate = gate_.load(std::memory_order_acquire);
            return epoch(gate) != seen || (gate & stop) != 0;
        };
        if (detail::spin_until(is_new, spin_)) {
            return gate;
        }
        while (!is_new()) {
            if (gate_.compare_exchange_weak(gate, gate + one_sleeper, std::memory_order_acq_rel,
                                            std::memory_order_relaxed)) {
                std::unique_lock lock(sleep_->mutex);
                sleep_->wake.wait(lock, is_new);
                break;
            }
        }
        return gate;
    }

    void end_workers() noexcept {
#if defined(GPT2_HAS_PTHREAD)
        if (getpid() != process_) {
            // A child of fork(). The threads do not exist: joining them, or destroying a condition variable
            // in which they slept, would wait for ever.
            for (std::thread& worker : workers_) {
                worker.detach();
            }
            static_cast<void>(sleep_.release());
            return;
        }
#endif
        begin_epoch(stop);
        for (std::thread& worker : workers_) {
            worker.join();
        }
    }

    /// As tools such as top -H show it; 15 bytes at most.
    static void name_this_thread([[maybe_unused]] std::size_t number) {
#if defined(__linux__)
        pthread_setname_np(pthread_self(), ("gpt2-" + std::to_string(number)).c_str());
#elif defined(__APPLE__)
        pthread_setname_np(("gpt2-" + std::to_string(number)).c_str());
#endif
    }

    alignas(detail::line_pair) std::atomic<Gate> gate_{0};
    /// Written by the holder of the turn, see the steps. On the gate's line: whoever joins has it then.
    detail::Loop* loop_ = nullptr;
    alignas(detail::line_pair) std::size_t n_threads_;
    std::chrono::nanoseconds spin_{0};
    detail::FairMutex turns_;
    std::vector<detail::Share> shares_; ///< one for each thread, the caller's first
    std::unique_ptr<Sleep> sleep_ = std::make_unique<Sleep>();
#if defined(GPT2_HAS_PTHREAD)
    pid_t process_ = getpid();
#endif
    std::vector<std::thread> workers_;
};

namespace detail {

struct ProcessWidePool {
    std::mutex mutex;
    std::shared_ptr<ThreadPool> pool;
    std::weak_ptr<ThreadPool> late; ///< made after `pool` was given up; owned by those who use it
    bool given_up = false;

    /// Never destroyed (but always reachable, so no leak): static objects may ask for the pool at any time.
    static ProcessWidePool& instance() {
        static ProcessWidePool* const holder = new ProcessWidePool;
        return *holder;
    }

    void give_up() {
        std::shared_ptr<ThreadPool> last;
        const std::lock_guard lock(mutex);
        given_up = true;
        late = pool;
        last.swap(pool); // ended here, after the lock, unless somebody still holds it
    }
};

} // namespace detail

inline std::shared_ptr<ThreadPool> ThreadPool::process_wide() {
    using Holder = detail::ProcessWidePool;
    struct AtExit {
        ~AtExit() { Holder::instance().give_up(); }
    };
    Holder& holder = Holder::instance();
    static const AtExit at_exit;
    const std::lock_guard lock(holder.mutex);
    auto pool = holder.given_up ? holder.late.lock() : holder.pool;
    if (!pool) {
        pool = std::make_shared<ThreadPool>(default_thread_count());
        if (holder.given_up) {
            holder.late = pool;
        } else {
            holder.pool = pool;
        }
    }
    return pool;
}

} // namespace gpt2
