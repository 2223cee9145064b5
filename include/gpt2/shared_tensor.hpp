// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/tensor.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

/// @file
/// Arrays that nobody changes any more.

namespace gpt2 {

/// An immutable dense row-major array, in memory of its own or in a mapped file. Copies share the elements;
/// thread-safe.
template <class T, std::size_t Rank> class SharedTensor {
public:
    using Shape = typename Tensor<T, Rank>::Shape;

    SharedTensor() = default;

    /// Takes over a tensor.
    // NOLINTNEXTLINE(google-explicit-constructor): a tensor that is complete may be shared without ado
    SharedTensor(Tensor<T, Rank> tensor) : shape_(tensor.shape()) {
        auto owner = std::make_shared<Tensor<T, Rank>>(std::move(tensor));
        data_ = std::shared_ptr<const T>(owner, owner->data());
    }

    /// @param data  the elements, and what keeps them alive
    SharedTensor(std::shared_ptr<const T> data, const Shape& shape) noexcept
        : data_(std::move(data)), shape_(shape) {}

    [[nodiscard]] const T* data() const noexcept { return data_.get(); }
    [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
    [[nodiscard]] TensorView<const T, Rank> view() const noexcept { return {data(), shape_}; }
    [[nodiscard]] std::size_t size() const noexcept { return view().size(); }
    [[nodiscard]] std::span<const T> flat() const noexcept { return {data(), size()}; }
    [[nodiscard]] decltype(auto) operator[](std::size_t i) const noexcept { return view()[i]; }

private:
    std::shared_ptr<const T> data_;
    Shape shape_{};
};

} // namespace gpt2
