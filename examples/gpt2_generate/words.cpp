// SPDX-License-Identifier: MIT
#include "words.hpp"

#include "../common/terminal.hpp"
#include "../common/usage_error.hpp"

#include <gpt2/constraint.hpp>
#include <gpt2/error.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

namespace {

using gpt2::TokenId;
using gpt2::detail::concat;

/// Reads all of @p text as a number.
template <class Number> std::optional<Number> number_in(std::string_view text) {
    Number value{};
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && stop == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// "13,42" as ids; nothing if it is something else.
std::optional<std::vector<TokenId>> ids_in(std::string_view text) {
    std::vector<TokenId> ids;
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const auto id = number_in<TokenId>(text.substr(begin, end - begin));
        if (!id || *id < 0) {
            return std::nullopt;
        }
        ids.push_back(*id);
        begin = end + 1;
    }
    return ids;
}

/// What is written in the options, read with one tokenizer.
class Reader {
public:
    explicit Reader(const gpt2::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    std::vector<TokenId> sequence(std::string_view option, std::string_view text) const {
        std::vector<TokenId> tokens =
            ids_in(text).value_or(tokenizer_.encode(text, gpt2::SpecialTokens::recognized));
        if (tokens.empty()) {
            throw UsageError(concat(option, ": expected a text or ids, found ", gpt2::detail::quoted(text)));
        }
        return tokens;
    }

    TokenId token(std::string_view option, std::string_view text) const {
        const std::vector<TokenId> tokens = sequence(option, text);
        if (tokens.size() != 1) {
            throw UsageError(concat(option, ": expected one token, found ", gpt2::detail::quoted(text),
                                    ", which is ", tokens.size()));
        }
        return tokens.front();
    }

    std::vector<TokenId> tokens(std::string_view option, std::span<const std::string> texts) const {
        std::vector<TokenId> list;
        for (const std::string& text : texts) {
            list.push_back(token(option, text));
        }
        return list;
    }

    /// The text, and unless it begins with a space or is written in ids, a space and the text.
    std::vector<std::vector<TokenId>> word(std::string_view option, const std::string& text) const {
        std::vector<std::vector<TokenId>> spellings{sequence(option, text)};
        if (!ids_in(text) && !text.starts_with(' ')) {
            spellings.push_back(tokenizer_.encode(" " + text));
        }
        return spellings;
    }

private:
    const gpt2::Tokenizer& tokenizer_;
};

/// "TEXT=BIAS" in its parts.
std::pair<std::string, float> biased(std::string_view option, std::string_view text) {
    const std::size_t equals = text.rfind('=');
    const auto bias =
        equals == std::string_view::npos ? std::nullopt : number_in<float>(text.substr(equals + 1));
    if (!bias) {
        throw UsageError(concat(option, ": expected =NUMBER at the end, found ", gpt2::detail::quoted(text)));
    }
    return {std::string(text.substr(0, equals)), *bias};
}

template <class Key, class Read>
void add_biases(std::string_view option, std::span<const std::string> texts, Read read,
                std::map<Key, float>& biases) {
    for (const std::string& text : texts) {
        const auto [name, bias] = biased(option, text);
        if (!biases.emplace(read(option, name), bias).second) {
            throw UsageError(
                concat(option, ": ", gpt2::detail::quoted(name), " has been given a bias before"));
        }
    }
}

gpt2::sampling::ExponentialDecay decay_in(std::string_view text) {
    const std::size_t comma = text.find(',');
    const auto start = number_in<std::int64_t>(text.substr(0, comma));
    const auto factor =
        comma == std::string_view::npos ? std::nullopt : number_in<float>(text.substr(comma + 1));
    if (!start || !factor) {
        throw UsageError(
            concat("--exponential-decay-length-penalty: expected a whole number and a number, as in "
                   "50,1.05, found ",
                   gpt2::detail::quoted(text)));
    }
    return {*start, *factor};
}

} // namespace

void resolve(const Words& words, const gpt2::Tokenizer& tokenizer, gpt2::GenerationConfig& config) {
    const Reader reader(tokenizer);
    for (const std::string& text : words.bad_words) {
        for (auto& sequence : reader.word("--bad-words", text)) {
            config.bad_words_ids.push_back(std::move(sequence));
        }
    }
    config.suppress_tokens = reader.tokens("--suppress-tokens", words.suppress_tokens);
    config.begin_suppress_tokens = reader.tokens("--begin-suppress-tokens", words.begin_suppress_tokens);
    if (words.negative_prompt) {
        config.negative_prompt_ids = reader.sequence("--negative-prompt", *words.negative_prompt);
    }
    if (words.forced_bos_token) {
        config.forced_bos_token_id = reader.token("--forced-bos-token-id", *words.forced_bos_token);
    }
    if (words.forced_eos_token) {
        config.forced_eos_token_id = reader.token("--forced-eos-token-id", *words.forced_eos_token);
    }
    add_biases(
        "--logit-bias", words.logit_bias,
        [&](std::string_view option, std::string_view text) { return reader.token(option, text); },
        config.logit_bias);
    add_biases(
        "--sequence-bias", words.sequence_bias,
        [&](std::string_view option, std::string_view text) { return reader.sequence(option, text); },
        config.sequence_bias);
    if (words.exponential_decay) {
        config.exponential_decay_length_penalty = decay_in(*words.exponential_decay);
    }
    if (words.regex) {
        config.constraint = gpt2::Constraint::regex(*words.regex, tokenizer);
    } else if (words.grammar || words.grammar_file) {
        config.constraint = gpt2::Constraint::grammar(
            words.grammar ? *words.grammar : read_file(*words.grammar_file), tokenizer);
    }
}
