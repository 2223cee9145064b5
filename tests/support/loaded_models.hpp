// SPDX-License-Identifier: MIT
#pragma once

#include "models.hpp"

#include <gpt2/model.hpp>

#include <cstdint>

/// @file
/// Models as tests of what works on them want them: loaded.

namespace gpt2::test {

/// A random model, written with a seed and loaded.
[[nodiscard]] inline Gpt2Model make_model(const Config& config = odd_config(), const Edit& edit = {},
                                          const LoadOptions& options = {}, std::uint64_t seed = 0) {
    const TemporaryDirectory directory;
    write_model(directory.path(), config, {.seed = seed}, edit);
    return Gpt2Model::load(directory.path(), options);
}

/// A random one of odd_config() whose probabilities and hidden states differ, and whose texts do not only
/// repeat themselves; loaded once.
[[nodiscard]] inline const Gpt2Model& loaded_odd() {
    static const Gpt2Model loaded = make_model(odd_config(), enlarge_matrices);
    return loaded;
}

/// The default model, loaded once.
[[nodiscard]] inline const Gpt2Model& loaded_novella() {
    static const Gpt2Model loaded = Gpt2Model::load(novella());
    return loaded;
}

} // namespace gpt2::test
