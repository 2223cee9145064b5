// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The library in advance compiled, `gpt2::compiled`.
///
/// A function that takes a compiler long is a template without a parameter that matters, GPT2_HEAVY. So a
/// program that only includes the headers instantiates it like any template; and one that links
/// `gpt2::compiled`, which defines GPT2_COMPILED, finds an explicit instantiation declaration below the
/// function, and takes the instance out of that library instead of compiling it again. Both are the same
/// entity with one definition, and both kinds of program, or translation unit, may be mixed.

#define GPT2_HEAVY template <class = void>

#if defined(GPT2_COMPILED_SOURCE) // src/compiled.cpp, which holds the instances
#define GPT2_INSTANCE template
#else
#define GPT2_INSTANCE extern template
#endif
