// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// How good a model is, and what its compression costs: metrics (statistics.hpp, divergence.hpp) and what
/// runs texts through models for them. Not part of gpt2.hpp, as programs that only write text do without.
/// docs/evaluation.md has the definitions; the program gpt2-eval is made of these.

#include "gpt2/evaluation/comparison.hpp"
#include "gpt2/evaluation/data_set.hpp"
#include "gpt2/evaluation/divergence.hpp"
#include "gpt2/evaluation/perplexity.hpp"
#include "gpt2/evaluation/scorer.hpp"
#include "gpt2/evaluation/statistics.hpp"
#include "gpt2/evaluation/tasks.hpp"
#include "gpt2/evaluation/token_details.hpp"
#include "gpt2/evaluation/token_stream.hpp"
