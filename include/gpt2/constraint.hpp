// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// Texts that match a regular expression or a grammar: GenerationConfig::constraint; docs/constraints.md.

#include "gpt2/constraint/constraint.hpp"
