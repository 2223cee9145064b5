// SPDX-License-Identifier: MIT
#pragma once

#include "models.hpp"

#include <gpt2/config.hpp>
#include <gpt2/io/checkpoint.hpp>
#include <gpt2/kernels/kernels.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// GPT-2 in float64, straight from the formulas, and how far float32 arithmetic may be from it.
///
/// Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the original code
/// (openai/gpt-2, src/model.py) for what the paper leaves open. The whole sequence goes through at once,
/// there is no cache, and nothing is shared with the library but the reading of files.
///
/// The error of float32 arithmetic. Worst-case bounds multiply from layer to layer (each by the norm of a
/// weight matrix) and after a few layers say nothing. Instead, beside each number goes the *variance* of the
/// error that float32 arithmetic makes in it, by these rules:
///
/// - One rounding errs by at most u |result|, u = 2^-24. It is taken as uniformly distributed in that range:
///   variance (u result)^2 / 3. The size of the result is known, as the reference computes it: in a chain of
///   multiply-adds, that of each partial sum. (A running error analysis: Higham, "Accuracy and Stability of
///   Numerical Algorithms", 2nd ed., section 3.3.)
/// - Errors are taken as independent with mean zero, so variances add up, and through an operation they go by
///   its derivatives. That this describes rounding errors well is the subject of Higham and Mary, "A New
///   Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41 (2019), A2815.
///
/// A logit is an affine function of very many such errors, so nearly normally distributed; `tolerance`
/// standard deviations are the bound.

namespace gpt2::test {

/// Standard deviations. A normal variable exceeds 6 once in 5e8 cases, and the tests look at some 1e6; the
/// rest is for errors that are not as independent as assumed. (The tests print what they met: 3 to 6.)
inline constexpr double tolerance = 8.0;

using Matrix = Eigen::Array<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::Array<double, 1, Eigen::Dynamic>;

/// Exact numbers and the variances of the errors that float32 arithmetic makes in them, both [T, N].
struct Estimate {
    Matrix value;
    Matrix variance;

    Estimate(Eigen::Index rows, Eigen::Index columns)
        : value(Matrix::Zero(rows, columns)), variance(Matrix::Zero(rows, columns)) {}
};

namespace detail {

/// The variance of one rounding of a number with this square.
[[nodiscard]] constexpr double rounding(double square) noexcept {
    return 0x1p-48 / 3.0 * square;
}

/// exp of the kernels: at most 2 units in the last place, that is 4 u of the value; as a relative variance.
inline constexpr double exp_variance = 16.0 * 0x1p-48 / 3.0;

/// A chain of multiply-adds from 0.
struct Chain {
    double sum = 0.0;
    double squares = 0.0; ///< of all partial sums
    double spread = 0.0;  ///< variance that comes from the factors' own

    void add(double x, double x_variance, double y, double y_variance) {
        sum += x * y;
        squares += sum * sum;
        spread += x_variance * y * y + x * x * y_variance;
    }
    [[nodiscard]] double variance() const { return spread + rounding(squares); }
};

} // namespace detail

/// What lies between tokens and logits.
struct Inside {
    std::vector<Estimate> hidden_states;      ///< [n_layer + 1] of [T, C]
    std::vector<Estimate> last_hidden_states; ///< one, behind ln_f
    std::vector<Estimate> attention;          ///< [n_layer * H] of [T, T], 0 above the diagonal
};

/// A model in float64.
class Reference {
public:
    /// @param type  matrices are rounded to it, as LoadOptions::weights asks
    explicit Reference(const Checkpoint& checkpoint, std::optional<WeightType> type = {})
        : config_(checkpoint.config()), separate_head_(checkpoint.has_separate_head()) {
        for (const ExpectedTensor& tensor : expected_tensors(config_, separate_head_)) {
            std::vector<float> values = widened(checkpoint.tensor(tensor.name));
            if (tensor.shape.size() == 2 && tensor.name != "wpe.weight") {
                for (float& value : values) {
                    value = type == WeightType::float16    ? static_cast<float>(half(value))
                            : type == WeightType::bfloat16 ? static_cast<float>(bfloat16(value))
                                                           : value;
                }
            }
            tensors_.emplace(tensor.name, std::move(values));
        }
    }

    /// @returns the logits [T - first, V] after tokens first, first + 1, ... of a sequence that begins with
    ///          @p tokens[0]
    /// @param inside  if not null, receives what lies between
    [[nodiscard]] Estimate logits(std::span<const TokenId> tokens, std::size_t first,
                                  KvDtype cache = KvDtype::float32, Inside* inside = nullptr) const {
        Estimate x = embeddings(tokens);
        for (std::size_t layer = 0; layer < config_.n_layer; ++layer) {
            if (inside != nullptr) {
                inside->hidden_states.push_back(x);
            }
            const std::string name = gpt2::detail::concat("h.", layer, '.');
            const Estimate qkv = linear(layer_norm(x, name + "ln_1"), name + "attn.c_attn");
            add(x, linear(attention(qkv, layer, cache, inside), name + "attn.c_proj"));
            const Estimate inner = linear(layer_norm(x, name + "ln_2"), name + "mlp.c_fc");
            add(x, linear(activation(inner), name + "mlp.c_proj"));
        }
        if (inside != nullptr) {
            inside->hidden_states.push_back(x);
            inside->last_hidden_states.push_back(layer_norm(x, "ln_f"));
        }
        const auto from = static_cast<Eigen::Index>(first);
        Estimate wanted(x.value.rows() - from, x.value.cols());
        wanted.value = x.value.bottomRows(wanted.value.rows());
        wanted.variance = x.variance.bottomRows(wanted.value.rows());
        return head(layer_norm(wanted, "ln_f"));
    }

private:
    using Weights = Eigen::Map<const Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

    [[nodiscard]] Weights matrix(std::string_view name, std::size_t rows, std::size_t columns) const {
        const std::vector<float>& values = tensors_.find(name)->second;
        return {values.data(), static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns)};
    }
    [[nodiscard]] Vector vector(std::string_view name) const {
        return matrix(name, 1, tensors_.find(name)->second.size()).row(0).cast<double>();
    }

    /// wte[token] + wpe[position]
    [[nodiscard]] Estimate embeddings(std::span<const TokenId> tokens) const {
        const Weights wte = matrix("wte.weight", config_.vocab_size, config_.n_embd);
        const Weights wpe = matrix("wpe.weight", config_.n_positions, config_.n_embd);
        Estimate x(static_cast<Eigen::Index>(tokens.size()), static_cast<Eigen::Index>(config_.n_embd));
        for (Eigen::Index t = 0; t < x.value.rows(); ++t) {
            const TokenId token = tokens[static_cast<std::size_t>(t)];
            x.value.row(t) = wte.row(token).cast<double>() + wpe.row(t).cast<double>();
        }
        x.variance = detail::rounding(1.0) * x.value.square();
        return x;
    }

    /// x += y
    static void add(Estimate& x, const Estimate& y) {
        x.value += y.value;
        x.variance += y.variance + detail::rounding(1.0) * x.value.square();
    }

    /// y = (x - mean) / sqrt(variance + epsilon) * gain + bias. Sums run in 16 lanes: an element passes
    /// through n / 16 + 4 additions, each of a partial sum that is at most the sum of all magnitudes.
    [[nodiscard]] Estimate layer_norm(const Estimate& x, const std::string& name) const {
        const Vector gain = vector(name + ".weight");
        const Vector bias = vector(name + ".bias");
        const auto n = static_cast<double>(gain.size());
        const double additions = n / 16.0 + 5.0;
        Estimate y(x.value.rows(), x.value.cols());
        for (Eigen::Index t = 0; t < x.value.rows(); ++t) {
            const double mean = x.value.row(t).mean();
            const double mean_variance =
                x.variance.row(t).sum() / (n * n) +
                additions * detail::rounding(std::pow(x.value.row(t).abs().mean(), 2));
            const Vector d = x.value.row(t) - mean;
            const Vector d_variance = x.variance.row(t) + mean_variance + detail::rounding(1.0) * d.square();
            const double variance = d.square().mean();
            const double root = variance + static_cast<double>(config_.layer_norm_epsilon);
            const double scale = 1.0 / std::sqrt(root);
            // Relative, of 1 / sqrt(root): half of the root's, and three roundings.
            const double root_variance = 4.0 / (n * n) * (d.square() * d_variance).sum() +
                                         (additions + 2.0) * detail::rounding(variance * variance);
            const double scale_variance = 0.25 * root_variance / (root * root) + detail::rounding(3.0);
            y.value.row(t) = d * scale * gain + bias;
            y.variance.row(t) = (d_variance + d.square() * (scale_variance + detail::rounding(1.0))) *
                                    (scale * gain).square() +
                                detail::rounding(1.0) * y.value.row(t).square();
        }
        return y;
    }

    /// y = x W + b with W [K, N]
    [[nodiscard]] Estimate linear(const Estimate& x, const std::string& name) const {
        const Vector bias = vector(name + ".bias");
        const auto n_inputs = static_cast<std::size_t>(x.value.cols());
        const Weights weights = matrix(name + ".weight", n_inputs, static_cast<std::size_t>(bias.size()));
        Estimate y(x.value.rows(), bias.size());
        for (Eigen::Index t = 0; t < x.value.rows(); ++t) {
            Vector sum = bias;
            Vector squares = Vector::Zero(bias.size());
            Vector spread = Vector::Zero(bias.size());
            for (Eigen::Index k = 0; k < x.value.cols(); ++k) {
                const auto w = weights.row(k).cast<double>();
                sum += x.value(t, k) * w;
                squares += sum.square();
                spread += x.variance(t, k) * w.square();
            }
            y.value.row(t) = sum;
            y.variance.row(t) = spread + detail::rounding(1.0) * squares;
        }
        return y;
    }

    /// x W^T with W [V, C]
    [[nodiscard]] Estimate head(const Estimate& x) const {
        const Weights weights =
            matrix(separate_head_ ? "lm_head.weight" : "wte.weight", config_.vocab_size, config_.n_embd);
        Estimate y(x.value.rows(), weights.rows());
        for (Eigen::Index t = 0; t < x.value.rows(); ++t) {
            for (Eigen::Index v = 0; v < weights.rows(); ++v) {
                detail::Chain chain;
                for (Eigen::Index k = 0; k < weights.cols(); ++k) {
                    chain.add(x.value(t, k), x.variance(t, k), static_cast<double>(weights(v, k)), 0.0);
                }
                y.value(t, v) = chain.sum;
                y.variance(t, v) = chain.variance();
            }
        }
        return y;
    }

    [[nodiscard]] Estimate activation(const Estimate& x) const {
        Estimate y(x.value.rows(), x.value.cols());
        for (Eigen::Index i = 0; i < x.value.size(); ++i) {
            const double z = x.value.data()[i];
            double& value = y.value.data()[i];
            double& variance = y.variance.data()[i];
            if (config_.activation == Activation::relu) {
                value = std::max(z, 0.0);
                variance = z > 0.0 ? x.variance.data()[i] : 0.0;
                continue;
            }
            if (config_.activation == Activation::gelu_erf) {
                // max(z, 0) - |z| tail: 10 multiply-adds, a quotient, a product and exp on the way to the
                // tail, then a multiply-add.
                const double tail = 0.5 * std::erfc(std::fabs(z) / std::sqrt(2.0));
                const double density = std::exp(-0.5 * z * z) / std::sqrt(2.0 * 3.14159265358979323846);
                const double slope = (z < 0.0 ? tail : 1.0 - tail) + z * density;
                value = std::max(z, 0.0) - std::fabs(z) * tail;
                variance = slope * slope * x.variance.data()[i] + detail::rounding(value * value) +
                           (detail::rounding(12.0) + detail::exp_variance) * z * z * tail * tail;
                continue;
            }
            const double c = std::sqrt(2.0 / 3.14159265358979323846);
            const double inner = c * (z + 0.044715 * z * z * z);
            const double tanh = std::tanh(inner);
            value = 0.5 * z * (1.0 + tanh);
            const double slope =
                0.5 * (1.0 + tanh) + 0.5 * z * (1.0 - tanh * tanh) * c * (1.0 + 3.0 * 0.044715 * z * z);
            // The kernel's form is z / (1 + e^a) with a = -2 inner. Roundings of z^2, of the polynomial with
            // its two constants and of the product reach a as 5 relative errors, and e^a times a share of
            // them; then a sum and a quotient.
            const double a = -2.0 * inner;
            const double share = 0.5 * (1.0 - tanh); // e^a / (1 + e^a)
            const double relative = (detail::rounding(5.0 * a * a) + detail::exp_variance) * share * share +
                                    detail::rounding(2.0);
            variance = slope * slope * x.variance.data()[i] + relative * value * value;
        }
        return y;
    }

    /// softmax(Q K^T / sqrt(D)) V per head, causal; x is [T, 3 C]: queries, keys, values.
    [[nodiscard]] Estimate attention(const Estimate& x, std::size_t layer, KvDtype cache,
                                     Inside* inside) const {
        const auto C = static_cast<Eigen::Index>(config_.n_embd);
        const auto D = static_cast<Eigen::Index>(config_.head_size());
        double scale = config_.scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(D)) : 1.0;
        if (config_.scale_attn_by_inverse_layer_idx) {
            scale /= static_cast<double>(layer + 1);
        }
        Estimate q(x.value.rows(), C); // scaled: roundings of the root, two quotients and the product
        q.value = scale * x.value.leftCols(C);
        q.variance = scale * scale * x.variance.leftCols(C) + detail::rounding(4.0) * q.value.square();
        Estimate kv(x.value.rows(), 2 * C);
        kv.value = x.value.rightCols(2 * C);
        kv.variance = x.variance.rightCols(2 * C);
        if (cache == KvDtype::float16) { // u is 2^-11, and subnormal numbers are multiples of 2^-24
            kv.variance += (0x1p-11 * kv.value.abs()).max(0x1p-25).square() / 3.0;
        }
        Estimate y(x.value.rows(), C);
        for (Eigen::Index head = 0; head < C; head += D) {
            if (inside != nullptr) {
                inside->attention.emplace_back(x.value.rows(), x.value.rows());
            }
            for (Eigen::Index t = 0; t < x.value.rows(); ++t) {
                attend(q, kv, head, D, t, y, inside);
            }
        }
        return y;
    }

    /// One query of one head.
    static void attend(const Estimate& q, const Estimate& kv, Eigen::Index head, Eigen::Index D,
                       Eigen::Index t, Estimate& y, Inside* inside) {
        const Eigen::Index C = q.value.cols();
        Vector score(t + 1);
        Vector error(t + 1); // variance of each score, and so of the logarithm of each weight
        for (Eigen::Index j = 0; j <= t; ++j) {
            detail::Chain chain;
            for (Eigen::Index d = head; d < head + D; ++d) {
                chain.add(q.value(t, d), q.variance(t, d), kv.value(j, d), kv.variance(j, d));
            }
            score[j] = chain.sum;
            error[j] = chain.variance();
        }
        // Weights are e^(score - maximum): a rounding of the difference, and exp. After each 64 positions the
        // maximum may rise, and everything before is multiplied by another such number, with another
        // rounding.
        const double blocks = static_cast<double>(t / 64 + 1);
        const double range = score.maxCoeff() - score.minCoeff();
        const Vector below = score - score.maxCoeff();
        error += detail::rounding(1.0) * below.square() + detail::exp_variance +
                 (blocks - 1.0) * (detail::rounding(range * range + 1.0) + detail::exp_variance);
        Vector p = below.exp();
        p /= p.sum();
        if (inside != nullptr) { // d p_j / d score_k = p_j ((j = k) - p_k), and one rounding of the result
            Estimate& weights = inside->attention.back();
            weights.value.row(t).head(t + 1) = p;
            weights.variance.row(t).head(t + 1) =
                p.square() * ((1.0 - 2.0 * p) * error + (p.square() * error).sum() + detail::rounding(1.0));
        }
        for (Eigen::Index d = head; d < head + D; ++d) {
            detail::Chain chain;
            for (Eigen::Index j = 0; j <= t; ++j) {
                chain.add(p[j], 0.0, kv.value(j, C + d), kv.variance(j, C + d));
            }
            // d out / d score_j = p_j (v_j - out). The sum of the weights takes 8 additions and one for each
            // block, the quotient is one more rounding.
            const Vector v = kv.value.col(C + d).head(t + 1).transpose();
            y.value(t, d) = chain.sum;
            y.variance(t, d) = chain.variance() + ((p * (v - chain.sum)).square() * error).sum() +
                               detail::rounding((9.0 + blocks) * chain.sum * chain.sum);
        }
    }

    Config config_;
    bool separate_head_;
    std::map<std::string, std::vector<float>, std::less<>> tensors_;
};

/// How far @p found is from row @p t of the reference: the largest error among the logits in standard
/// deviations. Infinite if a number is not finite.
[[nodiscard]] inline double deviations(const Estimate& expected, Eigen::Index t,
                                       std::span<const float> found) {
    if (found.size() != static_cast<std::size_t>(expected.value.cols())) {
        return HUGE_VAL;
    }
    double most = 0.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const auto v = static_cast<Eigen::Index>(i);
        const double error = static_cast<double>(found[i]) - expected.value(t, v);
        if (!std::isfinite(error)) {
            return HUGE_VAL;
        }
        most = std::max(most, std::fabs(error) / std::sqrt(expected.variance(t, v)));
    }
    return most;
}

/// log softmax(logits)[token] of row @p t, and the variance of its error in float32 arithmetic: the
/// logarithm's derivative by logit v is [v = token] - p_v. Session::score adds its own 3e-7, and rounds.
[[nodiscard]] inline std::pair<double, double> log_probability(const Estimate& logits, Eigen::Index t,
                                                               TokenId token) {
    const Vector below = logits.value.row(t) - logits.value.row(t).maxCoeff();
    const double value = below[token] - std::log(below.exp().sum());
    Vector slope = -(below.exp() / below.exp().sum());
    slope[token] += 1.0;
    return {value, (slope.square() * logits.variance.row(t)).sum() + 9e-14 + detail::rounding(value * value)};
}

} // namespace gpt2::test
