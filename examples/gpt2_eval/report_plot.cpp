// SPDX-License-Identifier: MIT
#include "format.hpp"
#include "report.hpp"
#include "svg.hpp"

#include <gpt2/error.hpp>

#include <algorithm>
#include <array>
#include <cmath>

namespace {

constexpr double width = 720.0;
constexpr double height = 420.0;
constexpr double left = 62.0;
constexpr double right = 40.0;
constexpr double top = 84.0;
constexpr double bottom = 48.0;

constexpr std::array names{"name strong f0", "name strong f1", "name strong f2",
                           "name strong f3", "name strong f4", "name strong f5"};
constexpr std::array fills{"f0", "f1", "f2", "f3", "f4", "f5"};
constexpr std::array ranges{"range s0", "range s1", "range s2", "range s3", "range s4", "range s5"};

std::string power_of_ten(double exponent) {
    return exponent < -3.0 ? format("1e%.0f", exponent) : format("%g", std::pow(10.0, exponent));
}

/// Speed to the right, linear from 0; divergence upwards, logarithmic.
class Scales {
public:
    Scales(double fastest, double smallest, double largest)
        : speeds_(ticks(fastest)), lowest_(std::floor(std::log10(smallest))),
          highest_(std::max(std::ceil(std::log10(largest)), lowest_ + 1.0)) {}

    [[nodiscard]] double x(double speed) const {
        return left + speed / speeds_.back() * (width - left - right);
    }

    /// What is below the axis ends at it.
    [[nodiscard]] double y(double divergence) const {
        const double level = std::max(std::log10(divergence), lowest_);
        return height - bottom - (level - lowest_) / (highest_ - lowest_) * (height - top - bottom);
    }

    void draw(Drawing& drawing) const {
        for (double level = lowest_; level <= highest_; level += 1.0) {
            const double at = y(std::pow(10.0, level));
            drawing.line(left, at, width - right, at, level == lowest_ ? "axis" : "grid");
            drawing.text(left - 8, at + 4, power_of_ten(level), "muted", "end");
        }
        for (const double speed : speeds_) {
            drawing.text(x(speed), height - bottom + 18, format("%g", speed), "muted", "middle");
        }
    }

private:
    std::vector<double> speeds_;
    double lowest_; ///< exponents of ten
    double highest_;
};

struct Box {
    double x, y, width, height;

    [[nodiscard]] bool overlaps(const Box& other) const {
        return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
               other.y < y + height;
    }
};

/// Writes names beside dots, each where nothing is yet.
class Labels {
public:
    void keep_clear(double x, double y) { taken_.push_back({x - 5, y - 5, 10, 10}); }

    void write(Drawing& drawing, double x, double y, const std::string& name, const char* style) {
        struct Place {
            double x, y;
            const char* anchor;
        };
        constexpr std::array places{Place{9, 4, "start"},   Place{-9, 4, "end"},   Place{0, -10, "middle"},
                                    Place{0, 19, "middle"}, Place{9, -9, "start"}, Place{9, 17, "start"},
                                    Place{-9, -9, "end"},   Place{-9, 17, "end"},  Place{0, -24, "middle"},
                                    Place{0, 33, "middle"}};
        const double size = 7.2 * static_cast<double>(name.size());
        const auto box = [&](const Place& place) {
            const double share = place.anchor[0] == 's' ? 0.0 : place.anchor[0] == 'e' ? 1.0 : 0.5;
            return Box{x + place.x - share * size, y + place.y - 11, size, 14};
        };
        const auto is_free = [&](const Place& place) {
            const Box at = box(place);
            return at.x > left && at.x + at.width < width - 4 && at.y > top - 4 &&
                   at.y + at.height < height - bottom &&
                   std::ranges::none_of(taken_, [&](const Box& other) { return at.overlaps(other); });
        };
        const auto found = std::ranges::find_if(places, is_free);
        const Place& place = found == places.end() ? places.front() : *found;
        taken_.push_back(box(place));
        drawing.text(x + place.x, y + place.y, name, style, place.anchor);
    }

private:
    std::vector<Box> taken_;
};

bool can_be_drawn(const Candidate& candidate) {
    return candidate.quality && candidate.quality->kl().value > 0.0;
}

/// A model that is the reference, or the same: its speed, as no place on a logarithmic axis is its own.
void draw_reference(Drawing& drawing, const Scales& scales, const Candidate& candidate) {
    const double x = scales.x(median_of(candidate.decode));
    drawing.line(x, top, x, height - bottom, "limit");
    const bool at_right = x > width * 0.8;
    drawing.text(x + (at_right ? -5 : 5), top + 8, candidate.label + ", divergence 0", "muted",
                 at_right ? "end" : "start");
}

} // namespace

std::string to_svg(const Report& report, const std::string& title) {
    double fastest = 0.0;
    double smallest = INFINITY;
    double largest = 0.0;
    for (const Candidate& candidate : report.candidates) {
        fastest = std::max(fastest, median_of(candidate.decode, 1.0));
        if (can_be_drawn(candidate)) {
            smallest = std::min(smallest, candidate.quality->kl().value);
            largest = std::max(largest, candidate.quality->kl().value);
        }
    }
    if (!(largest > 0.0)) {
        throw gpt2::OptionError("--svg: expected a candidate that differs from the reference, found none");
    }
    const Scales scales(fastest, smallest, largest);
    Drawing drawing(
        width, height, "Quality against speed, " + title,
        "Best is at the bottom right. Bars: range over the rounds, standard error of the divergence.");
    drawing.text(16, top - 14,
                 "KL divergence from " + report.candidates.front().label + ", nats, logarithmic", "muted");
    scales.draw(drawing);
    drawing.text((left + width - right) / 2, height - 10, "decoding, tokens/s", "muted", "middle");
    Labels labels;
    for (std::size_t i = 0; i < report.candidates.size(); ++i) {
        const Candidate& candidate = report.candidates[i];
        if (!can_be_drawn(candidate)) {
            draw_reference(drawing, scales, candidate);
            continue;
        }
        const gpt2::evaluation::Estimate kl = candidate.quality->kl();
        const double x = scales.x(median_of(candidate.decode));
        const double y = scales.y(kl.value);
        const char* const range = ranges[(i - 1) % ranges.size()];
        drawing.line(scales.x(median_of(candidate.decode, 0.0)), y,
                     scales.x(median_of(candidate.decode, 1.0)), y, range);
        drawing.line(x, scales.y(std::max(kl.value - kl.standard_error, kl.value * 0.1)), x,
                     scales.y(kl.value + kl.standard_error), range);
        drawing.dot(x, y, fills[(i - 1) % fills.size()],
                    candidate.label + ": " + three_digits(median_of(candidate.decode)) + " tokens/s, " +
                        format("%.3g nats, top 1 ", kl.value) + percent(candidate.quality->top1_agreement()));
        labels.keep_clear(x, y);
    }
    for (std::size_t i = 1; i < report.candidates.size(); ++i) {
        const Candidate& candidate = report.candidates[i];
        if (can_be_drawn(candidate)) {
            labels.write(drawing, scales.x(median_of(candidate.decode)),
                         scales.y(candidate.quality->kl().value), candidate.label,
                         names[(i - 1) % names.size()]);
        }
    }
    return drawing.str();
}
