// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

/// exp(x) for x <= 88; below -87.3 it is 0. x = n ln 2 + r with |r| <= ln(2) / 2, then the Taylor series
/// of exp(r) up to r^7 / 7! (remainder at most 5.4e-9 of the value) times 2^n. Error at most 2 units in
/// the last place. ln 2 is split in two so that n times its first part is exact (Cody and Waite, 1980).
/// NaN gives NaN, because min() and max() give their second operand when the other is NaN: what overflowed
/// on the way here must not look like a number afterwards.
GPT2_INLINE F32x16 exp(F32x16 x) {
    const F32x16 lowest = broadcast(-87.33654f);
    const F32x16 clamped = max(lowest, min(broadcast(88.0f), x));
    // Adding 1.5 * 2^23 rounds to an integer, and adding 127 with it leaves the biased exponent of 2^n in
    // the low bits.
    const F32x16 magic = broadcast(12582912.0f + 127.0f);
    const F32x16 shifted = fma(clamped, broadcast(1.44269504f), magic);
    const F32x16 n = sub(shifted, magic);
    const F32x16 high = fma(n, broadcast(-0.693145751953125f), clamped);
    const F32x16 r = fma(n, broadcast(-1.42860677e-6f), high);
    F32x16 series = broadcast(1.0f / 5040.0f);
    series = fma(series, r, broadcast(1.0f / 720.0f));
    series = fma(series, r, broadcast(1.0f / 120.0f));
    series = fma(series, r, broadcast(1.0f / 24.0f));
    series = fma(series, r, broadcast(1.0f / 6.0f));
    series = fma(series, r, broadcast(0.5f));
    series = fma(series, r, broadcast(1.0f));
    series = fma(series, r, broadcast(1.0f));
    return zero_where_less(mul(series, shift_left_23(shifted)), x, lowest);
}

/// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)) with u = sqrt(2/pi) (x + 0.044715 x^3), the tanh form of
/// GELU (Hendrycks and Gimpel, 2016, section 2) that GPT-2 was trained with. Infinities stay infinite or
/// become NaN.
struct GeluTanh {
    static GPT2_INLINE F32x16 of(F32x16 x) {
        const F32x16 square = mul(x, x);
        // -2 sqrt(2/pi) and that times 0.044715
        const F32x16 slope = fma(square, broadcast(-0.07135481283f), broadcast(-1.595769122f));
        const F32x16 one = broadcast(1.0f);
        return div(x, add(one, exp(mul(x, slope))));
    }
};

/// x Phi(x) = 0.5 x (1 + erf(x / sqrt 2)), GELU itself (Hendrycks and Gimpel, 2016, section 2), as
/// max(x, 0) - t (1 - Phi(t)) with t = |x|, where nothing cancels. The tail 1 - Phi(t) is exp(-t^2 / 2) R(t)
/// (the form of Cody, "Rational Chebyshev Approximations for the Error Function", Math. Comp. 23, 1969). R is
/// a quotient of polynomials of degrees 4 and 5, made by tools/fit_gelu.py, with a relative error of at most
/// 1.2e-8; all terms have one sign. With fused multiply-adds the result is within 7 units in the last place
/// down to x = -13, as measured; from there on within 5e-39. Infinities become NaN.
struct GeluErf {
    static GPT2_INLINE F32x16 of(F32x16 x) {
        const F32x16 t = max(x, sub(zero(), x));
        const F32x16 clamped = min(t, broadcast(13.5f)); // from 13.22 on exp() below is 0
        const F32x16 half = mul(clamped, broadcast(-0.5f));
        const F32x16 exponent = mul(half, clamped);
        const F32x16 lost = fma(half, clamped, mul(exponent, broadcast(-1.0f))); // by rounding the exponent
        const F32x16 rounded = exp(exponent);
        const F32x16 density = fma(rounded, lost, rounded);
        F32x16 above = broadcast(-0.00400745869f); // -R, so that the last step is a multiply-add
        above = fma(above, clamped, broadcast(-0.0399123579f));
        above = fma(above, clamped, broadcast(-0.181114569f));
        above = fma(above, clamped, broadcast(-0.435459763f));
        above = fma(above, clamped, broadcast(-0.5f));
        F32x16 below = broadcast(0.0100450674f);
        below = fma(below, clamped, broadcast(0.100052796f));
        below = fma(below, clamped, broadcast(0.46386677f));
        below = fma(below, clamped, broadcast(1.19373894f));
        below = fma(below, clamped, broadcast(1.66880429f));
        below = fma(below, clamped, broadcast(1.0f));
        const F32x16 tail = mul(density, div(above, below));
        return fma(t, tail, zero_where_less(x, x, zero()));
    }
};

/// out = Function::of(x) over n values
template <class Function> GPT2_KERNEL void apply(const float* x, float* out, std::size_t n) {
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        store(out + i, Function::of(load(x + i)));
    }
    if (i < n) {
        store_partial(out + i, Function::of(load_partial(x + i, n - i)), n - i);
    }
}

GPT2_KERNEL void exp_shifted(const float* x, float shift, float* out, std::size_t n) {
    const F32x16 offset = broadcast(shift);
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        store(out + i, exp(sub(load(x + i), offset)));
    }
    if (i < n) {
        store_partial(out + i, exp(sub(load_partial(x + i, n - i), offset)), n - i);
    }
}

/// Two passes, mean first, as the variance of x - mean loses nothing to cancellation. Sums run in sixteen
/// lanes (element i in lane i mod 16) that meet in one fixed tree.
GPT2_KERNEL void layer_norm(const float* x, const float* gain, const float* bias, float epsilon,
                            std::size_t n, float* y) {
    F32x16 total = zero();
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        total = add(total, load(x + i));
    }
    if (i < n) {
        total = add(total, load_partial(x + i, n - i));
    }
    const F32x16 mean = broadcast(sum(total) / static_cast<float>(n));
    F32x16 squares = zero();
    for (i = 0; i + 16 <= n; i += 16) {
        const F32x16 a = sub(load(x + i), mean);
        squares = fma(a, a, squares);
    }
    if (i < n) {
        const F32x16 a = keep_first(sub(load_partial(x + i, n - i), mean), n - i, zero());
        squares = fma(a, a, squares);
    }
    const float variance = sum(squares) / static_cast<float>(n);
    // An infinite variance would leave nothing but the bias; NaN lets the overflow be seen.
    const float root = __builtin_sqrtf(variance + epsilon);
    const F32x16 scale = broadcast(root < __builtin_inff() ? 1.0f / root : __builtin_nanf(""));
    for (i = 0; i + 16 <= n; i += 16) {
        store(y + i, fma(mul(sub(load(x + i), mean), scale), load(gain + i), load(bias + i)));
    }
    if (i < n) {
        const std::size_t rest = n - i;
        const F32x16 a = mul(sub(load_partial(x + i, rest), mean), scale);
        store_partial(y + i, fma(a, load_partial(gain + i, rest), load_partial(bias + i, rest)), rest);
    }
}

} // namespace gpt2::kernels::GPT2_LEVEL
