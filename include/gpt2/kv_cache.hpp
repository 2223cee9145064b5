// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/float16.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/tensor.hpp"

#include <cmath>
#include <cstddef>
#include <string_view>

/// @file
/// The keys and values of one sequence.

namespace gpt2 {

[[nodiscard]] constexpr std::string_view to_string(KvDtype dtype) noexcept {
    return dtype == KvDtype::float16 ? "float16" : "float32";
}

/// Keys and values of every layer and head for up to T positions. Keys lie in blocks of 16 positions,
/// `[layer][head][T / 16][D][16]`, so that a lane is a position when a query is scored; values as
/// `[layer][head][T][D]`, D padded to a multiple of 16, so that a lane is a dimension when they are summed.
/// T is padded to a multiple of 64, the step of the attention kernel.
///
/// Numbers are rounded to the cache's type when written and always read back from it, so a position's
/// attention does not depend on when the keys were written. Memory is taken for T positions at once, but
/// the system commits it only as positions fill up.
class KvCache {
public:
    KvCache(const Config& config, KvDtype dtype)
        : dtype_(dtype), n_head_(config.n_head), head_size_(config.head_size()),
          padded_head_((head_size_ + 15) / 16 * 16), positions_((config.n_positions + 63) / 64 * 64),
          keys_({config.n_layer * n_head_, positions_ * head_size_ * element_size()}),
          values_({config.n_layer * n_head_, positions_ * padded_head_ * element_size()}) {}

    [[nodiscard]] KvDtype dtype() const noexcept { return dtype_; }

    /// Bytes that attention reads at a depth of @p n positions, all layers.
    [[nodiscard]] std::size_t bytes_read(std::size_t n) const noexcept {
        return keys_.dim(0) * n * (head_size_ + padded_head_) * element_size();
    }

    /// Stores the key and the value [C] of one position in one layer.
    /// @throws NumericError where a number exceeds the cache's type. Different positions may be written
    ///         by different threads at once.
    void write(std::size_t layer, std::size_t position, const float* key, const float* value) {
        if (dtype_ == KvDtype::float16) {
            write_as<half>(layer, position, key, value);
        } else {
            write_as<float>(layer, position, key, value);
        }
    }

    /// One query of head @p head against the first @p n_positions positions; see kernels::AttendArgs.
    void attend(const kernels::Kernels& kernels, std::size_t layer, std::size_t head, const float* query,
                std::size_t n_positions, float* out, float* scratch) const {
        const std::size_t index = layer * n_head_ + head;
        kernels.attend[static_cast<std::size_t>(dtype_)]({.query = query,
                                                          .keys = keys_[index].data(),
                                                          .values = values_[index].data(),
                                                          .head_size = head_size_,
                                                          .n_positions = n_positions,
                                                          .out = out,
                                                          .scratch = scratch});
    }

private:
    [[nodiscard]] std::size_t element_size() const noexcept { return dtype_ == KvDtype::float16 ? 2 : 4; }

    template <class Stored>
    void write_as(std::size_t layer, std::size_t position, const float* key, const float* value) {
        for (std::size_t head = 0; head < n_head_; ++head) {
            const std::size_t index = layer * n_head_ + head;
            auto* const keys = reinterpret_cast<Stored*>(keys_[index].data()) +
                               position / 16 * head_size_ * 16 + position % 16;
            auto* const values = reinterpret_cast<Stored*>(values_[index].data()) + position * padded_head_;
            for (std::size_t d = 0; d < head_size_; ++d) {
                keys[d * 16] = store<Stored>(key[head * head_size_ + d], layer);
                values[d] = store<Stored>(value[head * head_size_ + d], layer);
            }
        }
    }

    template <class Stored> [[nodiscard]] static Stored store(float x, std::size_t layer) {
        if (!(std::fabs(x) < (sizeof(Stored) == 2 ? 65520.0f : HUGE_VALF))) {
            throw NumericError(detail::concat(
                "layer ", layer, ": expected keys and values within the range of ",
                sizeof(Stored) == 2 ? "float16" : "float32", ", the type of the KV cache, found ", x));
        }
        return static_cast<Stored>(x);
    }

    KvDtype dtype_;
    std::size_t n_head_;
    std::size_t head_size_;
    std::size_t padded_head_;
    std::size_t positions_;
    Tensor<std::byte, 2> keys_;
    Tensor<std::byte, 2> values_;
};

} // namespace gpt2
