// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"

#if defined(__linux__)
#include <cerrno>
#include <pthread.h>
#include <sched.h>
#endif

/// @file
/// Which processors a thread may run on: asked, and chosen. Linux; elsewhere nothing is known and nothing can
/// be chosen.

namespace gpt2 {

namespace detail {

#if defined(__linux__)
using AffinityWord = unsigned long;
inline constexpr std::size_t affinity_word_bits = 8 * sizeof(AffinityWord);

/// The logical processors in the calling thread's affinity mask; empty if the kernel does not say.
[[nodiscard]] GPT2_COLD inline std::vector<std::size_t> affinity_mask() {
    // The kernel refuses (EINVAL) a mask smaller than its own: grow until it fits.
    for (std::size_t size = 1024; size <= (std::size_t{1} << 20); size *= 2) {
        std::vector<AffinityWord> mask(size / affinity_word_bits);
        if (sched_getaffinity(0, size / 8, reinterpret_cast<cpu_set_t*>(mask.data())) == 0) {
            std::vector<std::size_t> processors;
            for (std::size_t i = 0; i < size; ++i) {
                if ((mask[i / affinity_word_bits] >> (i % affinity_word_bits)) & 1) {
                    processors.push_back(i);
                }
            }
            return processors;
        }
        if (errno != EINVAL) {
            break;
        }
    }
    return {};
}

/// Lets @p thread run on @p processor alone. @returns whether the system agreed
[[nodiscard]] GPT2_COLD inline bool bind_thread(pthread_t thread, std::size_t processor) {
    std::vector<AffinityWord> mask(processor / affinity_word_bits + 1);
    mask.back() = AffinityWord{1} << processor % affinity_word_bits;
    return pthread_setaffinity_np(thread, mask.size() * sizeof(AffinityWord),
                                  reinterpret_cast<const cpu_set_t*>(mask.data())) == 0;
}
#endif

/// Checks that each of @p processors is there for this thread, and once.
/// @throws OptionError if not, or where threads cannot be bound
GPT2_COLD inline void check_processors([[maybe_unused]] std::span<const std::size_t> processors) {
#if defined(__linux__)
    const std::vector<std::size_t> usable = affinity_mask();
    for (std::size_t i = 0; i < processors.size(); ++i) {
        if (std::ranges::count(usable, processors[i]) == 0) {
            std::string list;
            for (const std::size_t processor : usable) {
                list += concat(list.empty() ? "" : ", ", processor);
            }
            throw OptionError(concat("processors: expected those that this thread may run on (", list,
                                     "), found ", processors[i]));
        }
        if (std::ranges::count(processors.first(i), processors[i]) != 0) {
            throw OptionError(concat("processors: expected each once, found ", processors[i], " again"));
        }
    }
#else
    throw OptionError("processors: expected none, as threads cannot be bound on this system");
#endif
}

} // namespace detail

/// From now on the calling thread runs on one logical processor only, and so do threads that it starts.
/// Beside a ThreadPool with processors of its own: call it after that is made.
/// @param processor  number of the system, from 0
/// @throws OptionError if the thread may not run there, or the system is not Linux
GPT2_COLD inline void bind_this_thread(std::size_t processor) {
    detail::check_processors({&processor, 1});
#if defined(__linux__)
    if (!detail::bind_thread(pthread_self(), processor)) {
        throw OptionError(detail::concat("processors: the system refused to bind a thread to ", processor));
    }
#endif
}

} // namespace gpt2
