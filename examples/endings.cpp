// SPDX-License-Identifier: MIT

// All the ways in which a text ends, from inside and from outside: endings [MODEL]

#include <gpt2/gpt2.hpp>

#include <atomic>
#include <iostream>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

namespace {

const char* const prompt = "There was once a poor woodcutter who";

void print(const gpt2::GenerationResult& result) {
    std::cout << to_string(result.finish_reason) << " after " << result.tokens.size() << " tokens";
    if (!result.stop_string.empty()) {
        std::cout << ", \"" << result.stop_string << "\"";
    }
    std::cout << ", " << result.total.count() * 1e3 << " ms\n";
}

/// A text without end: where the context is full, its older half is forgotten.
gpt2::GenerationConfig endless() {
    return {.max_new_tokens = 1'000'000'000, .ignore_eos = true, .overflow = gpt2::Overflow::slide};
}

/// Another thread ends it, once there are a few words.
gpt2::GenerationResult cancelled_from_outside(const gpt2::Gpt2Model& model) {
    std::stop_source source;
    std::atomic<bool> enough{false};
    const std::jthread impatient([&] {
        enough.wait(false);
        source.request_stop(); // generate() returns within the work of one layer
    });
    gpt2::GenerationConfig config = endless();
    config.cancellation = source.get_token();
    return model.generate(prompt, config, [&](const gpt2::GeneratedToken& token) {
        if (token.index == 5) {
            enough = true;
            enough.notify_one();
        }
        return gpt2::Flow::proceed;
    });
}

} // namespace

int main(int argc, char** argv) {
    const auto model = gpt2::Gpt2Model::load(argc > 1 ? argv[1] : "models/novella-f16.safetensors");
    print(model.generate(prompt, {.max_new_tokens = 10}));
    print(model.generate(prompt, {.max_new_tokens = 200, .stop_strings = {", ", ". "}}));
    print(model.generate(prompt,
                         {.max_new_tokens = 200, .eos_token_id = model.tokenizer().encode(",").front()}));
    print(model.generate(prompt, endless(), [](const gpt2::GeneratedToken& token) {
        return token.index < 20 ? gpt2::Flow::proceed : gpt2::Flow::stop;
    }));
    gpt2::GenerationConfig config = endless();
    config.max_time = 0.05;
    print(model.generate(prompt, config));
    print(cancelled_from_outside(model));

    std::string book; // longer than the context
    for (int i = 0; i < 200; ++i) {
        book += prompt;
    }
    try {
        print(model.generate(book, {.max_new_tokens = 10}));
    } catch (const gpt2::ContextError& error) {
        std::cout << error.what() << "\n";
    }
    print(model.generate(book, {.max_new_tokens = 10, .overflow = gpt2::Overflow::truncate_left}));
}
