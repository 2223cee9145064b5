// SPDX-License-Identifier: MIT

// The input is the file of a converted model.

#include <gpt2/io/converted_model.hpp>
#include <gpt2/tokenizer.hpp>
#include <gpt2/transformer_loader.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// Whatever the tables are, encoding ends, and gives tokens that there are.
void use(const gpt2::Tokenizer& tokenizer) {
    const std::string_view text =
        "the thing, that \xc3\xa9 \xff 12345 <|endoftext|>\n\n  there's aaaaaaaaaaaaaaaaaa";
    for (const auto special : {gpt2::SpecialTokens::as_text, gpt2::SpecialTokens::recognized}) {
        (void)tokenizer.decode(tokenizer.encode(text, special));
    }
    std::vector<gpt2::TokenId> all(tokenizer.size());
    std::iota(all.begin(), all.end(), 0);
    (void)tokenizer.encode(tokenizer.decode(all), gpt2::SpecialTokens::recognized);
    (void)tokenizer.special_token("<|endoftext|>");
}

/// Reads every weight; the sanitizer sees one outside the input.
void use(const gpt2::ConvertedModel& model) {
    gpt2::ThreadPool pool(1);
    const gpt2::Transformer transformer = gpt2::make_transformer(model.config(), model.has_separate_head(),
                                                                 gpt2::ConvertedWeights(model, {}, pool));
    std::vector<float> row(model.config().n_embd);
    float sum = 0.0f;
    for (std::size_t token = 0; token < model.config().vocab_size; ++token) {
        transformer.wte.read_output(token, row.data());
        sum += row[0];
    }
    for (const float x : transformer.wpe.flat()) {
        sum += x;
    }
    volatile float used = sum + model.self_test().logits.back();
    (void)used;
    try {
        model.check_data(pool);
    } catch (const gpt2::FormatError&) {
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    gpt2::Tensor<std::byte, 1> file({size});
    if (size != 0) {
        std::memcpy(file.data(), data, size);
    }
    try {
        const auto model = gpt2::ConvertedModel::from_bytes(file.flat(), "input");
        use(model);
        use(gpt2::Tokenizer::of_converted(model.file()));
    } catch (const gpt2::FormatError& error) {
        require(std::string_view(error.what()).find("\"input") !=
                std::string_view::npos); // it names the file
    }
    return 0;
}
