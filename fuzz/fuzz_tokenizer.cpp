// SPDX-License-Identifier: MIT
// Any bytes: encoding gives what the plain reference gives, decoding gives the bytes back, and a stream
// gives the same text however it is cut. The first byte chooses a vocabulary, the second where to cut.
#include "../tests/support/vocabularies.hpp"
#include "../tests/tokenizer_reference.hpp"

#include <gpt2/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Pair {
    gpt2::Tokenizer tokenizer;
    reference::Tokenizer plain;
};

Pair make_pair(unsigned seed, std::string_view alphabet, bool orderly) {
    std::mt19937 random(seed);
    const auto merges = gpt2::test::random_merges(random, alphabet, 60, orderly);
    const auto files = gpt2::test::make_vocabulary(merges, {"<|s|>", "<|s|>>"});
    return {gpt2::Tokenizer::from_memory(files.vocab, files.merges), {files.vocab, files.merges}};
}

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::vector<Pair> pairs = {
        make_pair(1, " aeinrst'", true),
        make_pair(2, " ab", true),
        make_pair(3, " ab'1!", false),
        make_pair(4, "a", false),
        make_pair(5, "\xd0\xb0\xbf\xd1\x80\xf0\x9f\x98 ", true),
    };
    if (size < 2 || size > 4096) { // the reference is quadratic
        return 0;
    }
    const Pair& pair = pairs[data[0] % pairs.size()];
    const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);

    const std::vector<gpt2::TokenId> ids = pair.tokenizer.encode(text);
    require(ids == pair.plain.encode(text));
    require(pair.tokenizer.decode(ids) == text);
    for (const gpt2::TokenId id : ids) {
        require(!pair.tokenizer.is_special(id));
    }
    require(pair.tokenizer.decode(pair.tokenizer.encode(text, gpt2::SpecialTokens::recognized)) == text);

    const std::string expected = reference::replaced(text);
    const std::size_t step = 1 + data[1] % 7;
    gpt2::Utf8Stream stream;
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += step) {
        out += stream.push(text.substr(at, step));
    }
    out += stream.flush();
    require(out == expected && gpt2::is_valid_utf8(out));
    return 0;
}
