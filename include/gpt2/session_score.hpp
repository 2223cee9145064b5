// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/error.hpp"
#include "gpt2/floating_point.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/session.hpp"
#include "gpt2/token_logprobs.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// @file
/// What a session says of given tokens: Session::score, and GenerationResult::prompt_logprobs.

namespace gpt2 {

namespace detail {

/// For Overflow::slide, which forgets the begin of what does not fit.
/// @param room  positions that are left
inline void require_whole_prompt(std::size_t n_prompt, std::size_t room, const GenerationConfig& config) {
    if (config.prompt_logprobs && config.overflow == Overflow::slide && n_prompt > room) {
        throw OptionError(
            concat("prompt_logprobs is set and overflow is slide, expected a prompt of at most ", room,
                   " tokens, the positions that are left, found ", n_prompt,
                   ": the first of them would not be read"));
    }
}

} // namespace detail

inline TokenLogprobs Session::read_scored(std::span<const TokenId> tokens, LogprobReader& reader,
                                          const Interrupt& interrupt) {
    constexpr std::size_t rows = 64; // bounds the memory of the logits
    const FloatingPointScope scope;
    const std::size_t start = position();
    const auto logits_before = std::tuple(logits_, first_logit_row_, logit_rows_);
    const TokenId last = start > 0 ? tokens_.back() : 0;
    TokenLogprobs result;
    try {
        if (start > 0 && logit_rows_ == 0) { // after truncate(): read the last token again
            truncate(start - 1);
            forward({&last, 1}, interrupt);
        }
        for (std::size_t begin = 0; begin < tokens.size(); begin += rows) {
            const auto part = tokens.subspan(begin, std::min(rows, tokens.size() - begin));
            reader.append(position() == 0 ? LogprobReader::Place()
                                          : reader.read(logits()[logit_rows_ - 1].flat(), part[0]),
                          result);
            const BatchItem item{this, part, Logits::all};
            gpt2::forward({&item, 1}, interrupt);
            for (std::size_t i = 1; i < part.size(); ++i) {
                reader.append(reader.read(logits()[i - 1].flat(), part[i]), result);
            }
        }
    } catch (...) {
        if (position() > start) {
            truncate(start);
        } else if (position() < start) {
            tokens_.push_back(last); // its key and value are still in the cache
        }
        std::tie(logits_, first_logit_row_, logit_rows_) = logits_before;
        throw;
    }
    return result;
}

inline TokenLogprobs Session::read_prompt(std::span<const TokenId> tokens, std::size_t n_prompt,
                                          std::int64_t n_top, const Interrupt& interrupt) {
    LogprobReader reader(model_->kernels->exp_shifted, model_->tokenizer.size(), n_top);
    TokenLogprobs result = read_scored(tokens, reader, interrupt);
    const auto n_before = static_cast<std::ptrdiff_t>(tokens.size() - n_prompt);
    result.logprobs.erase(result.logprobs.begin(), result.logprobs.begin() + n_before);
    if (n_top > 0) {
        result.top_logprobs.erase(result.top_logprobs.begin(), result.top_logprobs.begin() + n_before);
    }
    if (!tokens.empty()) {
        first_logit_row_ += logit_rows_ - 1;
        logit_rows_ = 1;
    }
    return result;
}

template <class> std::vector<float> Session::score_tokens(std::span<const TokenId> given) {
    const std::vector<TokenId> tokens(given.begin(), given.end()); // they may be this session's own
    if (!tokens.empty()) {
        const BatchItem item{this, tokens, Logits::all};
        detail::check_item(item, item, model_.get(), model_.get());
    }
    LogprobReader reader(model_->kernels->exp_shifted, 0, 0);
    return read_scored(tokens, reader, {}).logprobs;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::vector<float> Session::score_tokens<void>(std::span<const TokenId>);
#endif

} // namespace gpt2
