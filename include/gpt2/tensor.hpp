// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

/// @file
/// Dense row-major arrays: Tensor owns its elements, TensorView looks at somebody's.

namespace gpt2 {

/// A view of a dense row-major array with @p Rank dimensions. As cheap to copy as a pointer; the elements
/// must outlive it. Indices are not checked in release builds.
template <class T, std::size_t Rank> class TensorView {
    static_assert(Rank >= 1);

public:
    using Shape = std::array<std::size_t, Rank>;

    TensorView() = default;
    TensorView(T* data, const Shape& shape) noexcept : data_(data), shape_(shape) {}

    /// A view of const elements from a view of mutable ones.
    // NOLINTNEXTLINE(google-explicit-constructor): as a pointer to const from a pointer
    operator TensorView<const T, Rank>() const noexcept requires(!std::is_const_v<T>) {
        return {data_, shape_};
    }

    [[nodiscard]] T* data() const noexcept { return data_; }
    [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
    [[nodiscard]] std::size_t dim(std::size_t i) const noexcept { return shape_[i]; }

    /// Number of elements.
    [[nodiscard]] std::size_t size() const noexcept {
        std::size_t n = 1;
        for (const std::size_t extent : shape_) {
            n *= extent;
        }
        return n;
    }

    /// The subarray at index @p i of the first dimension; an element where there is but one.
    [[nodiscard]] decltype(auto) operator[](std::size_t i) const noexcept {
        if constexpr (Rank == 1) {
            return (data_[i]);
        } else {
            std::array<std::size_t, Rank - 1> rest{};
            std::size_t stride = 1;
            for (std::size_t d = 1; d < Rank; ++d) {
                rest[d - 1] = shape_[d];
                stride *= shape_[d];
            }
            return TensorView<T, Rank - 1>(data_ + i * stride, rest);
        }
    }

    /// All elements, in order.
    [[nodiscard]] std::span<T> flat() const noexcept { return {data_, size()}; }

private:
    T* data_ = nullptr;
    Shape shape_{};
};

namespace detail {

inline constexpr std::size_t tensor_alignment = 64; ///< one cache line, one AVX-512 register

/// The number of elements of @p shape. @throws OptionError where it does not fit the address space
template <std::size_t Rank>
[[nodiscard]] std::size_t checked_size(const std::array<std::size_t, Rank>& shape, std::size_t element_size) {
    const std::size_t limit =
        static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max()) - tensor_alignment;
    std::size_t n = 1;
    for (const std::size_t extent : shape) {
        if (extent != 0 && n > limit / element_size / extent) {
            throw OptionError(
                concat("tensor: expected at most ", limit, " bytes, found a shape beyond them"));
        }
        n *= extent;
    }
    return n;
}

/// Zeroed memory, aligned to tensor_alignment. Taken from calloc, which gets large blocks from the system
/// already zero: their pages cost nothing until they are written.
class AlignedMemory {
public:
    AlignedMemory() = default;
    explicit AlignedMemory(std::size_t bytes) : block_(std::calloc(bytes + tensor_alignment, 1), &std::free) {
        if (block_ == nullptr) {
            throw std::bad_alloc();
        }
        void* start = block_.get();
        std::size_t space = bytes + tensor_alignment;
        data_ = std::align(tensor_alignment, bytes, start, space);
    }
    AlignedMemory(AlignedMemory&& other) noexcept
        : block_(std::move(other.block_)), data_(std::exchange(other.data_, nullptr)) {}
    AlignedMemory& operator=(AlignedMemory&& other) noexcept {
        block_ = std::move(other.block_);
        data_ = std::exchange(other.data_, nullptr);
        return *this;
    }

    [[nodiscard]] void* data() const noexcept { return data_; }

private:
    std::unique_ptr<void, decltype(&std::free)> block_{nullptr, &std::free};
    void* data_ = nullptr;
};

} // namespace detail

/// A dense row-major array that owns its elements: zero at first, 64-byte aligned, movable; a copy is
/// made by clone() only.
template <class T, std::size_t Rank> class Tensor {
    static_assert(std::is_trivially_copyable_v<T>);

public:
    using Shape = std::array<std::size_t, Rank>;

    Tensor() = default;

    /// @throws OptionError if the size exceeds the address space, std::bad_alloc if memory is out
    explicit Tensor(const Shape& shape)
        : size_(detail::checked_size(shape, sizeof(T))), memory_(size_ * sizeof(T)), shape_(shape) {}

    Tensor(Tensor&& other) noexcept
        : size_(std::exchange(other.size_, 0)), memory_(std::move(other.memory_)),
          shape_(std::exchange(other.shape_, Shape{})) {}
    Tensor& operator=(Tensor&& other) noexcept {
        size_ = std::exchange(other.size_, 0);
        memory_ = std::move(other.memory_);
        shape_ = std::exchange(other.shape_, Shape{});
        return *this;
    }

    [[nodiscard]] Tensor clone() const {
        Tensor copy(shape_);
        if (size_ != 0) {
            std::memcpy(copy.data(), data(), size_ * sizeof(T));
        }
        return copy;
    }

    [[nodiscard]] T* data() noexcept { return static_cast<T*>(memory_.data()); }
    [[nodiscard]] const T* data() const noexcept { return static_cast<const T*>(memory_.data()); }
    [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
    [[nodiscard]] std::size_t dim(std::size_t i) const noexcept { return shape_[i]; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    [[nodiscard]] TensorView<T, Rank> view() noexcept { return {data(), shape_}; }
    [[nodiscard]] TensorView<const T, Rank> view() const noexcept { return {data(), shape_}; }
    [[nodiscard]] decltype(auto) operator[](std::size_t i) noexcept { return view()[i]; }
    [[nodiscard]] decltype(auto) operator[](std::size_t i) const noexcept { return view()[i]; }
    [[nodiscard]] std::span<T> flat() noexcept { return {data(), size_}; }
    [[nodiscard]] std::span<const T> flat() const noexcept { return {data(), size_}; }

private:
    std::size_t size_ = 0;
    detail::AlignedMemory memory_;
    Shape shape_{};
};

} // namespace gpt2
