// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

/// @file
/// Sets of characters, for patterns.

namespace gpt2::detail {

/// A set of Unicode scalar values.
class CodePointSet {
public:
    struct Range {
        std::uint32_t first;
        std::uint32_t last;
    };

    static constexpr std::uint32_t largest = 0x10ffff;

    void add(std::uint32_t first, std::uint32_t last) { ranges_.push_back({first, last}); }
    void add(std::uint32_t one) { add(one, one); }
    void add(const CodePointSet& other) {
        ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
    }

    /// The same as ranges that ascend and do not touch, without surrogates, which UTF-8 does not have.
    [[nodiscard]] CodePointSet tidy() const { return merged().without_surrogates(); }

    /// All others.
    [[nodiscard]] CodePointSet complement() const {
        CodePointSet out;
        std::uint32_t next = 0;
        for (const Range& range : merged().ranges_) {
            if (range.first > next) {
                out.add(next, range.first - 1);
            }
            next = range.last + 1;
        }
        if (next <= largest) {
            out.add(next, largest);
        }
        return out.without_surrogates();
    }

    [[nodiscard]] const std::vector<Range>& ranges() const noexcept { return ranges_; }

private:
    [[nodiscard]] CodePointSet merged() const {
        std::vector<Range> sorted = ranges_;
        std::ranges::sort(sorted, {}, &Range::first);
        CodePointSet out;
        for (const Range& range : sorted) {
            if (out.ranges_.empty() || range.first > out.ranges_.back().last + 1) {
                out.ranges_.push_back(range);
            } else {
                out.ranges_.back().last = std::max(out.ranges_.back().last, range.last);
            }
        }
        return out;
    }

    [[nodiscard]] CodePointSet without_surrogates() const {
        CodePointSet out;
        for (const Range& range : ranges_) {
            for (const Range& valid : {Range{0, 0xd7ff}, Range{0xe000, largest}}) {
                const std::uint32_t first = std::max(range.first, valid.first);
                const std::uint32_t last = std::min(range.last, valid.last);
                if (first <= last) {
                    out.add(first, last);
                }
            }
        }
        return out;
    }

    std::vector<Range> ranges_;
};

} // namespace gpt2::detail
