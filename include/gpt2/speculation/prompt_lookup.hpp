// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/speculation/drafter.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

/// @file
/// Prompt lookup: proposals from the text itself, which cost next to nothing.
///
/// Source: A. Saxena, "Prompt Lookup Decoding" (2023), https://github.com/apoorvumang/prompt-lookup-decoding;
/// transformers, `PromptLookupCandidateGenerator`, which finds the same place.

namespace gpt2 {

/// What followed the last tokens of a context where they came up before: the longest n-gram that did, of at
/// most @p longest tokens; of several places the first, which has most behind it.
/// @param context  good as long as the result is used
/// @returns at most @p most tokens; none if not even the last token came up before
[[nodiscard]] inline std::span<const TokenId> look_up(std::span<const TokenId> context, std::size_t longest,
                                                      std::size_t most) {
    if (context.empty()) {
        return {};
    }
    const auto earlier = context.first(context.size() - 1); // so that something comes after what is found
    for (std::size_t n = std::min(longest, earlier.size()); n > 0; --n) {
        const auto ngram = context.last(n);
        const auto found = std::search(earlier.begin(), earlier.end(), ngram.begin(), ngram.end());
        if (found != earlier.end()) {
            const auto next = static_cast<std::size_t>(found - earlier.begin()) + n;
            return context.subspan(next, std::min(most, context.size() - next));
        }
    }
    return {};
}

/// Proposes what look_up() finds. GenerationConfig::prompt_lookup_num_tokens makes one. Thread-safe.
class PromptLookup : public Drafter {
public:
    /// @param max_matching_ngram_size  how many of the last tokens to look up at most
    explicit PromptLookup(std::size_t max_matching_ngram_size = 2) : longest_(max_matching_ngram_size) {}

    [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest& request) const override {
        (void)request;
        return std::make_unique<Lookup>(longest_);
    }

private:
    class Lookup : public Draft {
    public:
        explicit Lookup(std::size_t longest) : longest_(longest) {}

        [[nodiscard]] std::vector<TokenId> propose(std::span<const TokenId> context,
                                                   std::size_t most) override {
            const auto found = look_up(context, longest_, most);
            return {found.begin(), found.end()};
        }

    private:
        std::size_t longest_;
    };

    std::size_t longest_;
};

} // namespace gpt2
