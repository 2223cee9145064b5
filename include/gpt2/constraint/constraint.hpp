// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/constraint/grammar_parser.hpp"
#include "gpt2/constraint/network.hpp"
#include "gpt2/constraint/recognizer.hpp"
#include "gpt2/constraint/regex_parser.hpp"
#include "gpt2/constraint/token_trie.hpp"
#include "gpt2/error.hpp"
#include "gpt2/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

/// @file
/// Texts that have to match a pattern. docs/constraints.md has the syntax, the limits and what it costs.

namespace gpt2 {

/// What a constraint keeps, which changes nothing but the time.
struct ConstraintOptions {
    std::size_t cache_bytes = std::size_t{64} << 20; ///< for what is kept, about
    /// For so many states of the pattern the masks are computed at once, the nearest to the begin first.
    std::size_t states_ahead = 1;
};

/// What a text has to match, as a whole, for GenerationConfig::constraint: a regular expression or a grammar,
/// for the tokens of one tokenizer. What may follow a text is computed once and kept, for all texts that
/// share the constraint; if that becomes more than ConstraintOptions::cache_bytes, all of it is forgotten.
/// Thread-safe.
class Constraint {
public:
    /// @throws OptionError naming line and column, what was expected and what was found; or the limit that
    ///                     is exceeded
    [[nodiscard]] static std::shared_ptr<const Constraint>
    regex(std::string_view pattern, const Tokenizer& tokenizer, const ConstraintOptions& options = {}) {
        return make(detail::parse_regex(pattern), tokenizer, options);
    }

    /// @param text  in llama.cpp's GBNF
    /// @throws OptionError as regex(); or naming a rule that is not defined, or never ends, or those of a
    ///                     left recursion
    [[nodiscard]] static std::shared_ptr<const Constraint>
    grammar(std::string_view text, const Tokenizer& tokenizer, const ConstraintOptions& options = {}) {
        return make(detail::parse_grammar(text), tokenizer, options);
    }

    Constraint(const Constraint&) = delete;
    Constraint& operator=(const Constraint&) = delete;

    /// Whether a text matches as a whole.
    /// @throws OptionError if there are too many ways to read it at once
    [[nodiscard]] bool matches(std::string_view bytes) const {
        const std::lock_guard lock(mutex_);
        const State state = read(bytes);
        return recognizer_.is_complete(state);
    }

    /// Whether a text can be continued to one that matches, or is one.
    /// @throws as matches()
    [[nodiscard]] bool may_begin_with(std::string_view bytes) const {
        const std::lock_guard lock(mutex_);
        return read(bytes) != detail::Recognizer::dead;
    }

    /// Checks that texts of these tokens can be held to it.
    /// @param eos  ends a text
    /// @throws OptionError if a token is not the same bytes for both, or @p eos is a single byte of text
    void check(const Tokenizer& tokenizer, TokenId eos) const;

private:
    friend class ConstrainedText;
    using State = detail::Recognizer::State;

    Constraint(detail::Network network, const Tokenizer& tokenizer, const ConstraintOptions& options)
        : options_(options), what_(network.what), tokenizer_(tokenizer), trie_(tokenizer),
          recognizer_(std::move(network)) {}

    [[nodiscard]] static std::shared_ptr<const Constraint>
    make(const detail::Syntax& syntax, const Tokenizer& tokenizer, const ConstraintOptions& options) {
        std::shared_ptr<Constraint> constraint(
            new Constraint(detail::build_network(syntax), tokenizer, options));
        constraint->compute_ahead(options.states_ahead);
        return constraint;
    }

    GPT2_HEAVY void compute_ahead(std::size_t n_states) const;

    GPT2_HEAVY [[nodiscard]] std::shared_ptr<const TokenMask> compute_mask(State state) const;

    /// What may follow a state. @pre  the mutex is held
    [[nodiscard]] std::shared_ptr<const TokenMask> mask(State state) const {
        const auto found = masks_.find(state);
        return found != masks_.end() ? found->second : compute_mask(state);
    }

    /// Whether more is kept than should be. @pre  the mutex is held
    [[nodiscard]] bool is_full() const {
        const std::size_t of_mask = trie_.vocab_size() / 8 + 100;
        return recognizer_.bytes() + masks_.size() * of_mask > options_.cache_bytes;
    }

    /// Forgets what is kept if it is too much, and all states but one. @pre  the mutex is held
    /// @returns the number that @p state has then
    [[nodiscard]] State make_room(State state = detail::Recognizer::dead) const {
        if (!is_full()) {
            return state;
        }
        masks_.clear();
        ++epoch_;
        return recognizer_.forget_all_but(state);
    }

    /// @pre  the mutex is held
    [[nodiscard]] State advance(State state, std::string_view bytes) const {
        recognizer_.begin_count();
        for (const char byte : bytes) {
            state = recognizer_.next(state, static_cast<unsigned char>(byte));
        }
        return state;
    }

    /// The state after a text. @pre  the mutex is held
    [[nodiscard]] State read(std::string_view bytes) const {
        (void)make_room();
        State state = recognizer_.start();
        for (std::size_t i = 0; i < bytes.size() && state != detail::Recognizer::dead; ++i) {
            state = advance(make_room(state), bytes.substr(i, 1));
        }
        return state;
    }

    ConstraintOptions options_;
    const char* what_;
    Tokenizer tokenizer_;
    detail::TokenTrie trie_;
    mutable std::mutex mutex_; ///< for all that follows
    mutable detail::Recognizer recognizer_;
    mutable std::unordered_map<State, std::shared_ptr<const TokenMask>> masks_;
    mutable std::uint64_t epoch_ = 0; ///< how often the states were forgotten
};

/// A text in the making that has to match. One caller at a time.
class ConstrainedText {
public:
    /// @param constraint  not null
    explicit ConstrainedText(std::shared_ptr<const Constraint> constraint)
        : constraint_(std::move(constraint)) {}

    /// What may follow @p tokens, which are any; it is soonest for those of the last call and a few more.
    /// Good until the next call.
    /// @throws OptionError if they are not the begin of a text that matches, or the pattern exceeds a limit
    [[nodiscard]] const TokenMask& follow(std::span<const TokenId> tokens) {
        const Constraint& constraint = *constraint_;
        const std::lock_guard lock(constraint.mutex_);
        (void)constraint.make_room();
        const bool goes_on = epoch_ == constraint.epoch_ && tokens_.size() <= tokens.size() &&
                             std::equal(tokens_.begin(), tokens_.end(), tokens.begin());
        if (!goes_on) {
            tokens_.clear();
            state_ = constraint.recognizer_.start();
        }
        while (tokens_.size() < tokens.size()) {
            state_ = constraint.make_room(state_);
            const TokenId token = tokens[tokens_.size()];
            const bool is_text = !constraint.tokenizer_.is_special(token);
            const State next =
                is_text ? constraint.advance(state_, constraint.tokenizer_.token_bytes(token)) : State{};
            if (next == detail::Recognizer::dead) {
                throw OptionError(detail::concat("constraint: expected a token that it allows at place ",
                                                 tokens_.size(), " of the text, found ", token,
                                                 ", which a processor behind it brought back"));
            }
            state_ = next;
            tokens_.push_back(token);
        }
        epoch_ = constraint.epoch_;
        mask_ = constraint.mask(state_);
        return *mask_;
    }

private:
    using State = detail::Recognizer::State;

    std::shared_ptr<const Constraint> constraint_;
    std::optional<std::uint64_t> epoch_; ///< of state_; none before the first call
    State state_ = detail::Recognizer::dead;
    std::vector<TokenId> tokens_; ///< that lead there
    std::shared_ptr<const TokenMask> mask_;
};

inline void Constraint::check(const Tokenizer& tokenizer, TokenId eos) const {
    if (!tokenizer.is_special(eos) && tokenizer.token_bytes(eos).size() == 1) {
        throw OptionError(
            detail::concat("constraint: expected an eos_token_id that is not a byte of text, found ", eos,
                           ", which is ", detail::quoted(tokenizer.token_bytes(eos))));
    }
    if (tokenizer.size() != tokenizer_.size()) {
        throw OptionError(detail::concat("constraint: expected one for the vocabulary of the model, ",
                                         tokenizer.size(), " tokens, found one for ", tokenizer_.size()));
    }
    for (std::size_t i = 0; i < tokenizer.size(); ++i) {
        const auto token = static_cast<TokenId>(i);
        const std::string_view expected = tokenizer.token_bytes(token);
        const std::string_view found = tokenizer_.token_bytes(token);
        if (found.data() == expected.data()) { // two handles on the same tables
            return;
        }
        if (found != expected) {
            throw OptionError(detail::concat(
                "constraint: expected one for the vocabulary of the model, where token ", i, " is ",
                detail::quoted(expected), ", found one where it is ", detail::quoted(found)));
        }
    }
}

template <class> void Constraint::compute_ahead(std::size_t n_states) const {
    const std::lock_guard lock(mutex_);
    std::vector<State> states{recognizer_.start()}; // breadth first, each once
    std::unordered_map<State, bool> is_known{{states.front(), true}, {detail::Recognizer::dead, true}};
    for (std::size_t i = 0; i < std::min(n_states, states.size()) && !is_full(); ++i) {
        (void)mask(states[i]);
        recognizer_.begin_count();
        for (const std::uint8_t byte : recognizer_.byte_classes()) {
            const State next = recognizer_.next(states[i], byte);
            if (is_known.emplace(next, true).second) {
                states.push_back(next);
            }
        }
    }
}

template <class> std::shared_ptr<const TokenMask> Constraint::compute_mask(State state) const {
    auto mask = std::make_shared<const TokenMask>(trie_.mask(recognizer_, state));
    if (!mask->is_complete() && !mask->allows_any()) {
        throw OptionError(detail::concat(what_, ": expected at most ", detail::Recognizer::most_depth,
                                         " rules inside each other, but this text needs more"));
    }
    masks_.emplace(state, mask);
    return mask;
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE void Constraint::compute_ahead<void>(std::size_t) const;
GPT2_INSTANCE std::shared_ptr<const TokenMask> Constraint::compute_mask<void>(State) const;
#endif

} // namespace gpt2
