// SPDX-License-Identifier: MIT

// Several texts in one call, drawn and searched for: many_texts [MODEL]

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace {

void print(std::string_view title, const std::vector<gpt2::GenerationResult>& texts) {
    std::cout << "\n" << title << "\n";
    for (const gpt2::GenerationResult& text : texts) {
        std::cout << "  ";
        if (text.score) {
            std::cout << *text.score << "  ";
        }
        std::string line = text.text;
        std::ranges::replace(line, '\n', ' ');
        std::cout << line << "  (" << to_string(text.finish_reason) << ")\n";
    }
}

} // namespace

int main(int argc, char** argv) {
    const auto model = gpt2::Gpt2Model::load(argc > 1 ? argv[1] : "models/novella-f16.safetensors");
    const std::vector<std::string> prompts{"There was once a poor woodcutter who", "The king"};

    // Each of the six is the text that it would be alone: sample k of its prompt.
    print("three samples of each of two prompts", model.generate_batch(prompts, {.max_new_tokens = 12,
                                                                                 .do_sample = true,
                                                                                 .temperature = 0.8f,
                                                                                 .top_k = 40,
                                                                                 .seed = 42,
                                                                                 .num_return_sequences = 3}));

    // One after the other, with the beginnings that they share read once; kept in at most 64 MB.
    gpt2::PrefixCache cache(model, {.max_bytes = 64'000'000});
    for (const std::string_view end : {" who lived by the sea.", " who had three sons."}) {
        const std::string prompt = prompts[0] + " had a neighbour, an old fisherman" + std::string(end);
        std::cout << prompt << cache.generate(prompt, {.max_new_tokens = 12}).text << "\n";
    }
    std::cout << cache.statistics().tokens_reused << " tokens were not read again\n";

    // The callback hears of all texts as they come, and may end one of them.
    const auto one_sentence = [](std::size_t, const gpt2::GeneratedToken& token) {
        return token.text.find('.') == token.text.npos ? gpt2::Flow::proceed : gpt2::Flow::stop;
    };
    print("at most one sentence of each",
          model.generate_batch(prompts, {.max_new_tokens = 60, .do_sample = true, .top_k = 40, .seed = 1},
                               one_sentence));

    // Texts that are probable as a whole, the best first.
    print("the best two of four beams", model.generate_batch(prompts, {.max_new_tokens = 12,
                                                                       .no_repeat_ngram_size = 3,
                                                                       .num_return_sequences = 2,
                                                                       .num_beams = 4,
                                                                       .length_penalty = 0.8f}));
    print("three groups that keep away from each other",
          model.generate_batch({&prompts[0], 1}, {.max_new_tokens = 12,
                                                  .num_return_sequences = 3,
                                                  .num_beams = 6,
                                                  .num_beam_groups = 3,
                                                  .diversity_penalty = 2.0f}));
    print("drawn beams",
          model.generate_batch({&prompts[1], 1}, {.max_new_tokens = 12,
                                                  .do_sample = true,
                                                  .seed = 7,
                                                  .num_return_sequences = 2,
                                                  .num_beams = 3,
                                                  .early_stopping = gpt2::sampling::EarlyStopping::on}));
}
