// SPDX-License-Identifier: MIT
#pragma once

#include "model.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <mutex>
#include <span>
#include <vector>

/// @file
/// What passes compute, for Python.

namespace gpt2::python {

/// A Recorder that may be read while a pass in another thread writes.
class Recorder : public gpt2::Recorder {
public:
    using gpt2::Recorder::Recorder;

    void hidden_state(std::size_t layer, std::size_t position, std::span<const float> x) override {
        const std::lock_guard lock(mutex_);
        gpt2::Recorder::hidden_state(layer, position, x);
    }
    void last_hidden_state(std::size_t position, std::span<const float> x) override {
        const std::lock_guard lock(mutex_);
        gpt2::Recorder::last_hidden_state(position, x);
    }
    void attention(std::size_t layer, std::size_t head, std::size_t position,
                   std::span<const float> weights) override {
        const std::lock_guard lock(mutex_);
        gpt2::Recorder::attention(layer, head, position, weights);
    }
    void logits(std::size_t position, std::span<const float> values) override {
        const std::lock_guard lock(mutex_);
        gpt2::Recorder::logits(position, values);
    }

    /// A copy of what one of the functions of gpt2::Recorder finds. Made without Python, whose garbage
    /// collector might come back here.
    template <class... Where>
    [[nodiscard]] py::array_t<float> copy(std::span<const float> (gpt2::Recorder::*reader)(Where...) const,
                                          Where... where) const {
        std::vector<float> values;
        {
            const std::lock_guard lock(mutex_);
            const std::span<const float> found = (this->*reader)(where...);
            values.assign(found.begin(), found.end());
        }
        return array_of(values);
    }

private:
    mutable std::mutex mutex_;
};

} // namespace gpt2::python
