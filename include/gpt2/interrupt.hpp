// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <chrono>
#include <optional>
#include <stop_token>

/// @file
/// How a forward pass ends before it is complete.

namespace gpt2 {

/// What ended a forward pass.
enum class InterruptCause {
    max_time,  ///< the deadline
    cancelled, ///< somebody asked for it
};

/// A forward pass was ended by an Interrupt. No session moved.
class Interrupted : public Error {
public:
    explicit Interrupted(InterruptCause cause)
        : Error(cause == InterruptCause::max_time
                    ? "forward: expected to read all tokens, found the deadline passed before"
                    : "forward: expected to read all tokens, found a request to stop before"),
          cause_(cause) {}

    [[nodiscard]] InterruptCause cause() const noexcept { return cause_; }

private:
    InterruptCause cause_;
};

/// What may end a forward pass early. It is looked at before each layer of a pass, before the output head and
/// between the parts of a long input, so a pass goes on for the work of one layer at most, or of the output
/// head. Without a member that can end anything it is not looked at at all.
///
///     std::stop_source source; // any thread may call source.request_stop(), at any time
///     session.forward(tokens, {.cancellation = source.get_token()});
struct Interrupt {
    using Clock = std::chrono::steady_clock;

    /// Ends the pass when a stop is requested of its source.
    std::stop_token cancellation{};
    /// When the pass shall end.
    std::optional<Clock::time_point> deadline{};
    /// What tells the time, called in the thread that computes; must not throw.
    Clock::time_point (*now)() = &Clock::now;

    [[nodiscard]] bool possible() const noexcept { return deadline || cancellation.stop_possible(); }

    /// @throws Interrupted if it is time
    void check() const {
        if (cancellation.stop_requested()) {
            throw Interrupted(InterruptCause::cancelled);
        }
        if (deadline && now() >= *deadline) {
            throw Interrupted(InterruptCause::max_time);
        }
    }
};

/// The time that lies @p seconds after @p start; nothing if that is in another generation.
[[nodiscard]] inline std::optional<Interrupt::Clock::time_point>
deadline_after(Interrupt::Clock::time_point start, double seconds) noexcept {
    constexpr double too_long = 1e9; // 32 years; a clock of 64 bits in nanoseconds ends after 292
    if (!(seconds < too_long)) {
        return std::nullopt;
    }
    return start +
           std::chrono::duration_cast<Interrupt::Clock::duration>(std::chrono::duration<double>(seconds));
}

} // namespace gpt2
