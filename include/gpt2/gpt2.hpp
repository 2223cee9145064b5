// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// Everything: include this, load a model, call generate().

#include "gpt2/config.hpp"
#include "gpt2/constraint.hpp"
#include "gpt2/error.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/model.hpp"
#include "gpt2/observer.hpp"
#include "gpt2/prefix_cache.hpp"
#include "gpt2/presets.hpp"
#include "gpt2/recorder.hpp"
#include "gpt2/sampler.hpp"
#include "gpt2/session.hpp"
#include "gpt2/session_file.hpp"
#include "gpt2/speculation.hpp"
#include "gpt2/tensor.hpp"
#include "gpt2/thread_pool.hpp"
#include "gpt2/tokenizer.hpp"
#include "gpt2/version.hpp"
