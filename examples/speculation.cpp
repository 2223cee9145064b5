// SPDX-License-Identifier: MIT

// The same text in fewer passes, and how many: speculation [MODEL [ASSISTANT]]

#include <gpt2/gpt2.hpp>

#include <iostream>
#include <memory>
#include <string_view>

namespace {

constexpr std::string_view prompt = "\"Come in,\" said the king. \"Come in,\" said the queen. \"Come in,\"";

gpt2::GenerationResult print(const gpt2::Gpt2Model& model, std::string_view title,
                             const gpt2::GenerationConfig& config) {
    gpt2::GenerationResult result = model.generate(prompt, config);
    const gpt2::Speculation& found = result.speculation;
    std::cout << title << ": " << result.tokens.size() << " tokens, ";
    if (found.passes > 0) {
        std::cout << found.accepted << " of " << found.proposed << " proposals right, " << found.passes
                  << " passes instead of " << result.tokens.size() - 1 << ", ";
    }
    std::cout << result.tpot.count() * 1e3 << " ms per token\n";
    return result;
}

} // namespace

int main(int argc, char** argv) {
    const char* const path = argc > 1 ? argv[1] : "models/novella-f16.safetensors";
    const auto model = gpt2::Gpt2Model::load(path);
    // A smaller model of the same vocabulary; here the same one in 4 bits.
    const auto assistant = argc > 2 ? gpt2::Gpt2Model::load(argv[2])
                                    : gpt2::Gpt2Model::load(path, {.weights = gpt2::WeightType::int4});

    const gpt2::GenerationConfig plain{
        .max_new_tokens = 60, .do_sample = true, .temperature = 0.5f, .seed = 42};
    gpt2::GenerationConfig looked_up = plain;
    looked_up.prompt_lookup_num_tokens = 4; // what followed the last two tokens before
    gpt2::GenerationConfig assisted = plain;
    assisted.assistant_model = std::make_shared<gpt2::DraftModel>(assistant);
    assisted.num_assistant_tokens = 4;

    const auto expected = print(model, "plain", plain);
    const bool same = print(model, "prompt lookup", looked_up).tokens == expected.tokens &&
                      print(model, "assistant", assisted).tokens == expected.tokens;
    std::cout << "the same text: " << (same ? "yes" : "no") << "\n" << prompt << expected.text << "\n";
    return same ? 0 : 1;
}
