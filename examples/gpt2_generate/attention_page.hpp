// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/recorder.hpp>
#include <gpt2/tokenizer.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

/// @file
/// A page that shows which tokens a token looked at.

/// The largest number of tokens whose weights fit into a page that a browser likes to open.
[[nodiscard]] std::size_t most_tokens_of_page(const gpt2::Config& config) noexcept;

/// A page in HTML that needs nothing else. Weights are in it in steps of 1/255.
/// @param tokens  that were read, from position 0 on; @p recorder has the attention of all of them
[[nodiscard]] std::string attention_page(std::string_view model, const gpt2::Config& config,
                                         const gpt2::Tokenizer& tokenizer,
                                         std::span<const gpt2::TokenId> tokens,
                                         const gpt2::Recorder& recorder);
