// SPDX-License-Identifier: MIT
#pragma once

#include "model.hpp"
#include "options.hpp"
#include "session.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

/// @file
/// Several texts at once, and beams.

namespace gpt2::python {

/// @param listener  is called with the number of the text and the token, or with the token alone
template <class Listen>
std::vector<Result> write_texts(const Model& model, const std::vector<std::vector<TokenId>>& prompts,
                                const GenerationConfig& config, Listen&& listen) {
    const py::gil_scoped_release released;
    std::vector<Result> results;
    for (auto& found : model.model.generate_batch(prompts, config, listen, {.pool = model.pool})) {
        results.emplace_back(std::move(found), config);
    }
    return results;
}

inline std::vector<Result> generate_batch(const Model& model, py::handle prompts, const py::object& callback,
                                          const py::kwargs& options) {
    const GenerationConfig config = config_from(options);
    require_callable(callback);
    const auto tokens =
        list_from<std::vector<TokenId>>("prompts", "a list of prompts", prompts, [&](py::handle prompt) {
            return prompt_from(model.model, prompt, true);
        });
    Listener listener(callback);
    return write_texts(model, tokens, config, std::ref(listener));
}

/// One text, in a session of its own or, with beams, the best that they find.
inline Result generate(const std::shared_ptr<Model>& model, py::handle prompt, const py::object& callback,
                       const py::kwargs& options) {
    const GenerationConfig config = config_from(options);
    if (config.num_beams <= 1) {
        Session session(model, {.pool = model->pool});
        return generate(session, prompt, callback, config);
    }
    detail::require_one_text(config);
    require_callable(callback);
    Listener listener(callback);
    const auto listen = [&](std::size_t, const GeneratedToken& token) { return listener(token); };
    return std::move(write_texts(*model, {prompt_from(model->model, prompt, true)}, config, listen).front());
}

} // namespace gpt2::python
