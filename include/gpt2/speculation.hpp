// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// Speculative decoding: where proposals come from. GenerationConfig chooses one; docs/speculation.md.

#include "gpt2/speculation/draft_model.hpp"
#include "gpt2/speculation/drafter.hpp"
#include "gpt2/speculation/prompt_lookup.hpp"
