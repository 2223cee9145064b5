// SPDX-License-Identifier: MIT
#include "svg.hpp"

#include "escape.hpp"
#include "format.hpp"

#include <gpt2/utf8.hpp>

#include <cmath>

namespace {

constexpr std::string_view drawing_style =
    R"(<style>text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px})"
    R"(.title{font-size:15px;font-weight:600}.strong{font-weight:600}.grid,.axis{stroke-width:1})"
    R"(.limit{fill:none;stroke-width:1.2;stroke-dasharray:3 4}.range{stroke-width:1.5;opacity:.55})"
    R"(.name{paint-order:stroke;stroke-width:3;stroke-linejoin:round})"
    R"(.paper{fill:#ffffff}.name{stroke:#ffffff}text{fill:#1f2328}.muted{fill:#59636e}.grid{stroke:#e4e8ec}.axis,.limit{stroke:#59636e})"
    R"(.f0{fill:#0b62a4}.s0{stroke:#0b62a4}.f1{fill:#00805f}.s1{stroke:#00805f}.f2{fill:#a86400}.s2{stroke:#a86400})"
    R"(.f3{fill:#b0427f}.s3{stroke:#b0427f}.f4{fill:#c8401a}.s4{stroke:#c8401a}.f5{fill:#5b4ab0}.s5{stroke:#5b4ab0})"
    R"(@media(prefers-color-scheme:dark){)"
    R"(.paper{fill:#0d1117}.name{stroke:#0d1117}text{fill:#e6edf3}.muted{fill:#9198a1}.grid{stroke:#272d36}.axis,.limit{stroke:#9198a1})"
    R"(.f0{fill:#6cb4ee}.s0{stroke:#6cb4ee}.f1{fill:#45c9a0}.s1{stroke:#45c9a0}.f2{fill:#e5a83b}.s2{stroke:#e5a83b})"
    R"(.f3{fill:#ec8bbd}.s3{stroke:#ec8bbd}.f4{fill:#ff8a62}.s4{stroke:#ff8a62}.f5{fill:#a99cf0}.s5{stroke:#a99cf0}})"
    R"(</style>)";

/// " x1="12.5"", without zeros that say nothing.
std::string attribute(const char* name, double x) {
    std::string digits = format("%.1f", x);
    if (digits.ends_with(".0")) {
        digits.resize(digits.size() - 2);
    }
    return std::string(" ") + name + "=\"" + digits + '"';
}

std::string class_of(std::string_view style_name) {
    return style_name.empty() ? "" : " class=\"" + std::string(style_name) + '"';
}

/// XML has no carriage returns by reference to fear, and no control characters at all.
std::string xml(std::string_view text) {
    std::string plain = gpt2::to_valid_utf8(text);
    for (char& c : plain) {
        c = static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return html(plain);
}

} // namespace

Drawing::Drawing(double width, double height, std::string_view title, std::string_view subtitle) {
    body_ = "<svg xmlns=\"http://www.w3.org/2000/svg\"" + attribute("width", width) +
            attribute("height", height) +
            format(" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n <title>", width, height) + xml(title) +
            "</title>\n " + std::string(drawing_style) + '\n';
    rectangle(0, 0, width, height, "paper");
    text(16, 26, title, "title");
    text(16, 44, subtitle, "muted");
}

void Drawing::rectangle(double x, double y, double width, double height, std::string_view style_name) {
    body_ += " <rect" + attribute("x", x) + attribute("y", y) + attribute("width", width) +
             attribute("height", height) + class_of(style_name) + " />\n";
}

void Drawing::line(double x1, double y1, double x2, double y2, std::string_view style_name) {
    body_ += " <line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) +
             attribute("y2", y2) + class_of(style_name) + " />\n";
}

void Drawing::dot(double x, double y, std::string_view style_name, std::string_view tip) {
    body_ += " <circle" + attribute("cx", x) + attribute("cy", y) + " r=\"3.5\"" + class_of(style_name) +
             ">\n  <title>" + xml(tip) + "</title>\n </circle>\n";
}

void Drawing::text(double x, double y, std::string_view text, std::string_view style_name,
                   std::string_view anchor) {
    body_ += " <text" + attribute("x", x) + attribute("y", y) + class_of(style_name) +
             (anchor == "start" ? "" : " text-anchor=\"" + std::string(anchor) + '"') + '>' + xml(text) +
             "</text>\n";
}

std::string Drawing::str() const {
    return body_ + "</svg>\n";
}

std::vector<double> ticks(double largest, int about) {
    if (!(largest > 0.0)) {
        return {0.0, 1.0};
    }
    const double rough = largest / about;
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    double step = 10.0 * power;
    for (const double multiple : {5.0, 2.5, 2.0, 1.0}) {
        step = power * multiple >= rough * 0.999 ? power * multiple : step;
    }
    std::vector<double> found;
    for (int i = 0; i <= static_cast<int>(std::ceil(largest / step - 1e-9)); ++i) {
        found.push_back(i * step);
    }
    return found;
}
