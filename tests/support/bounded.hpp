// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>

/// @file
/// A number in float64 beside a bound on the error that float32 arithmetic makes on the way to it: a running
/// error analysis (Higham, "Accuracy and Stability of Numerical Algorithms", 3.3). A reference written with
/// it says both what to expect and how close a kernel must come.

namespace gpt2::test {

struct Bounded {
    double value = 0.0;
    double error = 0.0; ///< |float32 result - value| is at most this

    Bounded() = default;
    Bounded(double exact) : value(exact) {}
    Bounded(double v, double e) : value(v), error(e) {}

    /// The largest magnitude that the float32 result can have.
    [[nodiscard]] double magnitude() const { return std::fabs(value) + error; }
};

inline constexpr double unit_roundoff = 0x1p-24;     ///< of float32, to nearest
inline constexpr double smallest_float32 = 0x1p-149; ///< the rounding of subnormal results

/// Adds the rounding of a result, @p times over.
[[nodiscard]] inline Bounded rounded(Bounded a, double times = 1.0) {
    return {a.value, a.error + times * (1.0001 * unit_roundoff * a.magnitude() + smallest_float32)};
}

inline Bounded operator-(Bounded a) {
    return {-a.value, a.error};
}
inline Bounded operator+(Bounded a, Bounded b) {
    return rounded({a.value + b.value, a.error + b.error});
}
inline Bounded operator-(Bounded a, Bounded b) {
    return a + -b;
}
inline Bounded exact_product(Bounded a, Bounded b) {
    return {a.value * b.value, a.magnitude() * b.error + std::fabs(b.value) * a.error};
}
inline Bounded operator*(Bounded a, Bounded b) {
    return rounded(exact_product(a, b));
}
/// @p b is away from 0 by more than its error.
inline Bounded operator/(Bounded a, Bounded b) {
    const double quotient = a.value / b.value;
    return rounded({quotient, (a.error + std::fabs(quotient) * b.error) / (std::fabs(b.value) - b.error)});
}
/// a * b + c with one rounding or two.
inline Bounded multiply_add(Bounded a, Bounded b, Bounded c) {
    return a * b + c;
}
/// The kernels' exponential: 2 units in the last place, each at most two roundings; 0 below 2^-126.
inline Bounded exp(Bounded a) {
    const double value = std::exp(a.value);
    return rounded({value, value * std::expm1(a.error) + 0x1p-126}, 4.0);
}
inline Bounded inverse_sqrt(Bounded a) {
    const double low = 1.0 / std::sqrt(a.value + a.error);
    const double high = 1.0 / std::sqrt(a.value - a.error);
    const double value = 1.0 / std::sqrt(a.value);
    return rounded({value, std::max(high - value, value - low)}, 2.0);
}
inline Bounded relu(Bounded a) {
    return {std::max(a.value, 0.0), a.error};
}
/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as x / (1 + exp(v)). The kernel's exponential ends at
/// 88 (x near -10): from there on the result is x exp(-88) instead of less.
inline Bounded gelu_tanh(Bounded x) {
    const double pi = std::acos(-1.0);
    const Bounded linear = rounded(-2.0 * std::sqrt(2.0 / pi));
    const Bounded cubic = rounded(-2.0 * std::sqrt(2.0 / pi) * 0.044715);
    // x enters four times; its own error is treated apart, by the largest slope of the function, 1.13.
    const Bounded exact = x.value;
    const Bounded v = exact * multiply_add(exact * exact, cubic, linear);
    Bounded y;
    if (v.value + v.error > 87.0) {
        y = {exact.value / (1.0 + std::exp(std::min(v.value, 700.0))),
             std::fabs(exact.value) * std::exp(-87.0)};
        y.error += v.value < 89.0 ? std::fabs(y.value) * std::expm1(v.error) : 0.0;
    } else if (v.value - v.error < -87.0) {
        y = rounded(exact, 2.0);
    } else {
        y = exact / (Bounded(1.0) + exp(v));
    }
    y.error += 1.13 * x.error;
    return y;
}
/// x Phi(x), as max(x, 0) - |x| tail. Two roundings of each of 10 multiply-adds, exp's four, a quotient and a
/// product make 26 of the tail, and the formula is off by less than one more. Where multiply-adds are not
/// fused, t^2 / 2 is rounded before exp is taken of it.
inline Bounded gelu_erf(Bounded x) {
    const double t = std::fabs(x.value);
    const double tail = 0.5 * std::erfc(t / std::sqrt(2.0));
    const double exponent_error = tail * std::expm1(std::min(0.5 * t * t, 1e3) * unit_roundoff);
    Bounded y =
        Bounded(std::max(x.value, 0.0)) - Bounded(t) * rounded({tail, exponent_error + 0x1p-126}, 27.0);
    y.error += 1.13 * x.error; // the largest slope
    return y;
}

} // namespace gpt2::test
