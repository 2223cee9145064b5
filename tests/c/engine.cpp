// SPDX-License-Identifier: MIT
#include "engine.h"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <new>
#include <stdexcept>

void engine_sample(const char* model, const char* prompt, engine_text* result) {
    const auto found = gpt2::Gpt2Model::load(model).generate(prompt, {.max_new_tokens = ENGINE_TOKENS,
                                                                      .do_sample = true,
                                                                      .temperature = 0.9f,
                                                                      .top_k = 50,
                                                                      .top_p = 0.95f,
                                                                      .min_p = 0.01f,
                                                                      .repetition_penalty = 1.1f,
                                                                      .seed = 7,
                                                                      .sample = 3,
                                                                      .logprobs = true});
    result->n = found.tokens.size();
    std::ranges::copy(found.tokens, result->tokens);
    std::ranges::copy(found.logprobs, result->logprobs);
    result->text_size = found.text.copy(result->text, sizeof result->text);
}

void engine_logits(const char* model, const int32_t* tokens, size_t n, float* logits) {
    gpt2::Session session(gpt2::Gpt2Model::load(model), {.pool = {}, .kv_dtype = gpt2::KvDtype::float32});
    const gpt2::BatchItem item{&session, {tokens, n}, gpt2::Logits::all};
    gpt2::forward({&item, 1});
    std::ranges::copy(session.logits().flat(), logits);
}

void engine_scores(const char* model, const int32_t* tokens, size_t n, float* scores) {
    gpt2::Session session(gpt2::Gpt2Model::load(model), {.pool = {}, .kv_dtype = gpt2::KvDtype::float32});
    std::ranges::copy(session.score({tokens, n}), scores);
}

int32_t engine_throw(const gpt2_token*, void* user_data) {
    switch (*static_cast<const char*>(user_data)) {
    case 'm':
        throw std::bad_alloc();
    case 'l':
        throw std::length_error("too long");
    case 's':
        throw std::runtime_error("a standard exception");
    case 'i':
        throw 1;
    default:
        throw gpt2::Error("an exception of the library");
    }
}
