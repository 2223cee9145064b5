// SPDX-License-Identifier: MIT
// A program outside the project, made of two translation units that both include everything.

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <exception>
#include <iostream>

std::size_t count_tokens(const gpt2::Gpt2Model& model, const char* text); // other.cpp

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: consumer MODEL\n";
        return 2;
    }
    try {
        const auto model = gpt2::Gpt2Model::load(argv[1]);
        std::size_t streamed = 0;
        const auto result = model.generate("Once upon a time", {.max_new_tokens = 4},
                                           [&streamed](const gpt2::GeneratedToken&) {
                                               ++streamed;
                                               return gpt2::Flow::proceed;
                                           });
        std::cout << "gpt2 " << gpt2::version_string << ": " << count_tokens(model, "Once upon a time")
                  << " tokens," << result.text << '\n';
        return result.tokens.size() == 4 && streamed != 0 ? 0 : 1;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
