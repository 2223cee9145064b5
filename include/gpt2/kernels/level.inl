// SPDX-License-Identifier: MIT
// No include guard: kernels.hpp includes this once per instruction set, with GPT2_LEVEL, GPT2_TARGET and
// GPT2_WIDE (1 where there are 32 registers of sixteen floats) defined. Every function here carries
// GPT2_TARGET; lambdas and library calls would not inherit it, so there are none.

#include "gpt2/kernels/elementwise.inl"

#include "gpt2/kernels/linear_float.inl"

#include "gpt2/kernels/linear.inl"

#include "gpt2/kernels/quantize_rows.inl"

#include "gpt2/kernels/attend.inl"
