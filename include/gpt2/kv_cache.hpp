// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/float16.hpp"
#include "gpt2/huge_pages.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/tensor.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

/// @file
/// The keys and values of one sequence.

namespace gpt2 {

[[nodiscard]] constexpr std::string_view to_string(KvDtype dtype) noexcept {
    return dtype == KvDtype::float16 ? "float16" : "float32";
}

/// Keys and values of every layer and head for up to T positions: `[T / 64][layer][head]` blocks of 64
/// positions, each keys and values as kernels::AttendArgs describes. What lies before a position is what was
/// written before it, so the memory in use grows with the positions, by large contiguous pieces; and a head's
/// 64 positions are one contiguous stream for attention. T is padded to a multiple of 64.
///
/// Numbers are rounded to the cache's type when written and always read back from it, so a position's
/// attention does not depend on when the keys were written. Memory is taken for T positions at once, but
/// the system commits it only as positions fill up.
class KvCache {
public:
    KvCache(const Config& config, KvDtype dtype)
        : dtype_(dtype), n_head_(config.n_head), n_blocks_(config.n_layer * config.n_head),
          head_size_(config.head_size()),
          memory_({(config.n_positions + kernels::kv_block - 1) / kernels::kv_block, row_blocks(),
                   block_bytes()}) {
        if (row_bytes() >= huge_page_row) {
            detail::prefer_huge_pages(memory_.data(), memory_.size());
        }
    }

    [[nodiscard]] KvDtype dtype() const noexcept { return dtype_; }
    [[nodiscard]] std::size_t head_size() const noexcept { return head_size_; }

    /// Bytes that attention reads at a depth of @p n positions, all layers.
    [[nodiscard]] std::size_t bytes_read(std::size_t n) const noexcept {
        return n_blocks_ * n * (block_bytes() / kernels::kv_block);
    }

    /// Takes positions @p begin to @p end over from a cache of the same shape and type. (And what shares
    /// their 64 positions: the positions before @p begin must be the same in both.)
    void copy(const KvCache& from, std::size_t begin, std::size_t end) noexcept {
        const std::size_t first = begin / kernels::kv_block * row_bytes();
        const std::size_t last = (end + kernels::kv_block - 1) / kernels::kv_block * row_bytes();
        if (begin < end) {
            std::copy_n(from.memory_.data() + first, last - first, memory_.data() + first);
        }
    }

    /// Keys and values of all layers and heads at 64 positions, those from 64 @p block on.
    [[nodiscard]] std::span<std::byte> row(std::size_t block) noexcept { return memory_[block].flat(); }
    [[nodiscard]] std::span<const std::byte> row(std::size_t block) const noexcept {
        return memory_[block].flat();
    }
    [[nodiscard]] std::size_t row_bytes() const noexcept { return row_blocks() * block_bytes(); }

    /// Stores keys and values of one head; see kernels::WriteKvArgs, of which the cache knows the head size
    /// and the blocks. Different positions and heads may be written by different threads at once.
    /// @throws NumericError where a number exceeds the cache's type
    void write(const kernels::Kernels& kernels, std::size_t layer, std::size_t head,
               kernels::WriteKvArgs args) {
        args.head_size = head_size_;
        args.blocks = memory_[0][layer * n_head_ + head].data();
        args.block_stride = row_bytes() / element_size();
        if (!kernels.write_kv[static_cast<std::size_t>(dtype_)](args)) {
            report(layer, args.keys, args);
            report(layer, args.values, args);
        }
    }

    /// Queries of one head against keys and values; see kernels::AttendArgs, as above.
    void attend(const kernels::Kernels& kernels, std::size_t layer, std::size_t head,
                kernels::AttendArgs args) const {
        args.head_size = head_size_;
        args.blocks = memory_[0][layer * n_head_ + head].data();
        args.block_stride = row_bytes() / element_size();
        kernels.attend[static_cast<std::size_t>(dtype_)](args);
    }

    enum class Part { keys, values };

    /// Keys or values [n, D] of one head at the first @p n positions, as they are stored.
    void read(Part part, std::size_t layer, std::size_t head, std::size_t n, std::byte* out) const noexcept {
        const std::size_t size = element_size();
        for (std::size_t position = 0; position < n; ++position) {
            const std::size_t within = position % kernels::kv_block;
            const std::byte* const block =
                memory_[position / kernels::kv_block][layer * n_head_ + head].data();
            // See kernels::AttendArgs.
            const bool is_key = part == Part::keys;
            const std::size_t first =
                is_key ? within / 16 * 16 * head_size_ + within % 16
                       : kernels::kv_block * head_size_ + within * kernels::padded_head_size(head_size_);
            const std::size_t step = is_key ? 16 : 1;
            for (std::size_t d = 0; d < head_size_; ++d, out += size) {
                std::memcpy(out, block + (first + d * step) * size, size);
            }
        }
    }

    /// The keys [n, D] of one head at the first @p n positions, exactly.
    [[nodiscard]] std::vector<float> keys(std::size_t layer, std::size_t head, std::size_t n) const {
        std::vector<float> out(n * head_size_);
        if (dtype_ == KvDtype::float32) {
            read(Part::keys, layer, head, n, reinterpret_cast<std::byte*>(out.data()));
            return out;
        }
        std::vector<half> stored(out.size());
        read(Part::keys, layer, head, n, reinterpret_cast<std::byte*>(stored.data()));
        std::ranges::transform(stored, out.begin(), [](half value) { return static_cast<float>(value); });
        return out;
    }

private:
    /// Bytes of 64 positions from which on a page of 2 MiB more or less does not matter.
    static constexpr std::size_t huge_page_row = std::size_t{1} << 20;

    [[nodiscard]] std::size_t element_size() const noexcept { return dtype_ == KvDtype::float16 ? 2 : 4; }

    /// Of 64 positions of one head.
    [[nodiscard]] std::size_t block_bytes() const noexcept {
        return kernels::kv_block * (head_size_ + kernels::padded_head_size(head_size_)) * element_size();
    }

    /// Blocks from one of a head to its next: an odd number, as with a multiple of a power of two the blocks
    /// of a head would compete for few sets of the second-level cache.
    [[nodiscard]] std::size_t row_blocks() const noexcept { return n_blocks_ | 1; }

    /// Throws for the first of the rows' numbers that the type cannot hold, if there is one.
    GPT2_COLD void report(std::size_t layer, const float* rows, const kernels::WriteKvArgs& args) const {
        const bool is_half = dtype_ == KvDtype::float16;
        for (std::size_t i = 0; i < args.n_rows * head_size_; ++i) {
            const float found = rows[i / head_size_ * args.row_stride + i % head_size_];
            if (!(std::fabs(found) < (is_half ? 65520.0f : HUGE_VALF))) {
                throw NumericError(
                    detail::concat("layer ", layer, ": expected keys and values within the range of ",
                                   to_string(dtype_), ", the type of the KV cache",
                                   is_half ? " (SessionOptions::kv_dtype)" : "", ", found ", found));
            }
        }
    }

    KvDtype dtype_;
    std::size_t n_head_;
    std::size_t n_blocks_; ///< in a row: of all layers and heads
    std::size_t head_size_;
    Tensor<std::byte, 3> memory_;
};

} // namespace gpt2
