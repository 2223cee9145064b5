// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/config.hpp"
#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The sequence breakers of DRY as tokens.

namespace gpt2::sampling {

/// The sequences of tokens in which a text may stand: tokens that contain it, and tokens whose end is its
/// beginning, each with the tokens of the rest. As llama.cpp's get_overlapping_token_sequences, but without a
/// limit to the length of the text. The time is that of one look at each token for each text.
GPT2_HEAVY [[nodiscard]] std::vector<std::vector<TokenId>> dry_breakers(std::span<const std::string> texts,
                                                                        const Tokenizer& tokenizer) {
    std::vector<std::vector<TokenId>> breakers;
    for (const std::string_view text : texts) {
        for (std::size_t id = 0; id < tokenizer.size(); ++id) {
            const auto token = static_cast<TokenId>(id);
            const std::string_view bytes = tokenizer.token_bytes(token);
            if (bytes.find(text) != std::string_view::npos) {
                breakers.push_back({token});
                continue;
            }
            for (std::size_t n = std::min(bytes.size(), text.size() - 1); n > 0; --n) {
                if (bytes.ends_with(text.substr(0, n))) {
                    std::vector<TokenId> sequence = tokenizer.encode(text.substr(n));
                    sequence.insert(sequence.begin(), token);
                    breakers.push_back(std::move(sequence));
                }
            }
        }
    }
    return breakers;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<std::vector<TokenId>> dry_breakers<void>(std::span<const std::string>,
                                                                   const Tokenizer&);
#endif

} // namespace gpt2::sampling
