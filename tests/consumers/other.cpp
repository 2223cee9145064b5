// SPDX-License-Identifier: MIT

#include <gpt2/gpt2.hpp>

#include <cstddef>

std::size_t count_tokens(const gpt2::Gpt2Model& model, const char* text);

std::size_t count_tokens(const gpt2::Gpt2Model& model, const char* text) {
    return model.tokenizer().encode(text).size();
}
