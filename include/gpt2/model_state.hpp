// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/io/converted_model.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/tokenizer.hpp"
#include "gpt2/transformer.hpp"

#include <optional>

/// @file
/// What a model consists of.

namespace gpt2::detail {

/// Immutable once loaded; shared by a model's handles and its sessions.
struct ModelState {
    Transformer transformer;
    Tokenizer tokenizer;
    const kernels::Kernels* kernels;
    std::optional<ConvertedModel> file; ///< nothing if it came from a checkpoint
    bool is_converted = false;          ///< whether matrices are in other formats than the file's
};

} // namespace gpt2::detail
