// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/generation_config.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/speculation/drafter.hpp"
#include "gpt2/speculation/prompt_lookup.hpp"
#include "gpt2/thread_pool.hpp"
#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Speculative decoding without a model: which tokens the next pass shall read, and which of them turned out
/// to be the text. The loop around it is Session::generate.
///
/// Source of the idea: Y. Leviathan, M. Kalman, Y. Matias, "Fast Inference from Transformers via Speculative
/// Decoding" (2023); C. Chen et al., "Accelerating Large Language Model Decoding with Speculative Sampling"
/// (2023). Both keep the distribution of the text. Here the text itself stays: each token is chosen from the
/// same logits with the same random number as without proposals, and a proposal is kept where it is that
/// token.

namespace gpt2 {

/// Whether the options ask for speculation.
[[nodiscard]] inline bool speculates(const GenerationConfig& config) noexcept {
    return config.prompt_lookup_num_tokens.has_value() || config.assistant_model != nullptr;
}

/// The proposals for one text, and what becomes of them. One caller at a time.
class Speculator {
public:
    /// @param config   passed gpt2::validate, and speculates()
    /// @param seed     that draws the tokens; none if nothing is drawn
    /// @param context  all tokens before the text
    /// @param interrupt  that a draft shall look at
    /// @throws OptionError if the drafter does not fit the model, and whatever it throws
    Speculator(const GenerationConfig& config, std::optional<std::uint64_t> seed, const Config& model,
               const Tokenizer& tokenizer, std::shared_ptr<ThreadPool> pool, std::vector<TokenId> context,
               const Interrupt& interrupt)
        : config_(config), vocab_size_(model.vocab_size), most_(static_cast<std::size_t>(most_of(config))),
          text_(std::move(context)) {
        config_.seed = seed;
        draft_ =
            drafter_of(config)->begin({config_, model, tokenizer, text_.size(), std::move(pool), interrupt});
        if (!draft_) {
            throw OptionError("assistant_model: expected a draft from Drafter::begin, found null");
        }
    }

    Speculator(const Speculator&) = delete; // the draft may refer to config_
    Speculator& operator=(const Speculator&) = delete;

    /// Tells of the next token of the text.
    /// @returns whether it is the next of the proposed ones, so that a pass has read it
    bool accept(TokenId token) {
        text_.push_back(token);
        ++n_new_;
        if (next_ < rows_.size() && rows_[next_] == token) {
            ++next_;
            ++result_.accepted;
            return true;
        }
        withdraw(); // what was to follow another token
        return false;
    }

    /// What the next pass shall read: the last token of the text and proposals for what follows, as many as
    /// leave one of GenerationConfig::max_new_tokens to choose after them.
    /// @param room  tokens that the contexts of all sessions have room for
    /// @returns at least the one; good until the next call
    /// @throws OptionError if the drafter proposes what it must not, and whatever it throws, Interrupted for
    ///                     instance
    [[nodiscard]] std::span<const TokenId> rows(std::size_t room) {
        rows_.assign(1, text_.back());
        next_ = 1;
        const auto left = static_cast<std::uint64_t>(config_.max_new_tokens) - n_new_;
        if (left > 1 && room > 1) {
            const std::size_t most = std::min(most_, room - 1);
            propose(static_cast<std::size_t>(std::min<std::uint64_t>(most, left - 1)));
        }
        ++result_.passes;
        return rows_;
    }

    /// Forgets proposals that were not read.
    void withdraw() noexcept { rows_.clear(); }

    /// What it came to. @param tokens  the whole text, whose last token ended it and was not accept()ed
    [[nodiscard]] Speculation finish(std::span<const TokenId> tokens) {
        if (!tokens.empty()) {
            accept(tokens.back());
        }
        return result_;
    }

private:
    static constexpr std::int64_t default_assistant_tokens = 5;
    static constexpr std::int64_t default_ngram_size = 2;

    [[nodiscard]] static std::int64_t most_of(const GenerationConfig& config) noexcept {
        return config.prompt_lookup_num_tokens.value_or(
            config.num_assistant_tokens.value_or(default_assistant_tokens));
    }

    [[nodiscard]] static std::shared_ptr<const Drafter> drafter_of(const GenerationConfig& config) {
        if (config.assistant_model) {
            return config.assistant_model;
        }
        const std::int64_t longest = config.max_matching_ngram_size.value_or(default_ngram_size);
        return std::make_shared<PromptLookup>(static_cast<std::size_t>(longest));
    }

    void propose(std::size_t most) {
        const std::vector<TokenId> proposed = draft_->propose(text_, most);
        if (proposed.size() > most) {
            throw OptionError(detail::concat("assistant_model: expected at most ", most,
                                             " proposed tokens, found ", proposed.size()));
        }
        for (const TokenId token : proposed) {
            if (token < 0 || static_cast<std::size_t>(token) >= vocab_size_) {
                throw OptionError(detail::concat("assistant_model: expected proposed token ids below ",
                                                 vocab_size_, ", the size of the vocabulary, found ", token));
            }
        }
        rows_.insert(rows_.end(), proposed.begin(), proposed.end());
        result_.proposed += proposed.size();
    }

    GenerationConfig config_;
    std::size_t vocab_size_;
    std::size_t most_; ///< proposals for one pass
    std::unique_ptr<Draft> draft_;
    std::vector<TokenId> text_; ///< with everything before it
    std::uint64_t n_new_ = 0;   ///< tokens of it that are new
    std::vector<TokenId> rows_; ///< of the last pass: a token of the text and proposals
    std::size_t next_ = 0;      ///< of them, to be compared with the next token
    Speculation result_;
};

} // namespace gpt2
