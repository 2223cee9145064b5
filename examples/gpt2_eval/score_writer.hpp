// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/evaluation/perplexity.hpp>
#include <gpt2/evaluation/token_details.hpp>
#include <gpt2/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// @file
/// The outputs of `gpt2-eval score`.

enum class ScoreFormat { tsv, json, html };

/// A token of a text and what the model says of it.
struct TextToken {
    std::uint64_t index = 0;  ///< in the text
    std::uint64_t offset = 0; ///< in the text, in bytes
    gpt2::TokenId id = 0;
    std::string_view bytes;
    std::optional<gpt2::evaluation::TokenDetails> details; ///< none: nothing is before it
};

/// Of what the output tells.
struct ScoreHeading {
    std::string model;
    std::string text;
};

/// Turns tokens into text, one after the other. One caller at a time.
class ScoreWriter {
public:
    /// @param tokenizer  of the model, for the tokens that might have come; must outlive the writer
    [[nodiscard]] static std::unique_ptr<ScoreWriter> make(ScoreFormat format, const ScoreHeading& heading,
                                                           const gpt2::Tokenizer& tokenizer);

    virtual ~ScoreWriter() = default;
    ScoreWriter(const ScoreWriter&) = delete;
    ScoreWriter& operator=(const ScoreWriter&) = delete;

    virtual void add(const TextToken& token) = 0;

    /// What stands behind the last token. @param score  of all
    virtual void end(const gpt2::evaluation::TextScore& score) = 0;

    /// All that was written since the last call.
    [[nodiscard]] std::string take() { return std::exchange(out_, {}); }

protected:
    explicit ScoreWriter(const gpt2::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    /// None of an id that fills up the vocabulary and belongs to no token.
    [[nodiscard]] std::string_view bytes_of(gpt2::TokenId id) const {
        return static_cast<std::size_t>(id) < tokenizer_.size() ? tokenizer_.token_bytes(id)
                                                                : std::string_view();
    }

    std::string out_;

private:
    const gpt2::Tokenizer& tokenizer_;
};

/// ScoreWriter::make() for HTML.
[[nodiscard]] std::unique_ptr<ScoreWriter> make_html_writer(const ScoreHeading& heading,
                                                            const gpt2::Tokenizer& tokenizer);
