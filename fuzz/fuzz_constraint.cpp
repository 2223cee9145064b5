// SPDX-License-Identifier: MIT

// A pattern, which the first byte calls a regular expression or a grammar, and behind a zero byte a text. The
// pattern is refused with a message, or it can be followed: masks say what each token says alone, whatever is
// kept of earlier states, and a text is complete where it matches.

#include "../tests/support/vocabularies.hpp"

#include <gpt2/constraint.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

using gpt2::Constraint;
using gpt2::TokenId;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

const gpt2::Tokenizer& tokenizer() {
    static const gpt2::Tokenizer made = [] {
        std::mt19937 random(1);
        const auto merges = gpt2::test::random_merges(random, "ab01\"[, \xc3\xa9\xe2\x82\xac", 40, true);
        const auto files = gpt2::test::make_vocabulary(merges, {"<|endoftext|>"});
        return gpt2::Tokenizer::from_memory(files.vocab, files.merges);
    }();
    return made;
}

/// What may follow @p text, and what it says of the tokens from @p first on.
void check(const Constraint& constraint, gpt2::ConstrainedText& kept, gpt2::ConstrainedText& forgotten,
           std::span<const TokenId> text, std::size_t first) {
    const gpt2::TokenMask& mask = kept.follow(text);
    require(mask.words() == forgotten.follow(text).words());
    const std::string bytes = tokenizer().decode(text);
    require(mask.is_complete() == constraint.matches(bytes) && constraint.may_begin_with(bytes));
    require(mask.is_complete() || mask.allows_any());
    for (std::size_t i = first; i < tokenizer().size(); i += 7) {
        const auto token = static_cast<TokenId>(i);
        const bool expected = !tokenizer().is_special(token) &&
                              constraint.may_begin_with(bytes + std::string(tokenizer().token_bytes(token)));
        require(mask.allows(token) == expected);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0 || size > 4096) {
        return 0;
    }
    const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::string_view pattern = input.substr(0, input.find('\0'));
    const std::string_view text = input.substr(std::min(pattern.size() + 1, input.size()));
    const auto make = [&](const gpt2::ConstraintOptions& options) {
        return data[0] % 2 == 0 ? Constraint::regex(pattern, tokenizer(), options)
                                : Constraint::grammar(pattern, tokenizer(), options);
    };
    try {
        const auto constraint = make({.states_ahead = 0});
        (void)constraint->matches(text);
        gpt2::ConstrainedText kept(constraint);
        gpt2::ConstrainedText forgotten(make({.cache_bytes = 0, .states_ahead = 0}));
        std::vector<TokenId> tokens;
        for (const std::uint8_t choice : std::span(data, std::min<std::size_t>(size, 8))) {
            check(*constraint, kept, forgotten, tokens, choice % 7);
            const gpt2::TokenMask& mask = kept.follow(tokens);
            std::vector<TokenId> allowed;
            for (std::size_t i = 0; i < tokenizer().size(); ++i) {
                if (mask.allows(static_cast<TokenId>(i))) {
                    allowed.push_back(static_cast<TokenId>(i));
                }
            }
            if (allowed.empty()) {
                break;
            }
            tokens.push_back(allowed[choice % allowed.size()]);
        }
    } catch (const gpt2::OptionError& error) {
        const std::string_view message = error.what();
        require(message.starts_with("regex") || message.starts_with("grammar"));
    }
    return 0;
}
