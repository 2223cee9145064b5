// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/interrupt.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

/// @file
/// Where the proposals of speculative decoding come from. docs/speculation.md has the whole of it.

namespace gpt2 {

struct GenerationConfig;
class ThreadPool;
class Tokenizer;

/// What a drafter is told of a text before it begins. The references are good until the text is complete.
struct DraftRequest {
    const GenerationConfig& config;   ///< its seed is the one that draws the tokens; none if nothing is drawn
    const Config& model;              ///< of the model that writes
    const Tokenizer& tokenizer;       ///< of that model
    std::size_t n_context;            ///< tokens before the first new one
    std::shared_ptr<ThreadPool> pool; ///< that the session computes on
    Interrupt interrupt{};            ///< what may end the text; for the passes of a draft
};

/// The proposals for one text. One caller at a time.
class Draft {
public:
    Draft() = default;
    Draft(const Draft&) = delete;
    Draft& operator=(const Draft&) = delete;
    virtual ~Draft() = default;

    /// What may come next. It need not be right: a wrong proposal costs time and changes nothing.
    /// @param context  all tokens so far, prompt and text; at each call those of the call before, and more
    /// @param most     at least 1
    /// @returns at most @p most tokens in their order; none where there is no idea
    [[nodiscard]] virtual std::vector<TokenId> propose(std::span<const TokenId> context,
                                                       std::size_t most) = 0;
};

/// A source of proposals: PromptLookup, DraftModel, or the user's own. Immutable: one may serve any number of
/// texts, in any threads, at once. What it throws reaches the caller of generate().
class Drafter {
public:
    Drafter() = default;
    Drafter(const Drafter&) = delete;
    Drafter& operator=(const Drafter&) = delete;
    virtual ~Drafter() = default;

    /// Begins a text.
    /// @throws OptionError if it cannot propose tokens to this model
    [[nodiscard]] virtual std::unique_ptr<Draft> begin(const DraftRequest& request) const = 0;
};

} // namespace gpt2
