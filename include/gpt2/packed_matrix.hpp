// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/huge_pages.hpp"
#include "gpt2/io/checkpoint_tensor.hpp"
#include "gpt2/kernels/panel.hpp"
#include "gpt2/quantize.hpp"
#include "gpt2/tensor.hpp"
#include "gpt2/thread_pool.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// A weight matrix in the layout of the kernels.

namespace gpt2 {

/// How the matrix of a checkpoint lies in its file.
enum class MatrixLayout {
    inputs_by_outputs, ///< [K, N], Conv1D
    outputs_by_inputs, ///< [N, K], embeddings and nn.Linear
};

/// How the checkpoint has the matrix of that name.
[[nodiscard]] inline MatrixLayout matrix_layout(std::string_view name) noexcept {
    return name == "wte.weight" || name == "lm_head.weight" ? MatrixLayout::outputs_by_inputs
                                                            : MatrixLayout::inputs_by_outputs;
}

namespace detail {

/// Calls @p body with a value of the C++ type of a tensor that a Checkpoint has made sure to be one of these.
template <class Body> decltype(auto) with_float_type(Dtype dtype, Body&& body) {
    switch (dtype) {
    case Dtype::F16:
        return body(half{});
    case Dtype::BF16:
        return body(bfloat16{});
    default:
        return body(float{});
    }
}

/// The type in which a tensor of a checkpoint is kept as it is.
[[nodiscard]] inline WeightType weight_type_of(Dtype dtype) noexcept {
    return dtype == Dtype::F16 ? WeightType::float16
                               : (dtype == Dtype::BF16 ? WeightType::bfloat16 : WeightType::float32);
}

/// The weights of one panel, [K][32], from a tensor at any address; outputs past N are zeros.
template <class Source>
void read_panel(const std::byte* source, MatrixLayout layout, std::size_t n_inputs, std::size_t n_outputs,
                std::size_t panel, float* out) {
    const std::size_t first = panel * kernels::panel_width;
    const std::size_t lanes = std::min(kernels::panel_width, n_outputs - first);
    const auto element = [&](std::size_t index) {
        Source value;
        std::memcpy(&value, source + index * sizeof(Source), sizeof(Source));
        return static_cast<float>(value);
    };
    std::fill_n(out, n_inputs * kernels::panel_width, 0.0f);
    if (layout == MatrixLayout::inputs_by_outputs) {
        for (std::size_t k = 0; k < n_inputs; ++k) {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                out[k * kernels::panel_width + lane] = element(k * n_outputs + first + lane);
            }
        }
    } else {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            for (std::size_t k = 0; k < n_inputs; ++k) {
                out[k * kernels::panel_width + lane] = element((first + lane) * n_inputs + k);
            }
        }
    }
}

} // namespace detail

/// A weight matrix of K inputs and N outputs in panels (kernels/panel.hpp), in one of the weight formats.
/// Immutable and thread-safe; copies share the memory.
class PackedMatrix {
public:
    PackedMatrix() = default;

    /// Packs a tensor of a checkpoint.
    /// @param type  the format to store; unlike the tensor's own, values are rounded to it
    /// @throws NumericError naming the tensor if a value becomes infinite by that
    [[nodiscard]] static PackedMatrix pack(const CheckpointTensor& tensor, MatrixLayout layout,
                                           WeightType type, ThreadPool& pool) {
        const std::size_t n_inputs = tensor.shape[layout == MatrixLayout::inputs_by_outputs ? 0 : 1];
        const std::size_t n_outputs = tensor.shape[layout == MatrixLayout::inputs_by_outputs ? 1 : 0];
        return detail::with_float_type(tensor.dtype, [&]<class Source>(Source) {
            return build(type, n_inputs, n_outputs, pool, tensor.name, [&](std::size_t panel, float* out) {
                detail::read_panel<Source>(tensor.data.data(), layout, n_inputs, n_outputs, panel, out);
            });
        });
    }

    /// A matrix whose panels are there already.
    /// @param panels  panel_count(N) times panel_bytes(type, K) at an address that suits the type, and what
    ///                keeps them alive
    [[nodiscard]] static PackedMatrix of_panels(WeightType type, std::size_t n_inputs, std::size_t n_outputs,
                                                std::shared_ptr<const std::byte> panels) noexcept {
        PackedMatrix matrix;
        matrix.type_ = type;
        matrix.n_inputs_ = n_inputs;
        matrix.n_outputs_ = n_outputs;
        matrix.panels_ = std::move(panels);
        return matrix;
    }

    /// The same weights, rounded to another format.
    /// @param name  for messages
    /// @throws NumericError if a value becomes infinite by that
    [[nodiscard]] PackedMatrix converted(WeightType type, ThreadPool& pool, std::string_view name) const {
        return build(type, n_inputs_, n_outputs_, pool, name, [&](std::size_t panel, float* out) {
            std::vector<float> lane_values(n_inputs_);
            for (std::size_t lane = 0; lane < kernels::panel_width; ++lane) {
                kernels::read_lane(type_, panel_data(panel), n_inputs_, lane, lane_values.data());
                for (std::size_t k = 0; k < n_inputs_; ++k) {
                    out[k * kernels::panel_width + lane] = lane_values[k];
                }
            }
        });
    }

    [[nodiscard]] WeightType type() const noexcept { return type_; }
    [[nodiscard]] std::size_t n_inputs() const noexcept { return n_inputs_; }
    [[nodiscard]] std::size_t n_outputs() const noexcept { return n_outputs_; }
    [[nodiscard]] const std::byte* panels() const noexcept { return panels_.get(); }

    /// What one product reads.
    [[nodiscard]] std::size_t bytes() const noexcept {
        return kernels::panel_count(n_outputs_) * kernels::panel_bytes(type_, n_inputs_);
    }

    /// The weights [K] of output @p n as floats: the embedding of token n where the matrix is the tied
    /// output head.
    void read_output(std::size_t n, float* out) const noexcept {
        kernels::read_lane(type_, panel_data(n / kernels::panel_width), n_inputs_, n % kernels::panel_width,
                           out);
    }

private:
    [[nodiscard]] const std::byte* panel_data(std::size_t panel) const noexcept {
        return panels_.get() + panel * kernels::panel_bytes(type_, n_inputs_);
    }

    /// A matrix in memory of its own. @p fill(panel, out) gives the weights [K][32] of a panel.
    template <class Fill>
    [[nodiscard]] static PackedMatrix build(WeightType type, std::size_t n_inputs, std::size_t n_outputs,
                                            ThreadPool& pool, std::string_view name, const Fill& fill) {
        const std::size_t panels = kernels::panel_count(n_outputs);
        const std::size_t bytes = kernels::panel_bytes(type, n_inputs);
        auto memory = std::make_shared<Tensor<std::byte, 1>>(Tensor<std::byte, 1>::Shape{panels * bytes});
        detail::prefer_huge_pages(memory->data(), panels * bytes);
        const std::size_t grain = std::max<std::size_t>(1, panels / (pool.size() * 8));
        pool.parallel_for(panels, grain, [&](std::size_t begin, std::size_t end) {
            std::vector<float> values(n_inputs * kernels::panel_width);
            for (std::size_t panel = begin; panel < end; ++panel) {
                std::byte* const out = memory->data() + panel * bytes;
                fill(panel, values.data());
                require_encodable(type, values, name);
                detail::encode_panel(type, values.data(), n_inputs, out);
                require_representable(type, {out, bytes}, name);
            }
        });
        return of_panels(type, n_inputs, n_outputs, std::shared_ptr<const std::byte>(memory, memory->data()));
    }

    /// What an integer format is made of: numbers, and such that a scale times an integer is one. (The
    /// weights of a converted file are not known to be finite.)
    static void require_encodable(WeightType type, std::span<const float> values, std::string_view name) {
        if (!kernels::is_integer(type)) {
            return;
        }
        const auto bad = std::ranges::find_if(values, [](float x) { return !(std::fabs(x) < 0x1p127f); });
        if (bad != values.end()) {
            throw NumericError(detail::concat("tensor ", detail::quoted(name), ": ", to_string(type),
                                              ": expected values below 2^127, found ", *bad));
        }
    }

    /// Checkpoint tensors are finite; only rounding to a 16-bit format can change that.
    static void require_representable(WeightType type, std::span<const std::byte> panel,
                                      std::string_view name) {
        if (type != WeightType::float16 && type != WeightType::bfloat16) {
            return;
        }
        const unsigned exponent = type == WeightType::float16 ? 0x7c00u : 0x7f80u;
        unsigned found = 0;
        for (std::size_t i = 0; i < panel.size(); i += 2) {
            std::uint16_t bits = 0;
            std::memcpy(&bits, panel.data() + i, sizeof bits);
            found |= (bits & exponent) == exponent ? 1u : 0u;
        }
        if (found != 0) {
            throw NumericError(detail::concat("tensor ", detail::quoted(name), ": expected values within ",
                                              "the range of ", to_string(type), ", found a larger one"));
        }
    }

    WeightType type_ = WeightType::float32;
    std::size_t n_inputs_ = 0;
    std::size_t n_outputs_ = 0;
    std::shared_ptr<const std::byte> panels_;
};

} // namespace gpt2
