// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

/// @file
/// Just enough of SVG for plots that read well on light and on dark pages. They look as those of
/// tools/performance/svg.py do.

/// A drawing under way. Lengths are pixels; y grows downwards. Classes name colours and strokes: paper,
/// muted, grid, axis, strong, name (kept clear of what it lies on), limit, range, f0 to f5 (fill) and s0 to
/// s5 (stroke).
class Drawing {
public:
    Drawing(double width, double height, std::string_view title, std::string_view subtitle);

    void rectangle(double x, double y, double width, double height, std::string_view style);
    void line(double x1, double y1, double x2, double y2, std::string_view style);

    /// @param tip  what is shown when it is pointed at
    void dot(double x, double y, std::string_view style, std::string_view tip);

    /// @param anchor  start, middle or end: where @p x is in the text
    void text(double x, double y, std::string_view text, std::string_view style = {},
              std::string_view anchor = "start");

    [[nodiscard]] std::string str() const;

private:
    std::string body_;
};

/// Round numbers from 0 to at least @p largest, about @p about of them.
[[nodiscard]] std::vector<double> ticks(double largest, int about = 5);
