// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include "format.hpp"
#include "terminal.hpp"

#include <algorithm>
#include <cstddef>
#include <iostream>

Progress::Progress() : wanted_(standard_error_is_terminal()) {}

Progress::~Progress() {
    if (shown_ != Clock::time_point()) {
        std::cerr << "\r\x1b[K" << std::flush;
    }
}

void Progress::show(double done, std::string_view value) {
    const auto now = Clock::now();
    if (begin_ < 0.0) {
        begin_ = done;
    }
    if (!wanted_ || now - shown_ < std::chrono::milliseconds(100)) {
        return;
    }
    shown_ = now;
    constexpr std::size_t width = 30;
    const std::size_t full = std::min(width, static_cast<std::size_t>(done * static_cast<double>(width)));
    const double spent = std::chrono::duration<double>(now - start_).count();
    const double left = done > begin_ ? spent * (1.0 - done) / (done - begin_) : 0.0;
    std::cerr << "\r\x1b[K[" << std::string(full, '#') << std::string(width - full, ' ') << ']'
              << format(" %5.1f %%, %.0f s left, ", 100.0 * done, left) << value << std::flush;
}
