// SPDX-License-Identifier: MIT
// Any two texts as vocab.json and merges.txt, with a byte 0x1E (record separator) between them: loading
// gives a tokenizer that works, or an error derived from gpt2::Error. A first part that begins with `+` is
// put behind the tokens of the 256 bytes, which a fuzzer would hardly find.
#include "../tests/support/vocabularies.hpp"

#include <gpt2/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::string bytes = gpt2::test::make_vocabulary({}).vocab;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::size_t separator = input.find('\x1e');
    std::string vocab(input.substr(0, separator));
    const std::string_view merges =
        separator == std::string_view::npos ? std::string_view() : input.substr(separator + 1);
    if (vocab.starts_with('+')) {
        vocab = bytes.substr(0, bytes.size() - 1) + vocab.substr(1);
    }
    std::optional<gpt2::Tokenizer> tokenizer;
    try {
        tokenizer = gpt2::Tokenizer::from_memory(vocab, merges, "fuzz");
    } catch (const gpt2::Error&) {
        return 0;
    }
    for (const auto special : {gpt2::SpecialTokens::as_text, gpt2::SpecialTokens::recognized}) {
        if (tokenizer->decode(tokenizer->encode(input, special)) != input) {
            std::abort();
        }
    }
    for (std::size_t id = 0; id < tokenizer->size(); ++id) {
        const auto token = static_cast<gpt2::TokenId>(id);
        const std::string_view name = tokenizer->token_bytes(token);
        if (name.empty() || tokenizer->is_special(token) != (tokenizer->special_token(name) == token)) {
            std::abort();
        }
    }
    return 0;
}
