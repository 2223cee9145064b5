// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/session.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

/// @file
/// The keys and values of beams.

namespace gpt2::detail {

/// The sessions of some beams. They share what they read by copying it: when beams are chosen, the first that
/// continues a beam takes its session over; the others copy what differs into those of beams that ended.
class BeamSessions {
public:
    /// @param first  for a single beam
    explicit BeamSessions(Session first) : beams_(1, 0) { sessions_.push_back(std::move(first)); }

    [[nodiscard]] Session& operator[](std::size_t beam) { return sessions_[beams_[beam]]; }

    /// @param parents  for each new beam the one that it continues
    void choose(std::span<const std::size_t> parents) {
        std::vector<bool> is_taken(sessions_.size());
        std::vector<std::size_t> next;
        std::vector<std::size_t> copies; // beams that need one
        for (const std::size_t parent : parents) {
            const std::size_t session = beams_[parent];
            if (is_taken[session]) {
                copies.push_back(next.size());
            }
            is_taken[session] = true;
            next.push_back(session);
        }
        for (const std::size_t beam : copies) {
            const auto free = std::ranges::find(is_taken, false);
            const auto to = static_cast<std::size_t>(free - is_taken.begin());
            if (free == is_taken.end()) {
                sessions_.push_back(sessions_[next[beam]].fork());
                is_taken.push_back(true);
            } else {
                sessions_[to].follow(sessions_[next[beam]]);
                *free = true;
            }
            next[beam] = to;
        }
        beams_ = std::move(next);
        if (parents.empty()) {
            sessions_.clear();
        }
    }

private:
    std::vector<Session> sessions_;
    std::vector<std::size_t> beams_; ///< which of them each beam has
};

} // namespace gpt2::detail
