// SPDX-License-Identifier: MIT

// One prompt, and what the options make of it: sampling [MODEL]

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

/// Forbids the tokens with an "e", in the manner of Georges Perec.
gpt2::sampling::LogitsProcessor without_e(const gpt2::Tokenizer& tokenizer) {
    return [tokenizer](std::span<const gpt2::TokenId>, std::span<float> scores) {
        for (std::size_t i = 0; i < scores.size(); ++i) {
            const std::string_view bytes = tokenizer.token_bytes(static_cast<gpt2::TokenId>(i));
            if (bytes.find_first_of("eE") != bytes.npos) {
                scores[i] = -std::numeric_limits<float>::infinity();
            }
        }
    };
}

void print(const gpt2::Gpt2Model& model, std::string_view title, gpt2::GenerationConfig config) {
    config.max_new_tokens = 16;
    const gpt2::GenerationResult result = model.generate("There was once a poor woodcutter who", config);
    std::string text = result.text;
    std::ranges::replace(text, '\n', ' ');
    std::cout << title << ":" << text << "\n";
}

} // namespace

int main(int argc, char** argv) {
    const auto model = gpt2::Gpt2Model::load(argc > 1 ? argv[1] : "models/novella-f16.safetensors");
    const gpt2::GenerationConfig drawn{.do_sample = true, .seed = 42};

    print(model, "greedy", {});
    print(model, "temperature 0", {.do_sample = true, .temperature = 0.0f});
    print(model, "top_k", {.do_sample = true, .top_k = 40, .seed = 42});
    print(model, "another sample", {.do_sample = true, .top_k = 40, .seed = 42, .sample = 1});
    for (const std::string_view name : {"openai", "huggingface", "llama.cpp"}) {
        gpt2::GenerationConfig config = gpt2::preset(name);
        config.seed = 42;
        print(model, name, config);
    }

    gpt2::GenerationConfig config = drawn;
    config.mirostat = gpt2::sampling::Mirostat{.tau = 4.0f};
    print(model, "mirostat", config);

    config = drawn;
    config.guidance_scale = 1.5f; // away from how this would go on
    config.negative_prompt_ids = model.tokenizer().encode("There was once a rich king who");
    print(model, "guidance", config);

    config = drawn;
    config.top_p = 0.9f;
    config.temperature = 1.5f;
    config.processor_order = {"top_p", "temperature"}; // first cut, then flatten what is left
    print(model, "order", config);

    config = {};
    config.logit_bias[model.tokenizer().encode(" sitting").front()] = -5.0f;
    config.no_repeat_ngram_size = 2;
    print(model, "bias", config);

    config = {};
    config.penalty_alpha = 0.6f; // contrastive search: probable, and unlike the text so far
    config.top_k = 4;
    print(model, "contrastive", config);

    config = drawn;
    config.constraint = gpt2::Constraint::regex(" was (born|buried) in 18\\d\\d\\.", model.tokenizer());
    print(model, "constrained", config);

    config = drawn;
    config.logits_processors = {without_e(model.tokenizer())};
    print(model, "my own", config);
}
