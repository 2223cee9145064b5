/* SPDX-License-Identifier: MIT */
#ifndef GPT2_TEST_ENGINE_H
#define GPT2_TEST_ENGINE_H

#include <gpt2.h>

/* What the interface for C++ answers, for comparison; and callbacks that only C++ can write. */

#if defined(__cplusplus)
extern "C" {
#endif

enum { ENGINE_TOKENS = 32, ENGINE_TOP = 3 };

typedef struct engine_text {
    int32_t tokens[ENGINE_TOKENS];
    float logprobs[ENGINE_TOKENS];
    size_t n;
    char text[1024];
    size_t text_size;
    double score; /**< 0 without beams */
    size_t proposed;
    size_t accepted;
} engine_text;

/** What a result tells of probabilities, by place; a number of 0 where there are no most probable ones. */
typedef struct engine_places {
    size_t n;
    float logprobs[ENGINE_TOKENS];
    size_t n_top[ENGINE_TOKENS];
    gpt2_token_logprob top[ENGINE_TOKENS][ENGINE_TOP];
} engine_places;

/** ENGINE_TOKENS tokens after @p prompt, drawn with every option of sampling: temperature 0.9, top_k 50,
 * top_p 0.95, min_p 0.01, repetition_penalty 1.1, seed 7, sample 3. */
void engine_sample(const char* model, const char* prompt, engine_text* result);

/** Logits [n, V] after each token, keys and values in float32. */
void engine_logits(const char* model, const int32_t* tokens, size_t n, float* logits);

/** Log-probabilities [n], keys and values in float32. */
void engine_scores(const char* model, const int32_t* tokens, size_t n, float* scores);

/** ENGINE_TOKENS tokens after an empty prompt, drawn with temperature 1.5, seed 7, and the option or the
 * options that @p option names; "" for none. @param token  for options that name a token */
void engine_option(const char* model, const char* option, int32_t token, engine_text* result);

/** The name of the option with this number; null behind the last. */
const char* engine_option_name(size_t number);

/** Eight tokens after @p prompt: logprobs, top_logprobs ENGINE_TOP and prompt_logprobs of the result. */
void engine_logprobs(const char* model, const char* prompt, engine_places* text, engine_places* in_prompt);

/** ENGINE_TOKENS tokens after "Once" that match a regular expression or a grammar. */
void engine_constrained(const char* model, const char* pattern, int32_t is_grammar, engine_text* result);

/** The vector [C] of a text; @p last: of its last token. */
void engine_embed(const char* model, const char* text, int32_t last, float* embedding);

/** Requests it from another thread, some time before engine_join() returns. */
void engine_cancel(gpt2_cancellation* cancellation);
void engine_join(void);

/** Throws what `*(const char*)user_data` names: 'm' std::bad_alloc, 'l' std::length_error, 's'
 * std::runtime_error, 'i' an int, 'g' gpt2::Error. */
int32_t engine_throw(const gpt2_token* token, void* user_data);

#if defined(__cplusplus)
}
#endif

#endif
