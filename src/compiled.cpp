// SPDX-License-Identifier: MIT

// The instances that gpt2::compiled holds; see gpt2/compiled.hpp.

#if !defined(GPT2_COMPILED)
#define GPT2_COMPILED
#endif
#define GPT2_COMPILED_SOURCE
#include <gpt2/gpt2.hpp>
