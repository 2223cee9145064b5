// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/huge_pages.hpp"
#include "gpt2/linear.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/quantize.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// The output head when only the largest logits matter: all of them roughly, from an int8 copy of the
/// weights, and those that may be among the largest exactly. The token is the same as with all logits.
///
/// **The bound.** Let s be the exact head's logit of an output, a float, w its weights, v those of the int8
/// copy, both as real numbers. The row x is split into a quantised row a, b, the quantised rest x - a, and
/// what is left, r = x - a - b; so x w = (w - v) x + v a + v b + v r. The copy gives p and q, floats near v a
/// and v b. With u = 2^-24, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical
/// Algorithms, 2002, lemma 3.1 and section 3.1), K inputs in G groups and Cauchy-Schwarz throughout:
///
///   |s - x w|           <= gamma(2 K + 2) |x| |w|     a chain of multiply-adds of two roundings each at most
///   |(w - v) x|         <= |w - v| |x|
///   |v r|               <= |v| |r|
///   |p + q - v (a + b)| <= gamma(2 G + 8) |v| (|a| + |b|)   the sums within a group are exact; with room for
///                                               the roundings of p + q and of the interval's ends
///
/// |s - (p + q)| is at most the sum, B = A |w - v| + C max(|w|, |v|), where A and C depend on x alone, and
/// the other norms are two floats for each output. They are computed in double and made larger by 2^-20,
/// which is more than is lost to rounding; 2^-100 is more than is lost to numbers below the normal ones.
///
/// **Why the token is the same.** l = p + q - B <= s <= p + q + B = h. Let t be the k-th largest of the
/// logits, after the repetition penalty, and T the k-th largest of the l after it. The penalty preserves
/// order, so k logits are at least T, and T <= t. An output with h < T has s < t: it is not among the k
/// largest and equals none of them. All others are computed exactly, by the same kernel as without
/// screening, to the same bits, so what Candidates asks for is there; the rest become -infinity.
///
/// Only numbers that cannot overflow are screened: with |x| max|w| < 2^120 every logit is finite. Anything
/// else, infinities and NaN included, goes through the whole head, where it is found.

namespace gpt2 {

/// An int8 copy of an output head, and how far it may be off. Immutable and thread-safe.
class ScreenedHead {
public:
    /// Scratch of one caller, its result, and what it learnt about whether screening pays.
    struct State {
        Tensor<float, 1> logits;  ///< [V], the result
        std::size_t computed = 0; ///< panels that were computed exactly for it
        bool screened = false;    ///< whether there was a choice

        /// [2, V]: l and h of a row that was screened, after the penalty.
        [[nodiscard]] TensorView<const float, 2> bounds() const noexcept { return bounds_.view(); }

    private:
        friend class ScreenedHead;
        Tensor<float, 2> rows_;   ///< [2, C]: x and x - a
        Tensor<float, 2> bounds_; ///< [2, V]: first p and q, then l and h
        Tensor<std::byte, 1> quantized_;
        PackedRows packed_;
        std::optional<detail::TopK> largest_;
        std::vector<std::size_t> panels_; ///< to be computed exactly
        std::size_t pause_ = 0;           ///< rows that will not be screened
        std::size_t next_pause_ = 1;
    };

    /// @param head  in a floating-point format
    /// @throws OptionError for one in an integer format, NumericError if a weight is not finite
    [[nodiscard]] static ScreenedHead of(const PackedMatrix& head, ThreadPool& pool) {
        if (kernels::is_integer(head.type())) {
            throw OptionError(detail::concat("screen_head: expected an output head in float32, float16 or "
                                             "bfloat16, found one in ",
                                             to_string(head.type()),
                                             ", which costs no more than its screen"));
        }
        ScreenedHead screen;
        screen.measure(head, pool);
        return screen;
    }

    /// The logits of one row that decide a token: those that @p wanted asks for are exact, the others are
    /// exact or -infinity.
    /// @param head  the one that this is a copy of
    /// @param x     [C]
    void forward(const Compute& compute, const Linear& head, const float* x, const Candidates& wanted,
                 State& state) const {
        prepare(state);
        const std::size_t panels = kernels::panel_count(head.weight().n_outputs());
        state.screened = false;
        state.panels_.clear();
        if (state.pause_ > 0) {
            --state.pause_;
        } else if (const auto factors = split(compute, x, state)) {
            bound(compute, *factors, state);
            select(wanted, state);
            state.screened = true;
            learn(head.weight(), state);
        }
        if (!state.screened) {
            for (std::size_t panel = 0; panel < panels; ++panel) {
                state.panels_.push_back(panel);
            }
        }
        state.computed = state.panels_.size();
        std::fill_n(state.logits.data(), state.logits.size(), -std::numeric_limits<float>::infinity());
        state.packed_.pack(compute, head.weight().type(), x, 1, head.weight().n_inputs());
        const std::size_t grain = std::max<std::size_t>(1, state.computed / (compute.pool.size() * 16));
        compute.pool.parallel_for(state.computed, grain, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                head.forward_panels(compute, state.packed_.tile(), state.packed_.from_row(0), 1,
                                    state.logits.data(), kernels::Epilogue::store, state.panels_[i],
                                    state.panels_[i] + 1);
            }
        });
    }

    [[nodiscard]] std::size_t n_inputs() const noexcept { return copy_.weight().n_inputs(); }
    [[nodiscard]] std::size_t n_outputs() const noexcept { return copy_.weight().n_outputs(); }

    /// Bytes of the copy and of the norms.
    [[nodiscard]] std::size_t bytes() const noexcept {
        return copy_.weight().bytes() + (differences_.size() + norms_.size()) * sizeof(float);
    }

private:
    static constexpr double inflation = 1.0 + 0x1p-20;
    static constexpr double overflow_limit = 0x1p120;

    /// A and C of the bound.
    struct Factors {
        float of_difference;
        float of_norm;
    };

    /// gamma(n) = n u / (1 - n u)
    [[nodiscard]] static double gamma(std::size_t n) noexcept {
        const double nu = static_cast<double>(n) * 0x1p-24;
        return nu / (1.0 - nu);
    }

    [[nodiscard]] static float rounded_up(double x) noexcept {
        return static_cast<float>(x * inflation + 0x1p-126);
    }

    /// Makes the copy and both norms of each output.
    void measure(const PackedMatrix& head, ThreadPool& pool) {
        const std::size_t K = head.n_inputs();
        const std::size_t V = head.n_outputs();
        const std::size_t panels = kernels::panel_count(V);
        const std::size_t bytes = kernels::panel_bytes(WeightType::int8, K);
        const auto memory =
            std::make_shared<Tensor<std::byte, 1>>(Tensor<std::byte, 1>::Shape{panels * bytes});
        detail::prefer_huge_pages(memory->data(), memory->size());
        norms_ = Tensor<float, 1>({V});
        differences_ = Tensor<float, 1>({V});
        pool.parallel_for(panels, 8, [&](std::size_t begin, std::size_t end) {
            std::vector<float> weights(K * kernels::panel_width); // [K][32]
            std::vector<float> output(K);
            for (std::size_t panel = begin; panel < end; ++panel) {
                const std::size_t first = panel * kernels::panel_width;
                std::ranges::fill(weights, 0.0f);
                for (std::size_t lane = 0; lane < std::min(kernels::panel_width, V - first); ++lane) {
                    head.read_output(first + lane, output.data());
                    for (std::size_t k = 0; k < K; ++k) {
                        weights[k * kernels::panel_width + lane] = output[k];
                    }
                }
                require_finite(weights, panel);
                std::byte* const copy = memory->data() + panel * bytes;
                detail::encode_panel(WeightType::int8, weights.data(), K, copy);
                measure_panel(weights, copy, panel);
            }
        });
        copy_ = Linear(PackedMatrix::of_panels(WeightType::int8, K, V,
                                               std::shared_ptr<const std::byte>(memory, memory->data())),
                       {});
        largest_norm_ = static_cast<double>(detail::max_of(norms_.flat()));
    }

    /// @param weights  [K][32], exact
    void measure_panel(std::span<const float> weights, const std::byte* copy, std::size_t panel) {
        const std::size_t first = panel * kernels::panel_width;
        std::vector<float> v(weights.size() / kernels::panel_width);
        for (std::size_t lane = 0; lane < std::min(kernels::panel_width, norms_.size() - first); ++lane) {
            kernels::read_lane(WeightType::int8, copy, v.size(), lane, v.data());
            double of_w = 0.0;
            double of_v = 0.0;
            double of_difference = 0.0;
            for (std::size_t k = 0; k < v.size(); ++k) {
                const auto a = static_cast<double>(weights[k * kernels::panel_width + lane]);
                const auto b = static_cast<double>(v[k]);
                of_w += a * a;
                of_v += b * b;
                of_difference += (a - b) * (a - b);
            }
            norms_.data()[first + lane] = rounded_up(std::sqrt(std::max(of_w, of_v)));
            differences_.data()[first + lane] = rounded_up(std::sqrt(of_difference));
        }
    }

    static void require_finite(std::span<const float> weights, std::size_t panel) {
        if (!detail::all_finite(weights)) {
            const std::size_t first = panel * kernels::panel_width;
            throw NumericError(
                detail::concat("screen_head: expected finite weights of the output head, found "
                               "others among those of tokens ",
                               first, " to ", first + kernels::panel_width - 1));
        }
    }

    void prepare(State& state) const {
        if (state.logits.size() == n_outputs() && state.rows_.dim(1) == n_inputs()) {
            return;
        }
        state.logits = Tensor<float, 1>({n_outputs()});
        state.rows_ = Tensor<float, 2>({2, n_inputs()});
        state.bounds_ = Tensor<float, 2>({2, n_outputs()});
        const kernels::UnitShape unit = kernels::int8_unit;
        state.quantized_ =
            Tensor<std::byte, 1>({kernels::unit_count(WeightType::int8, n_inputs()) * unit.x_bytes});
        state.largest_.emplace(n_outputs());
        state.panels_.reserve(kernels::panel_count(n_outputs()));
    }

    /// Quantises a row and writes what is lost by that. @returns the squared norm of what it became
    static double quantize(const Compute& compute, const float* row, std::size_t n, State& state,
                           double* lost) {
        compute.kernels.quantize_rows({.type = WeightType::int8,
                                       .x = row,
                                       .stride = n,
                                       .rows = 1,
                                       .n_inputs = n,
                                       .tile = 1,
                                       .out = state.quantized_.data()});
        constexpr kernels::UnitShape unit = kernels::int8_unit;
        double squares = 0.0;
        for (std::size_t k = 0; k < n; ++k) {
            const std::byte* const group = state.quantized_.data() + k / unit.group * unit.x_bytes;
            float scale = 0.0f;
            std::memcpy(&scale, group + unit.group, sizeof scale);
            const auto q = static_cast<std::int8_t>(group[k % unit.group]);
            const double value = static_cast<double>(q) * static_cast<double>(scale); // exact
            lost[k] -= value;
            squares += value * value;
        }
        return squares;
    }

    /// Writes both rows, x and x - a, and computes A and C. @returns nothing if something might overflow
    [[nodiscard]] std::optional<Factors> split(const Compute& compute, const float* x, State& state) const {
        const std::size_t K = n_inputs();
        float* const rows = state.rows_.data();
        std::copy_n(x, K, rows);
        std::vector<double> rest(x, x + K);
        const auto norm = [&rest] {
            double squares = 0.0;
            for (const double value : rest) {
                squares += value * value;
            }
            return std::sqrt(squares);
        };
        const double of_x = norm();
        if (!(of_x < overflow_limit && of_x * largest_norm_ < overflow_limit)) { // a NaN too
            return std::nullopt;
        }
        const double of_a = std::sqrt(quantize(compute, rows, K, state, rest.data()));
        for (std::size_t k = 0; k < K; ++k) {
            rows[K + k] = static_cast<float>(rest[k]);
        }
        const double of_b = std::sqrt(quantize(compute, rows + K, K, state, rest.data()));
        const double of_rest = norm() + of_x * 0x1p-40; // what the differences were rounded by
        const std::size_t groups = kernels::unit_count(WeightType::int8, K);
        return Factors{rounded_up(of_x),
                       rounded_up(gamma(2 * K + 2) * of_x + of_rest + gamma(2 * groups + 8) * (of_a + of_b))};
    }

    /// l and h of each output.
    void bound(const Compute& compute, const Factors& factors, State& state) const {
        state.packed_.pack(compute, WeightType::int8, state.rows_.data(), 2, n_inputs());
        const std::size_t V = n_outputs();
        const std::size_t panels = kernels::panel_count(V);
        const std::size_t grain = std::max<std::size_t>(1, panels / (compute.pool.size() * 16));
        compute.pool.parallel_for(panels, grain, [&](std::size_t begin, std::size_t end) {
            copy_.forward_panels(compute, state.packed_.tile(), state.packed_.from_row(0), 2,
                                 state.bounds_.data(), kernels::Epilogue::store, begin, end);
            float* const low = state.bounds_.data();
            float* const high = low + V;
            const std::size_t last = std::min(V, end * kernels::panel_width);
            for (std::size_t n = begin * kernels::panel_width; n < last; ++n) {
                const float middle = low[n] + high[n];
                const float radius =
                    (factors.of_difference * differences_.data()[n] + factors.of_norm * norms_.data()[n]) *
                        static_cast<float>(inflation) +
                    0x1p-100f;
                low[n] = middle - radius;
                high[n] = middle + radius;
            }
        });
    }

    /// Lists the panels with an output whose h reaches the k-th largest l.
    void select(const Candidates& wanted, State& state) const {
        const std::span<float> low(state.bounds_.data(), wanted.n_tokens);
        const std::span<float> high(state.bounds_.data() + n_outputs(), wanted.n_tokens);
        if (wanted.repetition_penalty != 1.0f) {
            for (const TokenId token : wanted.penalized) {
                const auto n = static_cast<std::size_t>(token);
                low[n] = detail::penalized(low[n], wanted.repetition_penalty);
                high[n] = detail::penalized(high[n], wanted.repetition_penalty);
            }
        }
        float threshold = 0.0f;
        if (wanted.k == 1) {
            threshold = detail::max_of(low);
        } else {
            state.largest_->select(low, wanted.k);
            threshold = std::ranges::min(state.largest_->values());
        }
        for (std::size_t first = 0; first < high.size(); first += kernels::panel_width) {
            const auto outputs = high.subspan(first, std::min(kernels::panel_width, high.size() - first));
            if (detail::max_of(outputs) >= threshold) {
                state.panels_.push_back(first / kernels::panel_width);
            }
        }
    }

    /// Where more bytes were read than the whole head has, the next rows are not screened: 1, 2, 4 ... 64 of
    /// them, until it pays again.
    void learn(const PackedMatrix& head, State& state) const {
        const std::size_t exact = state.panels_.size() * kernels::panel_bytes(head.type(), head.n_inputs());
        if (exact + bytes() < head.bytes()) {
            state.next_pause_ = 1;
        } else {
            state.pause_ = state.next_pause_;
            state.next_pause_ = std::min<std::size_t>(2 * state.next_pause_, 64);
        }
    }

    Linear copy_;
    Tensor<float, 1> norms_;       ///< [V] max(|w|, |v|), or more
    Tensor<float, 1> differences_; ///< [V] |w - v|, or more
    double largest_norm_ = 0.0;
};

} // namespace gpt2
