// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

/// @file
/// Where the time of forward passes goes.

namespace gpt2 {

/// Collects spans of time: whole passes, the blocks in them, the layers in those. Give it to
/// SessionOptions::profile; any number of sessions and threads may share one. Thread-safe. Without one,
/// nothing is measured, and it costs a comparison per layer.
class Profile {
public:
    using Clock = std::chrono::steady_clock;

    /// What the caller of a forward pass did for a while. Spans of a thread are nested or apart.
    struct Event {
        const char* name;                  ///< a literal
        std::optional<std::size_t> number; ///< which of several
        std::thread::id thread;
        Clock::time_point begin, end;
    };

    /// Adds an event that lasts as long as the object does; nothing if there is no profile.
    class [[nodiscard]] Span {
    public:
        /// @param name  a string literal
        Span(Profile* profile, const char* name, std::optional<std::size_t> number = {})
            : profile_(profile), name_(name), number_(number) {
            if (profile_ != nullptr) {
                begin_ = Clock::now();
            }
        }
        ~Span() {
            if (profile_ != nullptr) {
                profile_->add({name_, number_, std::this_thread::get_id(), begin_, Clock::now()});
            }
        }
        Span(const Span&) = delete;
        Span& operator=(const Span&) = delete;

    private:
        Profile* profile_;
        const char* name_;
        std::optional<std::size_t> number_;
        Clock::time_point begin_{};
    };

    /// All spans so far, in the order of their ends.
    [[nodiscard]] std::vector<Event> events() const {
        const std::lock_guard lock(mutex_);
        return events_;
    }

    void clear() {
        const std::lock_guard lock(mutex_);
        events_.clear();
    }

    /// What spans of one name add up to.
    struct Total {
        std::string_view name;
        std::size_t calls = 0;
        double seconds = 0.0;
        double own_seconds = 0.0; ///< without the spans inside
    };

    /// By name, the largest own time first. Own times add up to the time of the outermost spans.
    [[nodiscard]] std::vector<Total> totals() const;

    /// totals() as text, in milliseconds and per cent.
    GPT2_HEAVY [[nodiscard]] std::string table() const;

    /// The events in the Trace Event Format (JSON) that chrome://tracing and https://ui.perfetto.dev show.
    GPT2_HEAVY void write_chrome_trace(std::ostream& out) const;

private:
    /// By their begin, a span before those inside it.
    [[nodiscard]] std::vector<Event> sorted_events() const {
        std::vector<Event> list = events();
        std::ranges::stable_sort(list, [](const Event& a, const Event& b) {
            return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
        });
        return list;
    }

    void add(const Event& event) noexcept {
        try {
            const std::lock_guard lock(mutex_);
            events_.push_back(event);
        } catch (...) { // no memory: a profile with a hole rather than a pass that fails
        }
    }

    mutable std::mutex mutex_;
    std::vector<Event> events_;
};

inline std::vector<Profile::Total> Profile::totals() const {
    const std::vector<Event> list = sorted_events();
    std::map<std::string_view, Total> by_name;
    std::map<std::thread::id, std::vector<const Event*>> open; // of each thread the spans around the next one
    for (const Event& event : list) {
        std::vector<const Event*>& around = open[event.thread];
        while (!around.empty() && around.back()->end <= event.begin) {
            around.pop_back();
        }
        const double seconds = std::chrono::duration<double>(event.end - event.begin).count();
        Total& total = by_name[event.name];
        total.name = event.name;
        ++total.calls;
        total.seconds += seconds;
        total.own_seconds += seconds;
        if (!around.empty()) {
            by_name[around.back()->name].own_seconds -= seconds;
        }
        around.push_back(&event);
    }
    std::vector<Total> result;
    result.reserve(by_name.size());
    for (const auto& [name, total] : by_name) {
        result.push_back(total);
    }
    std::ranges::stable_sort(result, std::greater<>(), &Total::own_seconds);
    return result;
}

template <class> GPT2_COLD std::string Profile::table() const {
    const std::vector<Total> list = totals();
    double all = 0.0;
    for (const Total& total : list) {
        all += total.own_seconds;
    }
    std::string out = "layer               calls    own ms      %   us per call\n";
    for (const Total& total : list) {
        char line[128];
        std::snprintf(line, sizeof line, "%-17s %7zu %9.2f %6.1f %13.2f\n", std::string(total.name).c_str(),
                      total.calls, total.own_seconds * 1e3, all > 0.0 ? 100.0 * total.own_seconds / all : 0.0,
                      total.own_seconds * 1e6 / static_cast<double>(total.calls));
        out += line;
    }
    return out;
}

template <class> GPT2_COLD void Profile::write_chrome_trace(std::ostream& out) const {
    const std::vector<Event> list = sorted_events();
    std::map<std::thread::id, std::size_t> threads;
    out << "{\"traceEvents\": [";
    const char* separator = "\n";
    for (const Event& event : list) {
        const auto microseconds = [](Clock::duration time) {
            return std::to_string(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count() / 1000) +
                   "." +
                   std::to_string(1000 +
                                  std::chrono::duration_cast<std::chrono::nanoseconds>(time).count() % 1000)
                       .substr(1);
        };
        const std::size_t thread = threads.try_emplace(event.thread, threads.size()).first->second;
        out << separator << "{\"name\": \"" << event.name;
        if (event.number) {
            out << '.' << *event.number;
        }
        out << R"(", "cat": "gpt2", "ph": "X", "pid": 0, "tid": )" << thread
            << ", \"ts\": " << microseconds(event.begin - list.front().begin)
            << ", \"dur\": " << microseconds(event.end - event.begin) << '}';
        separator = ",\n";
    }
    out << "\n], \"displayTimeUnit\": \"ns\"}\n";
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::string Profile::table<void>() const;
GPT2_INSTANCE void Profile::write_chrome_trace<void>(std::ostream&) const;
#endif

} // namespace gpt2
