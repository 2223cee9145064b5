// SPDX-License-Identifier: MIT
#pragma once

#include "arguments.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

/// @file
/// Models as Python holds them, and what needs no more than one.

namespace gpt2::python {

struct Model {
    py::object file; ///< the bytes that it was loaded from, if it was
    std::shared_ptr<ThreadPool> pool;
    Gpt2Model model;
};

/// What ends texts from outside.
struct Cancellation {
    std::stop_source source;
};

/// What a text has to match.
struct Constraint {
    std::shared_ptr<const gpt2::Constraint> constraint;
};

using MakeConstraint = decltype(gpt2::Constraint::regex);

/// @param pattern  str or bytes
inline Constraint constraint_from(const Model& model, std::string_view name, py::handle pattern,
                                  MakeConstraint& make) {
    const std::string_view text = bytes_from(name, pattern);
    const py::gil_scoped_release released;
    return {make(text, model.model.tokenizer(), {})};
}

/// What @p ask says about a text: str or bytes.
inline bool ask(const Constraint& constraint, bool (gpt2::Constraint::*question)(std::string_view) const,
                py::handle text) {
    const std::string_view bytes = bytes_from("text", text);
    const py::gil_scoped_release released;
    return ((*constraint.constraint).*question)(bytes);
}

/// The tokens of a prompt: str or bytes, or tokens. An empty text begins with <|endoftext|> where nothing is
/// before it.
inline std::vector<TokenId> prompt_from(const Gpt2Model& model, py::handle prompt, bool begins) {
    if (!is_text(prompt)) {
        return tokens_from(prompt);
    }
    const std::string_view text = bytes_from("prompt", prompt);
    const py::gil_scoped_release released;
    return begins ? model.encode_prompt(text) : model.tokenizer().encode(text);
}

inline py::array_t<float> array_of(std::span<const float> values) {
    return py::array_t<float>(static_cast<py::ssize_t>(values.size()), values.data());
}

inline py::array_t<float> embed(const Model& model, py::handle text, py::handle pooling) {
    const Pooling kind = pooling_from(pooling);
    const std::vector<TokenId> tokens = prompt_from(model.model, text, false);
    std::vector<float> vector;
    {
        const py::gil_scoped_release released;
        vector = gpt2::embed(model.model, tokens, kind, {.pool = model.pool});
    }
    return array_of(vector);
}

} // namespace gpt2::python
