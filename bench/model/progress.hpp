// SPDX-License-Identifier: MIT
#pragma once

#include "../machine.hpp"

#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#if defined(__unix__)
#include <unistd.h>
#endif

/// @file
/// What a program that takes minutes tells those who wait.

namespace gpt2::bench {

/// Writes to standard error: at a terminal one line that changes, elsewhere a line for each round.
class Progress {
public:
    Progress(std::string name, bool visible) : name_(std::move(name)), visible_(visible) {
#if defined(__unix__)
        terminal_ = isatty(STDERR_FILENO) != 0;
#endif
    }
    ~Progress() {
        clear();
    }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// What is being done.
    void say(const std::string& text) {
        if (visible_ && terminal_) {
            clear();
            std::fprintf(stderr, "%s: %s", name_.c_str(), text.c_str());
            std::fflush(stderr);
        }
    }

    /// What shall stay to be read.
    void note(const std::string& text) {
        if (visible_) {
            clear();
            std::fprintf(stderr, "%s: %s\n", name_.c_str(), text.c_str());
        }
    }

    void begin(std::size_t cases, std::size_t rounds) {
        seconds_.assign(cases, 0.0);
        rounds_ = rounds;
        done_ = 0;
    }
    void enter(const std::string& text) {
        const std::string round = std::to_string(done_ / seconds_.size() + 1);
        const std::string where = "round " + round + " of " + std::to_string(rounds_);
        if (terminal_) {
            say(where + ", " + text + left());
        } else if (done_ % seconds_.size() == 0) {
            note(where + left());
        }
        begin_ = Clock::now();
    }
    void leave() {
        seconds_[done_ % seconds_.size()] = seconds_since(begin_);
        ++done_;
    }

private:
    void clear() const {
        if (visible_ && terminal_) {
            std::fputs("\r\033[K", stderr);
        }
    }

    /// By what each case took in its last round; where there was none yet, the mean of the others.
    [[nodiscard]] std::string left() const {
        if (done_ == 0) {
            return {};
        }
        double sum = 0.0;
        for (const double each : seconds_) {
            sum += each;
        }
        const std::size_t measured = std::min(done_, seconds_.size());
        const double mean = sum / static_cast<double>(measured);
        double remaining = 0.0;
        for (std::size_t i = done_; i < rounds_ * seconds_.size(); ++i) {
            const std::size_t which = i % seconds_.size();
            remaining += which < measured ? seconds_[which] : mean;
        }
        const auto total = static_cast<int>(remaining + 0.5);
        char text[64];
        std::snprintf(text, sizeof text, ", %d:%02d left", total / 60, total % 60);
        return text;
    }

    std::string name_;
    bool visible_;
    bool terminal_ = false;
    std::vector<double> seconds_; ///< of each case, in its last round
    std::size_t rounds_ = 0;
    std::size_t done_ = 0; ///< cases, in all rounds
    Clock::time_point begin_;
};

} // namespace gpt2::bench
