// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/kernels/kernels.hpp"
#include "gpt2/tokenizer.hpp"
#include "gpt2/transformer.hpp"

/// @file
/// What a model consists of.

namespace gpt2::detail {

/// Immutable once loaded; shared by a model's handles and its sessions.
struct ModelState {
    Transformer transformer;
    Tokenizer tokenizer;
    const kernels::Kernels* kernels;
};

} // namespace gpt2::detail
