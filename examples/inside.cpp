// SPDX-License-Identifier: MIT

// What a model makes of a text: probabilities, attention, hidden states, embeddings: inside [MODEL]

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iostream>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

namespace {

double dot(std::span<const float> a, std::span<const float> b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double cosine(std::span<const float> a, std::span<const float> b) {
    return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}

} // namespace

int main(int argc, char** argv) {
    const auto model = gpt2::Gpt2Model::load(argc > 1 ? argv[1] : "models/novella-f16.safetensors");
    const gpt2::Tokenizer& tokenizer = model.tokenizer();
    const auto tokens = tokenizer.encode("The queen took the king by the");
    const auto word = [&](std::size_t i) { return tokenizer.token_bytes(tokens[i]); };

    // How probable each token was, and which ones would be next.
    const gpt2::GenerationResult result = gpt2::Session(model).generate(
        tokens, {.max_new_tokens = 1, .top_logprobs = 3, .prompt_logprobs = true});
    for (std::size_t i = 1; i < tokens.size(); ++i) { // nothing is before the first
        std::cout << word(i) << " (" << std::exp(result.prompt_logprobs[i]) << ")";
    }
    std::cout << "\nnext:";
    for (const gpt2::TokenLogprob& token : result.top_logprobs[0]) {
        std::cout << " \"" << tokenizer.token_bytes(token.id) << "\" (" << std::exp(token.logprob) << ")";
    }
    std::cout << "\n";

    // Where the last token looks, and how far it is moved, block by block.
    const auto recorder =
        std::make_shared<gpt2::Recorder>(gpt2::Recorder::What{.hidden_states = true, .attention = true});
    gpt2::Session session(model, {.observer = recorder});
    session.forward(tokens);
    const std::size_t last = tokens.size() - 1;
    for (std::size_t layer = 0; layer < model.config().n_layer; ++layer) {
        std::cout << "block " << layer << ":";
        for (std::size_t head = 0; head < model.config().n_head; ++head) {
            const auto weights = recorder->attention_at(layer, head, last);
            const auto most = std::ranges::max_element(weights) - weights.begin();
            std::cout << " [" << word(static_cast<std::size_t>(most)) << "]";
        }
        const double kept =
            cosine(recorder->hidden_state_at(layer, last), recorder->hidden_state_at(layer + 1, last));
        std::cout << "  cosine of what goes in and comes out " << kept << "\n";
    }

    // Texts as vectors.
    const std::vector<float> sea = gpt2::embed(model, "The ship went down in the storm.");
    for (const std::string_view text : {"The boat was lost at sea.", "She poured the tea, and smiled."}) {
        std::cout << cosine(sea, gpt2::embed(model, text)) << "  " << text << "\n";
    }
}
