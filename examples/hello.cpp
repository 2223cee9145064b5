// SPDX-License-Identifier: MIT
#include <gpt2/gpt2.hpp>
#include <iostream>

int main() {
    const auto model = gpt2::Gpt2Model::load("models/novella-f16.safetensors");
    model.generate("There was once a poor woodcutter who",
                   {.max_new_tokens = 80, .do_sample = true, .temperature = 0.8f, .top_k = 40, .seed = 42},
                   [](const gpt2::GeneratedToken& token) {
                       std::cout << token.text << std::flush;
                       return gpt2::Flow::proceed;
                   });
}
