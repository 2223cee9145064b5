// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/io/checkpoint_tensor.hpp"
#include "gpt2/kernels/panel.hpp"
#include "gpt2/tensor.hpp"
#include "gpt2/thread_pool.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

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

/// Calls @p body with a value of the C++ type that @p type names.
template <class Body> decltype(auto) with_weight_type(WeightType type, Body&& body) {
    switch (type) {
    case WeightType::float16:
        return body(half{});
    case WeightType::bfloat16:
        return body(bfloat16{});
    case WeightType::float32:
        break;
    }
    return body(float{});
}

/// The type of a tensor that a Checkpoint or a ConvertedModel has made sure to be one of these.
[[nodiscard]] inline WeightType weight_type_of(Dtype dtype) noexcept {
    return dtype == Dtype::F16 ? WeightType::float16
                               : (dtype == Dtype::BF16 ? WeightType::bfloat16 : WeightType::float32);
}

template <class Target, class Source> [[nodiscard]] Target convert_weight(Source value) noexcept {
    if constexpr (std::is_same_v<Target, Source>) {
        return value;
    } else {
        return static_cast<Target>(static_cast<float>(value));
    }
}

/// Fills one panel from a tensor at any address.
template <class Target, class Source>
void pack_panel(const std::byte* source, MatrixLayout layout, std::size_t n_inputs, std::size_t n_outputs,
                std::size_t panel, Target* out) {
    const std::size_t first = panel * kernels::panel_width;
    const std::size_t lanes = std::min(kernels::panel_width, n_outputs - first);
    const auto element = [&](std::size_t index) {
        Source value;
        std::memcpy(&value, source + index * sizeof(Source), sizeof(Source));
        return convert_weight<Target>(value);
    };
    if (layout == MatrixLayout::inputs_by_outputs) {
        for (std::size_t k = 0; k < n_inputs; ++k) {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                out[k * kernels::panel_width + kernels::panel_slot<Target>(lane)] =
                    element(k * n_outputs + first + lane);
            }
        }
    } else {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            Target* const column = out + kernels::panel_slot<Target>(lane);
            for (std::size_t k = 0; k < n_inputs; ++k) {
                column[k * kernels::panel_width] = element((first + lane) * n_inputs + k);
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
        return detail::with_weight_type(detail::weight_type_of(tensor.dtype), [&]<class Source>(Source) {
            return build(type, n_inputs, n_outputs, pool, tensor.name,
                         [&]<class Target>(std::size_t panel, Target* out) {
                             detail::pack_panel<Target, Source>(tensor.data.data(), layout, n_inputs,
                                                                n_outputs, panel, out);
                         });
        });
    }

    /// A matrix whose panels are there already.
    /// @param panels  `[panel_count(N)][K][32]` of @p type at an address that suits it, and what keeps them
    /// alive
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
        return detail::with_weight_type(type_, [&]<class Source>(Source) {
            const auto* const source = reinterpret_cast<const Source*>(panels_.get());
            return build(
                type, n_inputs_, n_outputs_, pool, name, [&]<class Target>(std::size_t panel, Target* out) {
                    const Source* const from = source + panel * n_inputs_ * kernels::panel_width;
                    for (std::size_t k = 0; k < n_inputs_; ++k) {
                        for (std::size_t lane = 0; lane < kernels::panel_width; ++lane) {
                            out[k * kernels::panel_width + kernels::panel_slot<Target>(lane)] =
                                detail::convert_weight<Target>(
                                    from[k * kernels::panel_width + kernels::panel_slot<Source>(lane)]);
                        }
                    }
                });
        });
    }

    [[nodiscard]] WeightType type() const noexcept { return type_; }
    [[nodiscard]] std::size_t n_inputs() const noexcept { return n_inputs_; }
    [[nodiscard]] std::size_t n_outputs() const noexcept { return n_outputs_; }
    [[nodiscard]] const std::byte* panels() const noexcept { return panels_.get(); }

    /// What one product reads.
    [[nodiscard]] std::size_t bytes() const noexcept {
        return kernels::panel_count(n_outputs_) * kernels::panel_width * n_inputs_ * size_of(type_);
    }

    /// The weights [K] of output @p n as floats: the embedding of token n where the matrix is the tied
    /// output head.
    void read_output(std::size_t n, float* out) const noexcept {
        detail::with_weight_type(type_, [&]<class Weight>(Weight) {
            const auto* const weights = reinterpret_cast<const Weight*>(panels_.get()) +
                                        kernels::panel_index<Weight>(n_inputs_, 0, n);
            for (std::size_t k = 0; k < n_inputs_; ++k) {
                out[k] = static_cast<float>(weights[k * kernels::panel_width]);
            }
        });
    }

private:
    /// A matrix in memory of its own, each panel by @p fill(panel, out).
    template <class Fill>
    [[nodiscard]] static PackedMatrix build(WeightType type, std::size_t n_inputs, std::size_t n_outputs,
                                            ThreadPool& pool, std::string_view name, const Fill& fill) {
        const std::size_t panels = kernels::panel_count(n_outputs);
        const std::size_t panel_size = n_inputs * kernels::panel_width;
        auto memory = std::make_shared<Tensor<std::byte, 1>>(
            Tensor<std::byte, 1>::Shape{panels * panel_size * size_of(type)});
        detail::with_weight_type(type, [&]<class Target>(Target) {
            pool.parallel_for(panels, 1, [&](std::size_t begin, std::size_t end) {
                for (std::size_t panel = begin; panel < end; ++panel) {
                    auto* const out = reinterpret_cast<Target*>(memory->data()) + panel * panel_size;
                    fill(panel, out);
                    require_representable<Target>({out, panel_size}, name);
                }
            });
        });
        return of_panels(type, n_inputs, n_outputs, std::shared_ptr<const std::byte>(memory, memory->data()));
    }

    /// Checkpoint tensors are finite; only rounding to half can change that.
    template <class Weight>
    static void require_representable(std::span<const Weight> values, std::string_view name) {
        if constexpr (std::is_same_v<Weight, half> || std::is_same_v<Weight, bfloat16>) {
            constexpr unsigned exponent = std::is_same_v<Weight, half> ? 0x7c00u : 0x7f80u;
            unsigned found = 0;
            for (const Weight value : values) {
                found |= (value.bits & exponent) == exponent ? 1u : 0u;
            }
            if (found != 0) {
                throw NumericError(
                    detail::concat("tensor ", detail::quoted(name), ": expected values within ",
                                   "the range of the 16-bit format asked for, found a larger one"));
            }
        }
    }

    WeightType type_ = WeightType::float32;
    std::size_t n_inputs_ = 0;
    std::size_t n_outputs_ = 0;
    std::shared_ptr<const std::byte> panels_;
};

} // namespace gpt2
