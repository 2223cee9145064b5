/* SPDX-License-Identifier: MIT */
#ifndef GPT2_TEST_MODES_H
#define GPT2_TEST_MODES_H

#include <gpt2.h>

/** Tests every option that C++ has, several texts at once, speculation, cancellation, sessions on disk and
 * embeddings. @returns the number of checks that failed */
int test_modes(const gpt2_model* novella, const gpt2_model* tiny);

#endif
