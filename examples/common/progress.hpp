// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <string_view>

/// @file
/// How far a long run is.

/// A line on standard error, if that is a terminal: share, time left and a running value.
class Progress {
public:
    Progress();
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// @param done   share of the work, 0 to 1
    /// @param value  what was found so far
    void show(double done, std::string_view value);

private:
    using Clock = std::chrono::steady_clock;

    bool wanted_;
    Clock::time_point start_ = Clock::now();
    Clock::time_point shown_{};
    double begin_ = -1.0; ///< share that was done before this run
};
