// SPDX-License-Identifier: MIT

#include <gpt2/gpt2.hpp>

#include <cstddef>

std::size_t count_tokens(const gpt2::Gpt2Model& model, const char* text);

std::size_t count_tokens(const gpt2::Gpt2Model& model, const char* text) {
    gpt2::Session session(model); // drags the forward pass into this unit as well
    const auto tokens = model.tokenizer().encode(text);
    (void)session.forward(tokens);
    return session.position();
}
