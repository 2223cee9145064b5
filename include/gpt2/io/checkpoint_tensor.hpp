// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The tensors of a GPT-2 checkpoint: which there are, of what shape, and one of them in a file.

namespace gpt2 {

/// A tensor that a checkpoint must have.
struct ExpectedTensor {
    std::string name; ///< as in transformers' GPT2Model, without the prefix `transformer.`
    std::vector<std::size_t> shape;
};

/// The tensors of a model, in the order of the computation. Weights of linear layers are [in, out] (they are
/// Conv1D in transformers and in the original), embeddings and `lm_head.weight` are [vocabulary, C].
/// @param config         valid, see validate()
/// @param separate_head  whether the list ends with `lm_head.weight`
[[nodiscard]] inline std::vector<ExpectedTensor> expected_tensors(const Config& config, bool separate_head) {
    const std::size_t C = config.n_embd;
    const std::size_t F = config.n_inner;
    std::vector<ExpectedTensor> list;
    list.push_back({"wte.weight", {config.vocab_size, C}});
    list.push_back({"wpe.weight", {config.n_positions, C}});
    for (std::size_t layer = 0; layer < config.n_layer; ++layer) {
        const auto add = [&, prefix = detail::concat("h.", layer, ".")](
                             std::string_view name, std::initializer_list<std::size_t> shape) {
            list.push_back({prefix + std::string(name), shape});
        };
        add("ln_1.weight", {C});
        add("ln_1.bias", {C});
        add("attn.c_attn.weight", {C, 3 * C});
        add("attn.c_attn.bias", {3 * C});
        add("attn.c_proj.weight", {C, C});
        add("attn.c_proj.bias", {C});
        add("ln_2.weight", {C});
        add("ln_2.bias", {C});
        add("mlp.c_fc.weight", {C, F});
        add("mlp.c_fc.bias", {F});
        add("mlp.c_proj.weight", {F, C});
        add("mlp.c_proj.bias", {C});
    }
    list.push_back({"ln_f.weight", {C}});
    list.push_back({"ln_f.bias", {C}});
    if (separate_head) {
        list.push_back({"lm_head.weight", {config.vocab_size, C}});
    }
    return list;
}

/// One tensor of a checkpoint: its type is F32, F16 or BF16, its shape is the one the configuration demands.
struct CheckpointTensor {
    std::string name; ///< without the prefix `transformer.`
    std::string file; ///< where it is, for messages
    Dtype dtype;
    std::vector<std::size_t> shape;
    /// The elements, in row-major order, at any address: copy them out with std::memcpy (see
    /// TensorInfo::data).
    std::span<const std::byte> data;
    std::shared_ptr<const void> owner; ///< keeps @ref data alive (unless it was given from outside)

    /// The number of elements.
    [[nodiscard]] std::size_t size() const noexcept { return data.size() * 8 / dtype_bits(dtype); }
};

namespace detail {

/// How to find exponents of all ones (infinity or NaN) in a 64-bit word full of numbers: `(word & exponent) +
/// lowest` carries into the place of a number's sign, which `exponent` has cleared, exactly for those.
struct ExponentTest {
    std::uint64_t exponent;
    std::uint64_t lowest; ///< the lowest bit of each exponent
    std::uint64_t sign;
};

[[nodiscard]] constexpr ExponentTest exponent_test(Dtype dtype) noexcept {
    switch (dtype) {
    case Dtype::F16:
        return {0x7c007c007c007c00u, 0x0400040004000400u, 0x8000800080008000u};
    case Dtype::BF16:
        return {0x7f807f807f807f80u, 0x0080008000800080u, 0x8000800080008000u};
    default: // F32
        return {0x7f8000007f800000u, 0x0080000000800000u, 0x8000000080000000u};
    }
}

/// The first element that is not finite among those at @p bytes.
[[nodiscard]] inline std::optional<std::size_t>
scan_elements(std::span<const std::byte> bytes, std::size_t width, const ExponentTest& test) noexcept {
    for (std::size_t at = 0; at < bytes.size(); at += width) {
        std::uint64_t word = 0; // beside the one element: zeros, which are finite
        std::memcpy(&word, bytes.data() + at, width);
        if ((((word & test.exponent) + test.lowest) & test.sign) != 0) {
            return at / width;
        }
    }
    return std::nullopt;
}

} // namespace detail

/// The index of the first element that is infinite or not a number, or nothing when all are finite.
/// Reads the tensor once, at the speed of memory. Thread-safe.
[[nodiscard]] inline std::optional<std::size_t> first_non_finite(const CheckpointTensor& tensor) noexcept {
    // Blocks of a fixed length, so that the compiler makes vector instructions of the inner loop.
    constexpr std::size_t words = 512;
    constexpr std::size_t block = words * sizeof(std::uint64_t);
    const detail::ExponentTest test = detail::exponent_test(tensor.dtype);
    const std::size_t width = dtype_bits(tensor.dtype) / 8;
    for (std::size_t at = 0; at < tensor.data.size(); at += block) {
        const std::span<const std::byte> rest = tensor.data.subspan(at);
        std::uint64_t found = test.sign;
        if (rest.size() >= block) {
            found = 0;
            for (std::size_t i = 0; i < words; ++i) {
                std::uint64_t word = 0;
                std::memcpy(&word, rest.data() + i * sizeof word, sizeof word);
                found |= (word & test.exponent) + test.lowest;
            }
        }
        if ((found & test.sign) != 0) {
            if (const auto i = detail::scan_elements(rest.first(std::min(rest.size(), block)), width, test)) {
                return at / width + *i;
            }
        }
    }
    return std::nullopt;
}

/// @throws FormatError naming the file, the tensor and the element when one is infinite or not a number
inline void require_finite(const CheckpointTensor& tensor) {
    const std::optional<std::size_t> index = first_non_finite(tensor);
    if (!index) {
        return;
    }
    const std::size_t width = dtype_bits(tensor.dtype) / 8;
    std::uint64_t word = 0;
    std::memcpy(&word, tensor.data.data() + *index * width, width);
    const detail::ExponentTest test = detail::exponent_test(tensor.dtype);
    const bool nan = (word & ~(test.exponent | test.sign)) != 0;
    const bool negative = (word & test.sign) != 0;
    throw FormatError(detail::concat(detail::quoted(std::string_view(tensor.file), 4096), ": tensor ",
                                     detail::quoted(std::string_view(tensor.name)), ", shape ",
                                     shape_text(tensor.shape), ": expected finite weights, found ",
                                     nan        ? "NaN"
                                     : negative ? "-infinity"
                                                : "infinity",
                                     " at element ", *index));
}

} // namespace gpt2
