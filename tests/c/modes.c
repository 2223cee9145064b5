/* SPDX-License-Identifier: MIT */

/* Every option that C++ has, several texts at once, speculation, cancellation, sessions on disk and
 * embeddings: what the interface for C++ gives, and every way in which they can fail. Pure C99. */

#include "modes.h"
#include "check.h"
#include "engine.h"

#include <gpt2.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gpt2_generation_config drawn(void) {
    gpt2_generation_config config;
    gpt2_generation_config_init(&config);
    config.max_new_tokens = ENGINE_TOKENS;
    config.do_sample = 1;
    config.temperature = gpt2_float(1.5f);
    config.seed = gpt2_uint(7);
    return config;
}

static int same_tokens(const gpt2_result* result, const int32_t* expected, size_t n_expected) {
    size_t n = 0;
    const int32_t* tokens = gpt2_result_tokens(result, &n);
    return n == n_expected && memcmp(tokens, expected, n * sizeof *tokens) == 0;
}

/* ---- Options */

static void flatten(const int32_t* tokens, size_t n_tokens, float* scores, size_t n_scores, void* user_data) {
    size_t i;
    size_t* calls = (size_t*)user_data;
    CHECK(tokens[0] >= 0 && n_tokens == ++*calls); /* the prompt is one token */
    for (i = 0; i < n_scores; ++i) {
        scores[i] = i < 100 ? 0.0f : -INFINITY;
    }
}

/* What is pointed at by the options under test. */
static struct {
    int32_t tokens[2];
    int32_t others[2];
    gpt2_tokens sequences[2];
    gpt2_sequence_bias sequence_bias[2];
    gpt2_logit_bias logit_bias[2];
    gpt2_exponential_decay decay;
    gpt2_dry dry;
    gpt2_xtc xtc;
    gpt2_mirostat mirostat;
    gpt2_bytes breaker;
    gpt2_logits_processor processor;
    size_t calls;
    const char* order[2];
} held;

/* As engine_option() in engine.cpp. @returns 0 for a name that is not known */
static int set_option(gpt2_generation_config* config, const char* name, int32_t token) {
    memset(&held, 0, sizeof held);
    held.tokens[0] = held.others[1] = token;
    held.tokens[1] = 5;
    held.others[0] = 4;
#define OPTION(text) if (strcmp(name, text) == 0)
    OPTION("") {
        return 1;
    }
    OPTION("min_new_tokens") {
        config->eos_token_id = gpt2_int(token);
        config->min_new_tokens = gpt2_int(9);
        return 1;
    }
    OPTION("num_beams") {
        config->num_beams = gpt2_int(4);
        config->length_penalty = gpt2_float(0.5f);
        config->early_stopping = GPT2_EARLY_STOPPING_NEVER;
        return 1;
    }
    OPTION("num_beam_groups") {
        gpt2_generation_config_init(config);
        config->max_new_tokens = ENGINE_TOKENS;
        config->num_beams = gpt2_int(4);
        config->num_beam_groups = gpt2_int(2);
        config->diversity_penalty = gpt2_float(1.5f);
        config->early_stopping = GPT2_EARLY_STOPPING_ON;
        return 1;
    }
    OPTION("penalty_alpha") {
        gpt2_generation_config_init(config);
        config->max_new_tokens = ENGINE_TOKENS;
        config->top_k = gpt2_int(4);
        config->penalty_alpha = gpt2_float(0.6f);
        return 1;
    }
    OPTION("guidance_scale") {
        config->guidance_scale = gpt2_float(1.7f);
        config->negative_prompt_ids.data = held.tokens;
        config->negative_prompt_ids.size = 2;
        return 1;
    }
    OPTION("typical_p") {
        return config->typical_p = gpt2_float(0.4f), 1;
    }
    OPTION("epsilon_cutoff") {
        return config->epsilon_cutoff = gpt2_float(0.02f), 1;
    }
    OPTION("eta_cutoff") {
        return config->eta_cutoff = gpt2_float(0.02f), 1;
    }
    OPTION("top_n_sigma") {
        return config->top_n_sigma = gpt2_float(1.5f), 1;
    }
    OPTION("presence_penalty") {
        return config->presence_penalty = gpt2_float(6.0f), 1;
    }
    OPTION("frequency_penalty") {
        config->frequency_penalty = gpt2_float(6.0f);
        config->penalty_last_n = gpt2_int(3);
        return 1;
    }
    OPTION("no_repeat_ngram_size") {
        return config->no_repeat_ngram_size = gpt2_int(1), 1;
    }
    OPTION("forced_bos_token_id") {
        return config->forced_bos_token_id = gpt2_int(11), 1;
    }
    OPTION("forced_eos_token_id") {
        return config->forced_eos_token_id = gpt2_int(12), 1;
    }
    OPTION("suppress_tokens") {
        config->suppress_tokens.data = held.others;
        config->suppress_tokens.size = 2;
        return 1;
    }
    OPTION("begin_suppress_tokens") {
        config->begin_suppress_tokens.data = held.tokens;
        config->begin_suppress_tokens.size = 1;
        return 1;
    }
    OPTION("bad_words_ids") {
        static const int32_t pair[2] = {1, 2};
        held.sequences[0].data = pair;
        held.sequences[0].size = 2;
        held.sequences[1].data = held.tokens;
        held.sequences[1].size = 1;
        config->bad_words_ids = held.sequences;
        config->n_bad_words_ids = 2;
        return 1;
    }
    OPTION("sequence_bias") {
        held.others[0] = 7;
        held.sequence_bias[0].tokens.data = held.tokens;
        held.sequence_bias[0].tokens.size = 1;
        held.sequence_bias[0].bias = -9.0f;
        held.sequence_bias[1].tokens.data = held.others;
        held.sequence_bias[1].tokens.size = 1;
        held.sequence_bias[1].bias = 5.0f;
        config->sequence_bias = held.sequence_bias;
        config->n_sequence_bias = 2;
        return 1;
    }
    OPTION("logit_bias") {
        held.logit_bias[0].token = token;
        held.logit_bias[0].bias = -INFINITY;
        held.logit_bias[1].token = 9;
        held.logit_bias[1].bias = 5.0f;
        config->logit_bias = held.logit_bias;
        config->n_logit_bias = 2;
        return 1;
    }
    OPTION("exponential_decay_length_penalty") {
        held.decay.start = 3;
        held.decay.factor = 1.3f;
        config->exponential_decay_length_penalty = &held.decay;
        return 1;
    }
    OPTION("dry") {
        held.breaker.data = ".";
        held.breaker.size = 1;
        held.dry.multiplier = gpt2_float(8.0f);
        held.dry.base = gpt2_float(2.0f);
        held.dry.allowed_length = gpt2_int(1);
        held.dry.penalty_last_n = gpt2_int(20);
        held.dry.sequence_breakers = &held.breaker;
        held.dry.n_sequence_breakers = 1;
        config->dry = &held.dry;
        return 1;
    }
    OPTION("xtc") {
        held.xtc.probability = gpt2_float(0.9f);
        held.xtc.threshold = gpt2_float(0.02f);
        config->xtc = &held.xtc;
        return 1;
    }
    OPTION("mirostat") {
        held.mirostat.tau = gpt2_float(2.0f);
        held.mirostat.eta = gpt2_float(0.3f);
        config->mirostat = &held.mirostat;
        return 1;
    }
    OPTION("top_k_ties") {
        held.processor.function = flatten;
        held.processor.user_data = &held.calls;
        config->logits_processors = &held.processor;
        config->n_logits_processors = 1;
        config->top_k = gpt2_int(5);
        config->top_k_ties = GPT2_TOP_K_TIES_CUT;
        return 1;
    }
    OPTION("top_p_rule") {
        config->top_p = gpt2_float(0.6f);
        config->top_p_rule = GPT2_TOP_P_WITHIN;
        return 1;
    }
    OPTION("processor_order") {
        held.order[0] = "top_p";
        held.order[1] = "temperature";
        config->top_p = gpt2_float(0.6f);
        config->processor_order = held.order;
        config->n_processor_order = 2;
        return 1;
    }
    OPTION("prompt_lookup_num_tokens") {
        config->prompt_lookup_num_tokens = gpt2_int(3);
        config->max_matching_ngram_size = gpt2_int(1);
        return 1;
    }
#undef OPTION
    return 0;
}

/* Each option gives the text that it gives in C++, which is not that without it. */
static void test_every_option(const gpt2_model* model) {
    engine_text plain;
    engine_text expected;
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    const char* name;
    size_t i;
    memset(&plain, 0, sizeof plain);
    engine_option(NOVELLA, "", 0, &plain);
    CHECK(plain.n == ENGINE_TOKENS);
    for (i = 0; (name = engine_option_name(i)) != NULL; ++i) {
        const int is_faster = strcmp(name, "prompt_lookup_num_tokens") == 0;
        int ok;
        config = drawn();
        ok = set_option(&config, name, plain.tokens[0]);
        memset(&expected, 0, sizeof expected);
        engine_option(NOVELLA, name, plain.tokens[0], &expected);
        OK(gpt2_generate(model, "", 0, &config, NULL, NULL, &result));
        ok = ok && same_tokens(result, expected.tokens, expected.n);
        ok = ok && same_tokens(result, plain.tokens, plain.n) == (i == 0 || is_faster);
        ok = ok && gpt2_result_score(result).value == expected.score;
        ok = ok && gpt2_result_score(result).is_set == (strncmp(name, "num_beam", 8) == 0);
        ok = ok && gpt2_result_speculation(result).proposed == expected.proposed;
        ok = ok && gpt2_result_speculation(result).accepted == expected.accepted;
        ok = ok && (gpt2_result_speculation(result).passes > 0) == is_faster;
        ok = ok && (expected.proposed > 0) == is_faster;
        check(ok, name, WHERE);
        gpt2_result_free(result);
    }
}

static void test_option_errors(const gpt2_model* model) {
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    const gpt2_tokens no_tokens = {NULL, 1};
    gpt2_logit_bias twice[2] = {{3, 1.0f}, {3, 2.0f}};
    gpt2_sequence_bias sequences[2];
    gpt2_logits_processor none = {NULL, NULL};
    gpt2_bytes no_text = {NULL, 1};
    gpt2_dry dry;
    gpt2_xtc xtc;
    gpt2_mirostat mirostat;
    gpt2_exponential_decay decay = {0, 1.5f, 1};
    const char* null_name = NULL;
    const int32_t token = 3;
    memset(sequences, 0, sizeof sequences);
    memset(&dry, 0, sizeof dry);
    memset(&xtc, 0, sizeof xtc);
    memset(&mirostat, 0, sizeof mirostat);
#define REFUSED(message)                                                                                     \
    FAILS(GPT2_ERROR_OPTION, message, gpt2_generate(model, "a", 1, &config, NULL, NULL, &result))
#define BAD_OPTION(member, given, message)                                                                   \
    config = drawn();                                                                                        \
    config.member = given;                                                                                   \
    REFUSED(message)
#define BAD_ARRAY(member, given, message)                                                                    \
    config = drawn();                                                                                        \
    config.member = given;                                                                                   \
    config.n_##member = 1;                                                                                   \
    REFUSED(message)
    BAD_OPTION(max_time, gpt2_double(-1.0), "max_time is -1");
    BAD_OPTION(max_time.value, 1.0, "max_time.value is 1 but has no effect while is_set is 0");
    BAD_OPTION(num_return_sequences, gpt2_int(0), "num_return_sequences is 0");
    BAD_OPTION(num_return_sequences, gpt2_int(2), "num_return_sequences is 2, expected 1");
    BAD_OPTION(num_return_sequences.value, 2, "num_return_sequences.value is 2 but has no effect");
    BAD_OPTION(num_beams, gpt2_int(0), "num_beams is 0");
    BAD_OPTION(num_beam_groups, gpt2_int(2), "num_beam_groups is set but has no effect while num_beams is 1");
    BAD_OPTION(length_penalty, gpt2_float(1.0f), "length_penalty is set but has no effect");
    BAD_OPTION(early_stopping, GPT2_EARLY_STOPPING_OFF, "early_stopping is set but has no effect");
    BAD_OPTION(early_stopping, 4, "early_stopping is 4, expected a number from 0 to 3");
    BAD_OPTION(diversity_penalty, gpt2_float(1.0f), "diversity_penalty is set but has no effect");
    BAD_OPTION(prompt_lookup_num_tokens, gpt2_int(0), "prompt_lookup_num_tokens is 0");
    BAD_OPTION(max_matching_ngram_size, gpt2_int(2), "max_matching_ngram_size is set but has no effect");
    BAD_OPTION(num_assistant_tokens, gpt2_int(2), "num_assistant_tokens is set but has no effect");
    BAD_OPTION(top_k_ties, 2, "top_k_ties is 2");
    BAD_OPTION(top_p_rule, 2, "top_p_rule is 2");
    BAD_OPTION(prompt_logprobs, 2, "prompt_logprobs is 2, expected a number from 0 to 1");
    BAD_OPTION(top_logprobs, -1, "top_logprobs is -1, expected 0 or more");
    BAD_OPTION(penalty_alpha, gpt2_float(0.5f), "penalty_alpha");
    BAD_OPTION(penalty_alpha.value, 0.5f, "penalty_alpha.value is 0.5 but has no effect");
    BAD_OPTION(guidance_scale, gpt2_float(NAN), "guidance_scale is nan");
    BAD_OPTION(forced_bos_token_id, gpt2_int((int64_t)1 << 40), "forced_bos_token_id is 1099511627776");
    BAD_OPTION(forced_eos_token_id, gpt2_int((int64_t)1 << 40), "forced_eos_token_id is 1099511627776");
    BAD_OPTION(negative_prompt_ids, no_tokens, "negative_prompt_ids: expected a pointer");
    BAD_OPTION(suppress_tokens, no_tokens, "suppress_tokens: expected a pointer");
    BAD_OPTION(begin_suppress_tokens, no_tokens, "begin_suppress_tokens: expected a pointer");
    BAD_ARRAY(bad_words_ids, NULL, "bad_words_ids: expected a pointer");
    BAD_ARRAY(bad_words_ids, &no_tokens, "bad_words_ids: expected a pointer");
    BAD_ARRAY(sequence_bias, NULL, "sequence_bias: expected a pointer");
    BAD_ARRAY(logit_bias, NULL, "logit_bias: expected a pointer");
    BAD_ARRAY(logits_processors, NULL, "logits_processors: expected a pointer");
    BAD_ARRAY(logits_processors, &none, "logits_processors: expected a pointer");
    BAD_ARRAY(processor_order, NULL, "processor_order: expected a pointer");
    BAD_ARRAY(processor_order, &null_name, "processor_order: expected a pointer");
    BAD_OPTION(exponential_decay_length_penalty, &decay, "reserved is 1");
    config = drawn();
    config.logit_bias = twice;
    config.n_logit_bias = 2;
    REFUSED("logit_bias: expected each token once, found 3 twice");
    sequences[0].tokens.data = sequences[1].tokens.data = &token;
    sequences[0].tokens.size = sequences[1].tokens.size = 1;
    config = drawn();
    config.sequence_bias = sequences;
    config.n_sequence_bias = 2;
    REFUSED("sequence_bias: expected each sequence once, found that of number 1 twice");
    sequences[0].reserved = 1;
    REFUSED("reserved is 1");
    config = drawn();
    config.dry = &dry;
    dry.base.value = 2.0f;
    REFUSED("dry.base.value is 2 but has no effect");
    dry.base.value = 0.0f;
    dry.n_sequence_breakers = 1;
    REFUSED("dry.sequence_breakers: expected a pointer");
    dry.sequence_breakers = &no_text;
    REFUSED("dry.sequence_breakers: expected a pointer");
    config = drawn();
    config.xtc = &xtc;
    xtc.threshold = gpt2_float(0.6f);
    REFUSED("xtc.threshold is 0.6");
    config = drawn();
    config.mirostat = &mirostat;
    mirostat.tau = gpt2_float(0.0f);
    REFUSED("mirostat.tau is 0");
#undef BAD_ARRAY
#undef BAD_OPTION
#undef REFUSED
    CHECK(result == NULL);
}

static void test_defaults_of_structures(const gpt2_model* model) {
    gpt2_generation_config config = drawn();
    gpt2_dry dry;
    gpt2_mirostat mirostat;
    gpt2_result* result = NULL;
    memset(&dry, 0, sizeof dry);
    memset(&mirostat, 0, sizeof mirostat);
    config.dry = &dry; /* all bits 0: as in C++ without a word */
    config.mirostat = &mirostat;
    OK(gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
    gpt2_result_free(result);
    dry.sequence_breakers = &held.breaker; /* not null, and none of them */
    OK(gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
    gpt2_result_free(result);
}

static void test_truncate_left(const gpt2_model* tiny) {
    int32_t prompt[40];
    int32_t expected[5];
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    gpt2_session* session = session_of(tiny);
    size_t i;
    size_t n = 0;
    for (i = 0; i < 40; ++i) {
        prompt[i] = (int32_t)i;
    }
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 5;
    config.ignore_eos = 1;
    OK(gpt2_session_generate(session, prompt + 40 - 19, 19, &config, NULL, NULL, &result)); /* of 24 */
    memcpy(expected, gpt2_result_tokens(result, &n), sizeof expected);
    CHECK(n == 5);
    gpt2_result_free(result);
    OK(gpt2_session_truncate(session, 0));
    FAILS(GPT2_ERROR_CONTEXT, "truncate_left",
          gpt2_session_generate(session, prompt, 40, &config, NULL, NULL, &result));
    config.overflow = GPT2_OVERFLOW_TRUNCATE_LEFT;
    OK(gpt2_session_generate(session, prompt, 40, &config, NULL, NULL, &result));
    CHECK(same_tokens(result, expected, 5));
    gpt2_result_free(result);
    gpt2_session_free(session);
}

/* ---- What a result tells of probabilities */

/* @returns whether a place of a result is that of C++ */
static int same_place(const gpt2_token_logprob* found, size_t n, const engine_places* expected, size_t i) {
    return n == expected->n_top[i] && (found == NULL) == (n == 0) &&
           (n == 0 || memcmp(found, expected->top[i], n * sizeof *found) == 0);
}

static int32_t compare_places(const gpt2_token* token, void* user_data) {
    CHECK(same_place(token->top_logprobs, token->n_top_logprobs, (const engine_places*)user_data,
                     token->index));
    return GPT2_PROCEED;
}

static int32_t compare_places_of_batch(size_t index, const gpt2_token* token, void* user_data) {
    CHECK(index == 0);
    return compare_places(token, user_data);
}

static void check_places(const gpt2_result* result, const engine_places* text, const engine_places* prompt) {
    size_t i;
    size_t n = 0;
    const float* logprobs = gpt2_result_prompt_logprobs(result, &n);
    CHECK(n == prompt->n && n == gpt2_result_prompt_tokens(result) && n > 3);
    CHECK(memcmp(logprobs, prompt->logprobs, n * sizeof *logprobs) == 0 && isnan(logprobs[0]));
    for (i = 0; i < text->n; ++i) {
        const gpt2_token_logprob* found = gpt2_result_top_logprobs(result, i, &n);
        CHECK(n == ENGINE_TOP && same_place(found, n, text, i));
        CHECK(n > 0 && found[0].logprob == gpt2_result_logprobs(result, NULL)[i]); /* greedy: the first */
    }
    CHECK(gpt2_result_top_logprobs(result, i, &n) == NULL && n == 0); /* behind the last */
    for (i = 0; i < prompt->n; ++i) {
        const gpt2_token_logprob* found = gpt2_result_prompt_top_logprobs(result, i, &n);
        CHECK(n == (i == 0 ? 0 : ENGINE_TOP) && same_place(found, n, prompt, i));
    }
    CHECK(gpt2_result_prompt_top_logprobs(result, i, &n) == NULL && n == 0);
}

static void test_logprobs(const gpt2_model* model) {
    static const char text[] = "There was once a poor woodcutter";
    const gpt2_bytes prompt = {text, sizeof text - 1};
    engine_places places;
    engine_places in_prompt;
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    gpt2_results* results = NULL;
    size_t n = 7;
    memset(&places, 0, sizeof places);
    memset(&in_prompt, 0, sizeof in_prompt);
    engine_logprobs(NOVELLA, text, &places, &in_prompt);
    CHECK(places.n == 8);
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 8;
    config.logprobs = 1;
    config.top_logprobs = ENGINE_TOP;
    config.prompt_logprobs = 1;
    OK(gpt2_generate(model, text, prompt.size, &config, compare_places, &places, &result));
    check_places(result, &places, &in_prompt);
    gpt2_result_free(result);
    OK(gpt2_generate_batch(model, &prompt, 1, &config, compare_places_of_batch, &places, NULL, &results));
    check_places(gpt2_results_at(results, 0), &places, &in_prompt);
    gpt2_results_free(results);
    config.top_logprobs = 0;
    memset(&places, 0, sizeof places);
    OK(gpt2_generate(model, text, prompt.size, &config, compare_places, &places, &result));
    CHECK(gpt2_result_prompt_logprobs(result, &n) != NULL && n == in_prompt.n);
    CHECK(gpt2_result_prompt_top_logprobs(result, 1, &n) == NULL && n == 0);
    CHECK(gpt2_result_top_logprobs(result, 0, NULL) == NULL);
    gpt2_result_free(result);
    config.prompt_logprobs = 0;
    OK(gpt2_generate(model, text, prompt.size, &config, NULL, NULL, &result));
    CHECK(gpt2_result_prompt_logprobs(result, &n) == NULL && n == 0);
    gpt2_result_free(result);
}

/* ---- Constraints */

static int matches(const gpt2_constraint* constraint, const char* text, size_t size) {
    int32_t answer = 7;
    OK(gpt2_constraint_matches(constraint, text, size, &answer));
    CHECK(answer == 0 || answer == 1);
    return answer;
}

static int may_begin_with(const gpt2_constraint* constraint, const char* text) {
    int32_t answer = 7;
    OK(gpt2_constraint_may_begin_with(constraint, text, strlen(text), &answer));
    CHECK(answer == 0 || answer == 1);
    return answer;
}

static int32_t free_constraint(const gpt2_token* token, void* user_data) {
    if (token->index == 0) {
        gpt2_constraint_free((gpt2_constraint*)user_data);
    }
    return GPT2_PROCEED;
}

static void test_constraints(const gpt2_model* model) {
    static const char* const patterns[2] = {"(January|June) \\d{1,2}, 18\\d\\d",
                                            "root ::= \"yes\" | \"no\" digit\ndigit ::= [0-9]"};
    static const char* const matching[2] = {"June 7, 1815", "no3"};
    static const char* const begins[2] = {"June 7", "no"};
    engine_text expected;
    gpt2_constraint* constraint = NULL;
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    gpt2_bytes text;
    int32_t i;
    for (i = 0; i < 2; ++i) {
        const char* pattern = patterns[i];
        memset(&expected, 0, sizeof expected);
        engine_constrained(NOVELLA, pattern, i, &expected);
        OK(i == 0 ? gpt2_constraint_regex(model, pattern, strlen(pattern), &constraint)
                  : gpt2_constraint_grammar(model, pattern, strlen(pattern), &constraint));
        gpt2_generation_config_init(&config);
        config.max_new_tokens = ENGINE_TOKENS;
        config.constraint = constraint;
        OK(gpt2_generate(model, "Once", 4, &config, NULL, NULL, &result));
        text = gpt2_result_text(result);
        CHECK(same_tokens(result, expected.tokens, expected.n));
        CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_EOS && text.size > 1);
        CHECK(matches(constraint, text.data, text.size) && !matches(constraint, text.data, text.size - 1));
        CHECK(matches(constraint, matching[i], strlen(matching[i])) && !matches(constraint, NULL, 0));
        CHECK(may_begin_with(constraint, begins[i]) && may_begin_with(constraint, matching[i]));
        CHECK(may_begin_with(constraint, "") && !may_begin_with(constraint, "maybe"));
        gpt2_result_free(result);
        OK(gpt2_generate(model, "Once", 4, &config, free_constraint, constraint,
                         &result)); /* which goes on */
        CHECK(same_tokens(result, expected.tokens, expected.n));
        gpt2_result_free(result);
        constraint = NULL;
    }
}

static void test_constraint_errors(const gpt2_model* model, const gpt2_model* tiny) {
    gpt2_constraint* constraint = NULL;
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    int32_t answer = 7;
#define REFUSED(message, call) FAILS(GPT2_ERROR_OPTION, message, call)
    REFUSED("expected", gpt2_constraint_regex(model, "(a", 2, &constraint));
    REFUSED("root", gpt2_constraint_grammar(model, "a ::= \"b\"", 9, &constraint));
    REFUSED("model: expected a pointer", gpt2_constraint_regex(NULL, "a", 1, &constraint));
    REFUSED("model: expected a pointer", gpt2_constraint_grammar(NULL, "a", 1, &constraint));
    REFUSED("pattern: expected a pointer", gpt2_constraint_regex(model, NULL, 1, &constraint));
    REFUSED("grammar: expected a pointer", gpt2_constraint_grammar(model, NULL, 1, &constraint));
    REFUSED("constraint: expected a pointer", gpt2_constraint_regex(model, "a", 1, NULL));
    REFUSED("constraint: expected a pointer", gpt2_constraint_grammar(model, "a", 1, NULL));
    REFUSED("constraint: expected a pointer", gpt2_constraint_matches(NULL, "a", 1, &answer));
    REFUSED("constraint: expected a pointer", gpt2_constraint_may_begin_with(NULL, "a", 1, &answer));
    CHECK(constraint == NULL && answer == 7);
    OK(gpt2_constraint_regex(tiny, "a+", 2, &constraint));
    REFUSED("matches: expected a pointer", gpt2_constraint_matches(constraint, "a", 1, NULL));
    REFUSED("may_begin: expected a pointer", gpt2_constraint_may_begin_with(constraint, "a", 1, NULL));
    REFUSED("text: expected a pointer", gpt2_constraint_matches(constraint, NULL, 1, &answer));
    gpt2_generation_config_init(&config);
    config.constraint = constraint;
    REFUSED("constraint: expected one for the vocabulary of the model",
            gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
    config.ignore_eos = 1;
    REFUSED("constraint and ignore_eos are both set",
            gpt2_generate(tiny, "a", 1, &config, NULL, NULL, &result));
#undef REFUSED
    CHECK(result == NULL);
    gpt2_constraint_free(constraint);
}

/* ---- The end from outside */

typedef struct canceller {
    gpt2_cancellation* cancellation;
    size_t at; /* tokens */
    int frees;
    size_t calls;
} canceller;

static int32_t cancel(const gpt2_token* token, void* user_data) {
    canceller* state = (canceller*)user_data;
    (void)token;
    if (++state->calls == state->at) {
        if (state->frees) {
            gpt2_cancellation_free(state->cancellation);
        } else {
            gpt2_cancellation_request(state->cancellation);
        }
    }
    return GPT2_PROCEED;
}

static void test_cancellation(const gpt2_model* model) {
    canceller state = {NULL, 3, 0, 0};
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    size_t n = 7;
    OK(gpt2_cancellation_create(&state.cancellation));
    CHECK(gpt2_cancellation_requested(state.cancellation) == 0);
    gpt2_generation_config_init(&config);
    config.cancellation = state.cancellation;
    config.ignore_eos = 1;
    OK(gpt2_generate(model, "Once", 4, &config, cancel, &state, &result));
    (void)gpt2_result_tokens(result, &n);
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_CANCELLED && n == 3);
    gpt2_result_free(result);
    CHECK(gpt2_cancellation_requested(state.cancellation) == 1);
    gpt2_cancellation_request(state.cancellation);
    OK(gpt2_generate(model, "Once", 4, &config, cancel, &state, &result)); /* ended before it began */
    (void)gpt2_result_tokens(result, &n);
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_CANCELLED && n == 0 && state.calls == 3);
    gpt2_result_free(result);
    gpt2_cancellation_free(state.cancellation);

    OK(gpt2_cancellation_create(&state.cancellation)); /* from another thread, a text without end */
    config.cancellation = state.cancellation;
    config.overflow = GPT2_OVERFLOW_SLIDE;
    config.max_new_tokens = (int64_t)1 << 40;
    engine_cancel(state.cancellation);
    OK(gpt2_generate(model, "Once", 4, &config, NULL, NULL, &result));
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_CANCELLED);
    engine_join();
    gpt2_result_free(result);
    gpt2_cancellation_free(state.cancellation);

    OK(gpt2_cancellation_create(&state.cancellation)); /* freed in the middle: nobody can end it any more */
    state.frees = 1;
    state.calls = 0;
    config.cancellation = state.cancellation;
    config.max_new_tokens = 6;
    OK(gpt2_generate(model, "Once", 4, &config, cancel, &state, &result));
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_LENGTH && state.calls == 6);
    gpt2_result_free(result);
    FAILS(GPT2_ERROR_OPTION, "cancellation: expected a pointer", gpt2_cancellation_create(NULL));

    gpt2_generation_config_init(&config);
    config.max_time = gpt2_double(0.0);
    OK(gpt2_generate(model, "Once", 4, &config, NULL, NULL, &result));
    (void)gpt2_result_tokens(result, &n);
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_MAX_TIME && n == 0);
    gpt2_result_free(result);
}

/* ---- The same text, sooner */

static void test_assistant(const gpt2_model* model, const gpt2_model* tiny) {
    gpt2_generation_config config = drawn();
    gpt2_load_options options;
    gpt2_model* draft = NULL;
    gpt2_result* plain = NULL;
    gpt2_result* result = NULL;
    gpt2_speculation found;
    size_t n = 0;
    const int32_t* tokens;
    config.temperature = gpt2_float(0.8f);
    OK(gpt2_generate(model, "Once upon a time", 16, &config, NULL, NULL, &plain));
    tokens = gpt2_result_tokens(plain, &n);
    gpt2_load_options_init(&options);
    options.weights = GPT2_WEIGHTS_INT8;
    OK(gpt2_model_load(NOVELLA, &options, &draft));
    config.assistant_model = draft;
    config.num_assistant_tokens = gpt2_int(3);
    OK(gpt2_generate(model, "Once upon a time", 16, &config, NULL, NULL, &result));
    found = gpt2_result_speculation(result);
    CHECK(same_tokens(result, tokens, n));
    CHECK(found.accepted > 0 && found.accepted <= found.proposed && found.proposed <= 3 * found.passes);
    CHECK(found.passes < n);
    gpt2_result_free(result);
    gpt2_result_free(plain);
    gpt2_model_free(draft);
    config.assistant_model = tiny;
    FAILS(GPT2_ERROR_OPTION, "assistant_model: expected the vocabulary of the model",
          gpt2_generate(model, "a", 1, &config, NULL, NULL, NULL));
    config.prompt_lookup_num_tokens = gpt2_int(2);
    FAILS(GPT2_ERROR_OPTION, "prompt_lookup_num_tokens and assistant_model are both set",
          gpt2_generate(model, "a", 1, &config, NULL, NULL, NULL));
}

/* ---- Several texts at once */

enum { n_texts = 6 };

typedef struct batch_state {
    collected texts[n_texts];
} batch_state;

static int32_t collect_batch(size_t index, const gpt2_token* token, void* user_data) {
    CHECK(index < n_texts);
    return collect(token, &((batch_state*)user_data)->texts[index]);
}

static int32_t answer_nine(size_t index, const gpt2_token* token, void* user_data) {
    (void)index;
    (void)token;
    (void)user_data;
    return 9;
}

static void test_batches(const gpt2_model* model) {
    const gpt2_bytes prompts[3] = {{"Once upon a time", 16}, {NULL, 0}, {"The king", 8}};
    gpt2_generation_config config = drawn();
    gpt2_session_options options;
    gpt2_results* results = NULL;
    gpt2_results* again = NULL;
    static batch_state state;
    gpt2_tokens sequences[3];
    size_t i;
    memset(&state, 0, sizeof state);
    config.max_new_tokens = 12;
    config.logprobs = 1;
    config.num_return_sequences = gpt2_int(2);
    state.texts[4].stop_at = 3;
    OK(gpt2_generate_batch(model, prompts, 3, &config, collect_batch, &state, NULL, &results));
    CHECK(gpt2_results_size(results) == n_texts && gpt2_results_at(results, n_texts) == NULL);
    for (i = 0; i < n_texts; ++i) {
        const gpt2_result* found = gpt2_results_at(results, i);
        gpt2_generation_config alone = config;
        gpt2_result* expected = NULL;
        const int32_t* tokens;
        size_t n = 0;
        alone.num_return_sequences = gpt2_int(1);
        alone.sample = i % 2;
        alone.max_new_tokens = i == 4 ? 3 : 12;
        OK(gpt2_generate(model, prompts[i / 2].data, prompts[i / 2].size, &alone, NULL, NULL, &expected));
        tokens = gpt2_result_tokens(expected, &n);
        CHECK(same_tokens(found, tokens, n));
        CHECK(memcmp(gpt2_result_logprobs(found, &n), gpt2_result_logprobs(expected, NULL),
                     n * sizeof(float)) == 0);
        CHECK(state.texts[i].n == n && memcmp(state.texts[i].ids, tokens, n * sizeof *tokens) == 0);
        CHECK(gpt2_result_finish_reason(found) ==
              (i == 4 ? GPT2_FINISH_CALLBACK : gpt2_result_finish_reason(expected)));
        gpt2_result_free(expected);
    }
    for (i = 0; i < 3; ++i) {
        int32_t* tokens = NULL;
        OK(gpt2_encode_prompt(model, prompts[i].data, prompts[i].size, &tokens, &sequences[i].size));
        sequences[i].data = tokens;
    }
    gpt2_session_options_init(&options);
    OK(gpt2_generate_batch_tokens(model, sequences, 3, &config, NULL, NULL, &options, &again));
    for (i = 0; i < n_texts; ++i) {
        if (i != 4) {
            size_t n = 0;
            const int32_t* tokens = gpt2_result_tokens(gpt2_results_at(results, i), &n);
            CHECK(same_tokens(gpt2_results_at(again, i), tokens, n));
        }
    }
    gpt2_results_free(again);
    gpt2_results_free(results);
    OK(gpt2_generate_batch(model, NULL, 0, NULL, NULL, NULL, NULL, &results));
    CHECK(gpt2_results_size(results) == 0 && gpt2_results_at(results, 0) == NULL);
    gpt2_results_free(results);
    OK(gpt2_generate_batch(model, prompts, 1, NULL, NULL, NULL, NULL, NULL)); /* of no interest */
    for (i = 0; i < 3; ++i) {
        gpt2_free((void*)sequences[i].data);
    }
}

static void test_beams(const gpt2_model* model) {
    const gpt2_bytes prompt = {"The king", 8};
    gpt2_generation_config config;
    gpt2_results* results = NULL;
    gpt2_result* best = NULL;
    const int32_t* tokens;
    const int32_t token = 5;
    size_t i;
    size_t n = 0;
    gpt2_generation_config_init(&config);
    config.num_beams = gpt2_int(4);
    config.num_return_sequences = gpt2_int(3);
    OK(gpt2_generate_batch(model, &prompt, 1, &config, NULL, NULL, NULL, &results));
    CHECK(gpt2_results_size(results) == 3);
    for (i = 0; i < 3; ++i) {
        const gpt2_optional_double score = gpt2_result_score(gpt2_results_at(results, i));
        CHECK(score.is_set == 1 && score.value < 0.0);
        CHECK(i == 0 || score.value <= gpt2_result_score(gpt2_results_at(results, i - 1)).value);
    }
    config.num_return_sequences = gpt2_int(1);
    OK(gpt2_generate(model, prompt.data, prompt.size, &config, NULL, NULL, &best));
    tokens = gpt2_result_tokens(best, &n);
    CHECK(n > 0 && same_tokens(gpt2_results_at(results, 0), tokens, n));
    gpt2_result_free(best);
    gpt2_results_free(results);
    {
        gpt2_session* session = session_of(model);
        FAILS(GPT2_ERROR_OPTION, "num_beams is 4, expected 1",
              gpt2_session_generate(session, &token, 1, &config, NULL, NULL, NULL));
        gpt2_session_free(session);
    }
}

/* The sooner a search ends, the shorter is what it finds here. */
static void test_early_stopping(const gpt2_model* model) {
    static const int32_t when[4] = {GPT2_EARLY_STOPPING_ON, GPT2_EARLY_STOPPING_OFF,
                                    GPT2_EARLY_STOPPING_DEFAULT, GPT2_EARLY_STOPPING_NEVER};
    size_t lengths[4] = {0, 0, 0, 0};
    gpt2_generation_config config;
    int32_t* comma = NULL;
    size_t n = 0;
    int i;
    OK(gpt2_encode(model, ",", 1, 0, &comma, &n));
    gpt2_generation_config_init(&config);
    config.num_beams = gpt2_int(2);
    config.length_penalty = gpt2_float(1.2f);
    config.eos_token_id = gpt2_int(comma[0]);
    for (i = 0; i < 4; ++i) {
        gpt2_result* result = NULL;
        config.early_stopping = when[i];
        OK(gpt2_generate(model, "The king", 8, &config, NULL, NULL, &result));
        (void)gpt2_result_tokens(result, &lengths[i]);
        gpt2_result_free(result);
    }
    CHECK(lengths[0] < lengths[1] && lengths[1] == lengths[2] && lengths[2] < lengths[3]);
    gpt2_free(comma);
}

static void test_batch_errors(const gpt2_model* model, const gpt2_model* tiny) {
    const gpt2_bytes prompts[2] = {{"a", 1}, {NULL, 1}};
    const int32_t tokens[30] = {1};
    gpt2_tokens sequences[2] = {{tokens, 1}, {tokens, 0}};
    gpt2_generation_config config;
    gpt2_session_options options;
    gpt2_results* results = NULL;
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer",
          gpt2_generate_batch(NULL, prompts, 1, NULL, NULL, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "prompts: expected a pointer",
          gpt2_generate_batch(model, NULL, 1, NULL, NULL, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "prompts: expected a pointer",
          gpt2_generate_batch(model, prompts, 2, NULL, NULL, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "found 9",
          gpt2_generate_batch(model, prompts, 1, NULL, answer_nine, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer",
          gpt2_generate_batch_tokens(NULL, sequences, 1, NULL, NULL, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "prompts: expected a pointer",
          gpt2_generate_batch_tokens(model, NULL, 1, NULL, NULL, NULL, NULL, &results));
    FAILS(GPT2_ERROR_OPTION, "prompts[1]: expected at least one token, found none",
          gpt2_generate_batch_tokens(model, sequences, 2, NULL, NULL, NULL, NULL, &results));
    sequences[1].data = NULL;
    sequences[1].size = 1;
    FAILS(GPT2_ERROR_OPTION, "prompts: expected a pointer",
          gpt2_generate_batch_tokens(model, sequences, 2, NULL, NULL, NULL, NULL, &results));
    sequences[1].data = tokens;
    sequences[1].size = 30;
    FAILS(GPT2_ERROR_CONTEXT,
          "prompts[1]: ", gpt2_generate_batch_tokens(tiny, sequences, 2, NULL, NULL, NULL, NULL, &results));
    gpt2_generation_config_init(&config);
    config.num_return_sequences = gpt2_int(2);
    FAILS(GPT2_ERROR_OPTION, "num_return_sequences is 2, expected 1 while num_beams is 1",
          gpt2_generate_batch(model, prompts, 1, &config, NULL, NULL, NULL, &results));
    config.num_return_sequences = gpt2_int(1);
    config.prompt_lookup_num_tokens = gpt2_int(2);
    FAILS(GPT2_ERROR_OPTION, "prompt_lookup_num_tokens is set but has no effect on several texts",
          gpt2_generate_batch(model, prompts, 1, &config, NULL, NULL, NULL, &results));
    gpt2_session_options_init(&options);
    options.kv_dtype = 3;
    FAILS(GPT2_ERROR_OPTION, "kv_dtype is 3",
          gpt2_generate_batch(model, prompts, 1, NULL, NULL, NULL, &options, &results));
    CHECK(results == NULL);
}

/* ---- Sessions */

static const float* last_logits(const gpt2_session* session) {
    const float* logits = NULL;
    size_t n = 0;
    OK(gpt2_session_logits(session, &logits, &n));
    CHECK(n == 1);
    return logits;
}

static void test_forks(const gpt2_model* tiny) {
    const size_t row = gpt2_model_vocab_size(tiny) * sizeof(float);
    const int32_t tokens[4] = {7, 20, 33, 7};
    const int32_t other = 50;
    gpt2_session* session = session_of(tiny);
    gpt2_session* fork = NULL;
    float* expected = malloc(row);
    const float* logits = NULL;
    OK(gpt2_session_forward(session, tokens, 3, NULL));
    OK(gpt2_session_fork(session, &fork));
    CHECK(position_of(fork) == 3 && memcmp(last_logits(fork), last_logits(session), row) == 0);
    OK(gpt2_session_forward(session, tokens + 3, 1, &logits));
    memcpy(expected, logits, row);
    OK(gpt2_session_forward(fork, &other, 1, &logits));
    CHECK(memcmp(logits, expected, row) != 0 && position_of(session) == 4);
    gpt2_session_free(session); /* which the other one outlives */
    OK(gpt2_session_truncate(fork, 3));
    OK(gpt2_session_forward(fork, tokens + 3, 1, &logits));
    CHECK(memcmp(logits, expected, row) == 0);
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_fork(NULL, &session));
    FAILS(GPT2_ERROR_OPTION, "fork: expected a pointer", gpt2_session_fork(fork, NULL));
    gpt2_session_free(fork);
    free(expected);
}

/* A copy of a file. */
static unsigned char* contents(const char* path, size_t* size) {
    unsigned char* bytes = malloc(1 << 20);
    FILE* file = fopen(path, "rb");
    CHECK(file != NULL);
    *size = file != NULL ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
    return bytes;
}

static void test_sessions_on_disk(const gpt2_model* tiny, const gpt2_model* other) {
    const char* const path = GPT2_FIXTURES "/c_modes.session";
    const size_t row = gpt2_model_vocab_size(tiny) * sizeof(float);
    const int32_t tokens[3] = {7, 20, 33};
    gpt2_session* session = session_of(tiny);
    gpt2_session* restored = NULL;
    gpt2_session* from_memory = NULL;
    gpt2_session* none = NULL;
    gpt2_session_options options;
    unsigned char* file;
    size_t size = 0;
    OK(gpt2_session_forward(session, tokens, 3, NULL));
    OK(gpt2_session_save(session, path));
    OK(gpt2_session_restore(tiny, path, NULL, &restored));
    file = contents(path, &size);
    OK(gpt2_session_restore_memory(tiny, file, size, NULL, &from_memory));
    CHECK(position_of(restored) == 3 && memcmp(last_logits(restored), last_logits(session), row) == 0);
    CHECK(position_of(from_memory) == 3 && memcmp(last_logits(from_memory), last_logits(session), row) == 0);
    CHECK(gpt2_session_kv_dtype(restored) == GPT2_KV_FLOAT32);

    gpt2_session_options_init(&options);
    options.kv_dtype = GPT2_KV_FLOAT16;
    FAILS(GPT2_ERROR_OPTION, "kv_dtype", gpt2_session_restore(tiny, path, &options, &none));
    FAILS(GPT2_ERROR_FORMAT, "c_modes.session", gpt2_session_restore(other, path, NULL, &none));
    FAILS(GPT2_ERROR_FILE, "no-such-file", gpt2_session_restore(tiny, "no-such-file", NULL, &none));
    file[size - 1] ^= 1;
    FAILS(GPT2_ERROR_FORMAT, "memory", gpt2_session_restore_memory(tiny, file, size, NULL, &none));
    FAILS(GPT2_ERROR_FORMAT, "memory", gpt2_session_restore_memory(tiny, NULL, 0, NULL, &none));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_session_restore(NULL, path, NULL, &none));
    FAILS(GPT2_ERROR_OPTION, "path: expected a pointer", gpt2_session_restore(tiny, NULL, NULL, &none));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_restore(tiny, path, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer",
          gpt2_session_restore_memory(NULL, file, size, NULL, &none));
    FAILS(GPT2_ERROR_OPTION, "file: expected a pointer",
          gpt2_session_restore_memory(tiny, NULL, 1, NULL, &none));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer",
          gpt2_session_restore_memory(tiny, file, size, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_save(NULL, path));
    FAILS(GPT2_ERROR_OPTION, "path: expected a pointer", gpt2_session_save(session, NULL));
    FAILS(GPT2_ERROR_FILE, "no-such-folder", gpt2_session_save(session, "no-such-folder/session"));
    CHECK(none == NULL);
    remove(path);
    free(file);
    gpt2_session_free(session);
    gpt2_session_free(restored);
    gpt2_session_free(from_memory);
}

static int32_t fork_and_save(const gpt2_token* token, void* user_data) {
    gpt2_session* own = *(gpt2_session**)user_data;
    gpt2_session* fork = NULL;
    (void)token;
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_fork(own, &fork));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_save(own, GPT2_FIXTURES "/never"));
    return GPT2_STOP;
}

static void test_busy_sessions(const gpt2_model* tiny) {
    const int32_t token = 9;
    gpt2_session* session = session_of(tiny);
    gpt2_result* result = NULL;
    OK(gpt2_session_generate(session, &token, 1, NULL, fork_and_save, &session, &result));
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_CALLBACK);
    gpt2_result_free(result);
    gpt2_session_free(session);
}

/* ---- Seeing inside */

static void test_embeddings(const gpt2_model* model) {
    const char* const text = "There was once a poor woodcutter";
    const size_t C = gpt2_model_n_embd(model);
    float* expected = malloc(C * sizeof *expected);
    float* found = malloc(C * sizeof *found);
    int32_t* tokens = NULL;
    size_t n = 0;
    int32_t pooling;
    gpt2_session_options options;
    gpt2_session_options_init(&options);
    OK(gpt2_encode(model, text, strlen(text), 0, &tokens, &n));
    for (pooling = GPT2_POOLING_MEAN; pooling <= GPT2_POOLING_LAST; ++pooling) {
        engine_embed(NOVELLA, text, pooling == GPT2_POOLING_LAST, expected);
        OK(gpt2_embed(model, text, strlen(text), pooling, NULL, found));
        CHECK(memcmp(found, expected, C * sizeof *found) == 0);
        OK(gpt2_embed_tokens(model, tokens, n, pooling, &options, found));
        CHECK(memcmp(found, expected, C * sizeof *found) == 0);
    }
    FAILS(GPT2_ERROR_OPTION, "at least one token", gpt2_embed(model, "", 0, 0, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "at least one token", gpt2_embed_tokens(model, tokens, 0, 0, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "pooling is 2", gpt2_embed(model, text, 1, 2, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_embed(NULL, text, 1, 0, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "text: expected a pointer", gpt2_embed(model, NULL, 1, 0, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "embedding: expected a pointer", gpt2_embed(model, text, 1, 0, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_embed_tokens(model, NULL, 1, 0, NULL, found));
    FAILS(GPT2_ERROR_OPTION, "embedding: expected a pointer",
          gpt2_embed_tokens(model, tokens, n, 0, NULL, NULL));
    gpt2_free(tokens);
    free(expected);
    free(found);
}

int test_modes(const gpt2_model* novella, const gpt2_model* tiny) {
    test_every_option(novella);
    test_option_errors(novella);
    test_defaults_of_structures(novella);
    test_truncate_left(tiny);
    test_logprobs(novella);
    test_constraints(novella);
    test_constraint_errors(novella, tiny);
    test_cancellation(novella);
    test_assistant(novella, tiny);
    test_batches(novella);
    test_beams(novella);
    test_early_stopping(novella);
    test_batch_errors(novella, tiny);
    test_forks(tiny);
    test_sessions_on_disk(tiny, novella);
    test_busy_sessions(tiny);
    test_embeddings(novella);
    CHECK(same_text(gpt2_result_text(NULL), ""));
    return n_failed;
}
