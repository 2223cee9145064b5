// SPDX-License-Identifier: MIT

// Models whose vocabulary the converter has trimmed (convert_weights.py --vocabulary-from): the same function
// on what is kept, to the last bit.

#include "support/files.hpp"
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

using gpt2::Gpt2Model;
using gpt2::TokenId;
using gpt2::Tokenizer;
using gpt2::test::fixture;
using gpt2::test::read_file;

namespace {

/// The same model before and after, and which token became which.
struct Pair {
    Gpt2Model whole;
    Gpt2Model trimmed;
    std::vector<TokenId> old_ids; ///< by new id

    explicit Pair(const std::string& dtype)
        : whole(Gpt2Model::load(dtype == "f16" ? gpt2::test::novella()
                                               : fixture("novella-" + dtype + ".safetensors"))),
          trimmed(Gpt2Model::load(fixture("novella-" + dtype + "-trimmed.safetensors"))) {
        std::map<std::string_view, TokenId> ids;
        const Tokenizer before = whole.tokenizer();
        for (TokenId id = 0; id < static_cast<TokenId>(before.size()); ++id) {
            ids[before.token_bytes(id)] = id;
        }
        for (TokenId id = 0; id < static_cast<TokenId>(trimmed.tokenizer().size()); ++id) {
            old_ids.push_back(ids.at(trimmed.tokenizer().token_bytes(id)));
        }
    }

    [[nodiscard]] std::vector<TokenId> old(std::span<const TokenId> tokens) const {
        std::vector<TokenId> result;
        for (const TokenId token : tokens) {
            result.push_back(old_ids[static_cast<std::size_t>(token)]);
        }
        return result;
    }
};

std::string domain() {
    return read_file(fixture("domain.txt"));
}

std::vector<float> logits(const Gpt2Model& model, std::span<const TokenId> tokens) {
    gpt2::Session session(model);
    const gpt2::BatchItem item{&session, tokens, gpt2::Logits::all};
    gpt2::forward({&item, 1});
    const auto all = session.logits().flat();
    return {all.begin(), all.end()};
}

} // namespace

TEST_CASE("ids keep their order, and the configuration names the same tokens") {
    const Pair pair("f16");
    CHECK(std::is_sorted(pair.old_ids.begin(), pair.old_ids.end()));
    CHECK(pair.old_ids.size() > 2000);
    CHECK(pair.old_ids.size() < 5000);
    CHECK(pair.trimmed.config().vocab_size == pair.old_ids.size());
    const auto end = pair.trimmed.config().eos_token_id;
    REQUIRE(end.has_value());
    CHECK(pair.old_ids[static_cast<std::size_t>(*end)] == pair.whole.config().eos_token_id);
    CHECK(pair.trimmed.tokenizer().token_bytes(*end) == "<|endoftext|>");
}

TEST_CASE("a text of kept tokens has the same tokens, and none loses a byte") {
    const Pair pair("f16");
    const Tokenizer after = pair.trimmed.tokenizer();
    CHECK(pair.old(after.encode(domain())) == pair.whole.tokenizer().encode(domain()));
    const std::filesystem::path root = GPT2_SOURCE_DIR;
    for (const char* name :
         {"tests/data/heldout.txt", "docs/model-format.md", "models/novella-f16.safetensors"}) {
        const std::string text = read_file(root / name).substr(0, 300'000);
        CHECK(after.decode(after.encode(text)) == text);
    }
}

TEST_CASE("logits are the same to the last bit, in every format") {
    for (const char* dtype : {"f16", "int8", "int4"}) {
        CAPTURE(dtype);
        const Pair pair(dtype);
        auto tokens = pair.trimmed.tokenizer().encode(domain());
        tokens.resize(40);
        const std::size_t kept = pair.old_ids.size();
        const std::size_t vocab_size = pair.whole.config().vocab_size;
        const std::vector<float> before = logits(pair.whole, pair.old(tokens));
        const std::vector<float> after = logits(pair.trimmed, tokens);
        std::size_t different = 0;
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            for (std::size_t id = 0; id < kept; ++id) {
                const auto old = static_cast<std::size_t>(pair.old_ids[id]);
                different += after[t * kept + id] != before[t * vocab_size + old];
            }
        }
        CHECK(different == 0);
    }
}

TEST_CASE("the self-test holds, and it writes") {
    for (const char* dtype : {"f16", "int8", "int4"}) {
        CAPTURE(dtype);
        const Gpt2Model model =
            Gpt2Model::load(fixture(std::string("novella-") + dtype + "-trimmed.safetensors"));
        CHECK_NOTHROW((void)model.verify());
        const auto result = model.generate("Once upon a time", {.max_new_tokens = 30,
                                                                .do_sample = true,
                                                                .temperature = 0.8f,
                                                                .top_k = 40,
                                                                .seed = 42,
                                                                .ignore_eos = true});
        CHECK(result.tokens.size() == 30);
        CHECK(model.tokenizer().decode(result.tokens) == result.bytes);
    }
}
