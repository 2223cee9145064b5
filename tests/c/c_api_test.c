/* SPDX-License-Identifier: MIT */

/* Every function of gpt2.h, and every way in which it can fail; those for several texts, sessions on disk and
 * the like are in modes.c. Pure C99. */

#include "check.h"
#include "engine.h"
#include "modes.h"

#include <gpt2.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gpt2_model* load(const char* path) {
    gpt2_model* model = NULL;
    OK(gpt2_model_load(path, NULL, &model));
    return model;
}

/* A file in memory, at a multiple of 64 bytes; free(*memory). */
static unsigned char* read_file(const char* path, size_t* size, void** memory) {
    FILE* file = fopen(path, "rb");
    unsigned char* bytes;
    long length;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0) {
        printf("cannot read %s\n", path);
        exit(1);
    }
    rewind(file);
    *size = (size_t)length;
    *memory = malloc(*size + 64);
    bytes = (unsigned char*)*memory + (64 - (uintptr_t)*memory % 64);
    if (fread(bytes, 1, *size, file) != *size) {
        exit(1);
    }
    fclose(file);
    return bytes;
}

static void test_version_and_names(void) {
    char version[64];
    const int32_t number = gpt2_version_number();
    int i;
    snprintf(version, sizeof version, "%d.%d.%d", number / 10000, number / 100 % 100, number % 100);
    CHECK(strcmp(version, gpt2_version()) == 0);
    CHECK(gpt2_abi_version() == GPT2_ABI_VERSION);
    for (i = GPT2_OK; i < GPT2_ERROR_UNKNOWN; ++i) {
        const char* name = gpt2_status_name(i);
        CHECK(strcmp(name, gpt2_status_name(i + 1)) != 0);
        CHECK(strcmp(name, "unknown status") != 0);
    }
    CHECK(strcmp(gpt2_status_name(GPT2_OK), "ok") == 0);
    CHECK(strcmp(gpt2_status_name(GPT2_ERROR_UNKNOWN + 1), "unknown status") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_LENGTH), "length") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_EOS), "eos") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_STOP_STRING), "stop_string") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_CALLBACK), "callback") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_MAX_TIME), "max_time") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(GPT2_FINISH_CANCELLED), "cancelled") == 0);
    CHECK(strcmp(gpt2_finish_reason_name(7), "unknown") == 0);
    CHECK(strcmp(gpt2_last_error(), "") == 0); /* nothing has failed yet */
}

static void test_pool(void) {
    gpt2_pool* pool = NULL;
    OK(gpt2_pool_create(3, &pool));
    CHECK(gpt2_pool_size(pool) == 3);
    gpt2_pool_free(pool);
    pool = NULL;
    FAILS(GPT2_ERROR_OPTION, "expected 1 to 1024 threads, found 0", gpt2_pool_create(0, &pool));
    FAILS(GPT2_ERROR_OPTION, "found 1025", gpt2_pool_create(1025, &pool));
    FAILS(GPT2_ERROR_OPTION, "pool: expected a pointer, found null", gpt2_pool_create(1, NULL));
    CHECK(pool == NULL);
    CHECK(gpt2_pool_size(NULL) == 0);
    gpt2_pool_free(NULL);
}

static void test_null_is_harmless(void) {
    size_t n = 7;
    gpt2_model_free(NULL);
    gpt2_session_free(NULL);
    gpt2_result_free(NULL);
    gpt2_results_free(NULL);
    gpt2_cancellation_free(NULL);
    gpt2_constraint_free(NULL);
    gpt2_cancellation_request(NULL);
    gpt2_free(NULL);
    gpt2_load_options_init_sized(NULL, 100);
    gpt2_session_options_init_sized(NULL, 100);
    gpt2_generation_config_init_sized(NULL, 100);
    CHECK(gpt2_model_vocab_size(NULL) == 0 && gpt2_model_n_positions(NULL) == 0 &&
          gpt2_model_n_embd(NULL) == 0);
    CHECK(gpt2_model_n_layer(NULL) == 0 && gpt2_model_n_head(NULL) == 0 && gpt2_model_n_inner(NULL) == 0);
    CHECK(gpt2_model_bos_token(NULL) == -1 && gpt2_model_eos_token(NULL) == -1);
    CHECK(strcmp(gpt2_model_isa(NULL), "") == 0 && gpt2_model_bytes_read(NULL) == 0);
    CHECK(gpt2_n_tokens(NULL) == 0 && gpt2_special_token(NULL, "x") == -1 && gpt2_is_special(NULL, 0) == 0);
    CHECK(same_text(gpt2_result_text(NULL), "") && same_text(gpt2_result_bytes(NULL), ""));
    CHECK(same_text(gpt2_result_stop_string(NULL), ""));
    CHECK(gpt2_result_tokens(NULL, &n) == NULL && n == 0);
    n = 7;
    CHECK(gpt2_result_logprobs(NULL, &n) == NULL && n == 0);
    CHECK(gpt2_result_tokens(NULL, NULL) == NULL && gpt2_result_logprobs(NULL, NULL) == NULL);
    n = 7;
    CHECK(gpt2_result_prompt_logprobs(NULL, &n) == NULL && n == 0);
    n = 7;
    CHECK(gpt2_result_top_logprobs(NULL, 0, &n) == NULL && n == 0);
    CHECK(gpt2_result_prompt_top_logprobs(NULL, 0, NULL) == NULL);
    CHECK(gpt2_result_finish_reason(NULL) == GPT2_FINISH_LENGTH && gpt2_result_seed(NULL).is_set == 0);
    CHECK(gpt2_result_prompt_tokens(NULL) == 0);
    CHECK(gpt2_result_ttft(NULL) == 0.0 && gpt2_result_tpot(NULL) == 0.0 && gpt2_result_total(NULL) == 0.0);
    CHECK(gpt2_session_kv_dtype(NULL) == GPT2_KV_DEFAULT);
    CHECK(gpt2_cancellation_requested(NULL) == 0);
    CHECK(gpt2_results_size(NULL) == 0 && gpt2_results_at(NULL, 0) == NULL);
    CHECK(gpt2_result_speculation(NULL).proposed == 0 && gpt2_result_score(NULL).is_set == 0);
}

static void test_load(void) {
    gpt2_model* model = NULL;
    gpt2_load_options options;
    gpt2_pool* pool = NULL;
    float difference = -1.0f;
    OK(gpt2_pool_create(1, &pool));
    gpt2_load_options_init(&options);
    CHECK(options.size == sizeof options && options.weights == GPT2_WEIGHTS_OF_FILE && options.pool == NULL);
    options.verify = 1;
    options.pool = pool;
    options.residency = GPT2_RESIDENCY_HUGE_PAGES;
    options.screen_head = 1;
    options.isa = GPT2_ISA_PORTABLE;
    OK(gpt2_model_load(TINY, &options, &model));
    gpt2_pool_free(pool);
    CHECK(gpt2_model_vocab_size(model) == 300 && gpt2_model_n_positions(model) == 24);
    CHECK(gpt2_model_n_embd(model) == 40 && gpt2_model_n_layer(model) == 2 && gpt2_model_n_head(model) == 4);
    CHECK(gpt2_model_n_inner(model) == 72);
    CHECK(gpt2_model_bos_token(model) == 256 && gpt2_model_eos_token(model) == 256);
    CHECK(strcmp(gpt2_model_isa(model), "portable") == 0);
    CHECK(gpt2_model_bytes_read(model) > 4 * 300 * 40);
    OK(gpt2_model_verify(model, NULL, &difference));
    CHECK(difference >= 0.0f && difference < 1e-3f);
    OK(gpt2_model_verify(model, NULL, NULL));
    gpt2_model_free(model);

    options.verify = 0;
    options.screen_head = 0;
    options.isa = GPT2_ISA_BEST;
    options.residency = GPT2_RESIDENCY_MAPPED;
    options.pool = NULL;
    for (options.weights = GPT2_WEIGHTS_OF_FILE; options.weights <= GPT2_WEIGHTS_INT4; ++options.weights) {
        size_t bytes;
        OK(gpt2_model_load(TINY, &options, &model));
        bytes = gpt2_model_bytes_read(model);
        CHECK(options.weights < GPT2_WEIGHTS_FLOAT16 ||
              bytes < (size_t)2 * (300 * 40 + 2 * (4 * 1600 + 2 * 2880)) * 2);
        if (options.weights > GPT2_WEIGHTS_FLOAT32) {
            FAILS(GPT2_ERROR_OPTION, "verify", gpt2_model_verify(model, NULL, NULL));
        }
        gpt2_model_free(model);
    }
    options.weights = GPT2_WEIGHTS_INT4;
    options.head = GPT2_WEIGHTS_FLOAT16;
    OK(gpt2_model_load(GPT2_FIXTURES "/tiny", &options, &model)); /* a Hugging Face directory */
    OK(gpt2_model_verify(model, NULL, &difference));
    CHECK(difference == 0.0f);
    gpt2_model_free(model);
}

static void test_load_errors(void) {
    gpt2_model* model = NULL;
    gpt2_load_options options;
    size_t size = 0;
    void* memory = NULL;
    unsigned char* file = read_file(TINY, &size, &memory);
    FAILS(GPT2_ERROR_FILE, "no-such-model", gpt2_model_load("no-such-model", NULL, &model));
    FAILS(GPT2_ERROR_FORMAT, "", gpt2_model_load(GPT2_SOURCE_DIR "/README.md", NULL, &model));
    FAILS(GPT2_ERROR_FORMAT, "memory", gpt2_model_load_memory("not a model", 11, NULL, &model));
    FAILS(GPT2_ERROR_FORMAT, "memory", gpt2_model_load_memory(NULL, 0, NULL, &model));
    FAILS(GPT2_ERROR_OPTION, "path: expected a pointer", gpt2_model_load(NULL, NULL, &model));
    FAILS(GPT2_ERROR_OPTION, "file: expected a pointer", gpt2_model_load_memory(NULL, 1, NULL, &model));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_model_load(TINY, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_model_load_memory(file, size, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_model_verify(NULL, NULL, NULL));
#define BAD_OPTION(member, number, text)                                                                     \
    gpt2_load_options_init(&options);                                                                        \
    options.member = number;                                                                                 \
    FAILS(GPT2_ERROR_OPTION, text, gpt2_model_load(TINY, &options, &model))
    BAD_OPTION(weights, 6, "weights is 6, expected a number from 0 to 5");
    BAD_OPTION(weights, -1, "weights is -1");
    BAD_OPTION(head, 6, "head is 6");
    BAD_OPTION(isa, 6, "isa is 6");
    BAD_OPTION(residency, 2, "residency is 2");
    BAD_OPTION(verify, 2, "verify is 2, expected a number from 0 to 1");
    BAD_OPTION(screen_head, -1, "screen_head is -1");
    BAD_OPTION(size, 0, "gpt2_load_options.size is 0, expected what gpt2_load_options_init() sets, ");
#undef BAD_OPTION
    CHECK(model == NULL);

    file[size - 1] ^= 1; /* which only the checksum sees */
    OK(gpt2_model_load_memory(file, size, NULL, &model));
    FAILS(GPT2_ERROR_FORMAT, "checksum", gpt2_model_verify(model, NULL, NULL));
    gpt2_model_free(model);
    free(memory);
}

/* Makes a number of ln_f.bias a NaN. */
static void spoil(unsigned char* file) {
    uint64_t header_size = 0;
    const char* at;
    int i;
    for (i = 7; i >= 0; --i) {
        header_size = header_size << 8 | file[i];
    }
    at = strstr((const char*)file + 8, "\"ln_f.bias\"");
    at = at != NULL ? strstr(at, "\"data_offsets\":[") : NULL;
    if (at == NULL) {
        printf("no ln_f.bias in " TINY "\n");
        exit(1);
    }
    memset(file + 8 + header_size + strtoul(at + strlen("\"data_offsets\":["), NULL, 10), 0xff, 4);
}

static void test_numeric_error(void) {
    gpt2_model* model = NULL;
    gpt2_session* session;
    size_t size = 0;
    void* memory = NULL;
    unsigned char* file = read_file(TINY, &size, &memory);
    const int32_t token = 1;
    spoil(file);
    OK(gpt2_model_load_memory(file, size, NULL, &model));
    session = session_of(model);
    FAILS(GPT2_ERROR_NUMERIC, "finite", gpt2_session_forward(session, &token, 1, NULL));
    CHECK(position_of(session) == 0);
    gpt2_session_free(session);
    gpt2_model_free(model);
    free(memory);
}

static void test_tokenizer(void) {
    gpt2_model* model = load(TINY);
    const char text[] = "the\0<|endoftext|>\xff";
    const size_t size = sizeof text - 1;
    int32_t* tokens = NULL;
    char* bytes = NULL;
    gpt2_bytes token = {NULL, 0};
    size_t n = 0;
    size_t n_bytes = 0;
    CHECK(gpt2_n_tokens(model) == 260);
    OK(gpt2_encode(model, text, size, GPT2_SPECIAL_TOKENS_AS_TEXT, &tokens, &n));
    CHECK(n == size - 2); /* "the" is one token, the name of the special one is text */
    OK(gpt2_decode(model, tokens, n, &bytes, &n_bytes));
    CHECK(n_bytes == size && memcmp(bytes, text, size) == 0 && bytes[n_bytes] == '\0');
    gpt2_free(tokens);
    gpt2_free(bytes);
    OK(gpt2_encode(model, text, size, GPT2_SPECIAL_TOKENS_RECOGNIZED, &tokens, &n));
    CHECK(n == 4 && tokens[0] == 259 && tokens[2] == 256);
    gpt2_free(tokens);
    OK(gpt2_encode(model, NULL, 0, GPT2_SPECIAL_TOKENS_AS_TEXT, &tokens, &n));
    CHECK(n == 0 && tokens != NULL);
    OK(gpt2_decode(model, tokens, 0, &bytes, &n_bytes));
    CHECK(n_bytes == 0 && bytes[0] == '\0');
    gpt2_free(tokens);
    gpt2_free(bytes);
    OK(gpt2_encode_prompt(model, "", 0, &tokens, &n));
    CHECK(n == 1 && tokens[0] == 256);
    gpt2_free(tokens);
    OK(gpt2_token_bytes(model, 259, &token));
    CHECK(same_text(token, "the"));
    CHECK(gpt2_special_token(model, "<|endoftext|>") == 256 && gpt2_special_token(model, "the") == -1);
    CHECK(gpt2_special_token(model, NULL) == -1);
    CHECK(gpt2_is_special(model, 256) == 1 && gpt2_is_special(model, 259) == 0 &&
          gpt2_is_special(model, -1) == 0);

    tokens = NULL;
    bytes = NULL;
    {
        const int32_t bad = 260;
        FAILS(GPT2_ERROR_OPTION, "found 260", gpt2_decode(model, &bad, 1, &bytes, &n_bytes));
        FAILS(GPT2_ERROR_OPTION, "found 260", gpt2_token_bytes(model, bad, &token));
        FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_decode(model, NULL, 1, &bytes, &n_bytes));
        FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_decode(NULL, &bad, 1, &bytes, &n_bytes));
        FAILS(GPT2_ERROR_OPTION, "bytes: expected a pointer", gpt2_decode(model, &bad, 1, NULL, &n_bytes));
        FAILS(GPT2_ERROR_OPTION, "size: expected a pointer", gpt2_decode(model, &bad, 1, &bytes, NULL));
        FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_token_bytes(NULL, 0, &token));
        FAILS(GPT2_ERROR_OPTION, "bytes: expected a pointer", gpt2_token_bytes(model, 0, NULL));
    }
    FAILS(GPT2_ERROR_OPTION, "special_tokens is 2", gpt2_encode(model, "a", 1, 2, &tokens, &n));
    FAILS(GPT2_ERROR_OPTION, "text: expected a pointer", gpt2_encode(model, NULL, 1, 0, &tokens, &n));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_encode(NULL, "a", 1, 0, &tokens, &n));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_encode(model, "a", 1, 0, NULL, &n));
    FAILS(GPT2_ERROR_OPTION, "n_tokens: expected a pointer", gpt2_encode(model, "a", 1, 0, &tokens, NULL));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_encode_prompt(NULL, "a", 1, &tokens, &n));
    FAILS(GPT2_ERROR_OPTION, "text: expected a pointer", gpt2_encode_prompt(model, NULL, 1, &tokens, &n));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_encode_prompt(model, "a", 1, NULL, &n));
    FAILS(GPT2_ERROR_OPTION, "n_tokens: expected a pointer",
          gpt2_encode_prompt(model, "a", 1, &tokens, NULL));
    CHECK(tokens == NULL && bytes == NULL);
    gpt2_model_free(model);
}

static gpt2_generation_config sampling(void) {
    gpt2_generation_config config;
    gpt2_generation_config_init(&config);
    CHECK(config.size == sizeof config && config.max_new_tokens == 20 && config.seed.is_set == 0);
    config.max_new_tokens = ENGINE_TOKENS;
    config.do_sample = 1;
    config.temperature = gpt2_float(0.9f);
    config.top_k = gpt2_int(50);
    config.top_p = gpt2_float(0.95f);
    config.min_p = gpt2_float(0.01f);
    config.repetition_penalty = gpt2_float(1.1f);
    config.seed = gpt2_uint(7);
    config.sample = 3;
    config.logprobs = 1;
    return config;
}

static void test_generation(const gpt2_model* model) {
    static const char prompt[] = "There was once a poor woodcutter who";
    const gpt2_generation_config config = sampling();
    engine_text expected;
    collected streamed;
    gpt2_result* result = NULL;
    const int32_t* tokens;
    const float* logprobs;
    size_t n = 0;
    memset(&expected, 0, sizeof expected);
    memset(&streamed, 0, sizeof streamed);
    engine_sample(NOVELLA, prompt, &expected);
    CHECK(expected.n == ENGINE_TOKENS);
    OK(gpt2_generate(model, prompt, strlen(prompt), &config, collect, &streamed, &result));

    tokens = gpt2_result_tokens(result, &n);
    CHECK(n == expected.n && memcmp(tokens, expected.tokens, n * sizeof *tokens) == 0);
    logprobs = gpt2_result_logprobs(result, &n);
    CHECK(n == expected.n && memcmp(logprobs, expected.logprobs, n * sizeof *logprobs) == 0);
    CHECK(gpt2_result_text(result).size == expected.text_size);
    CHECK(memcmp(gpt2_result_text(result).data, expected.text, expected.text_size) == 0);
    CHECK(gpt2_result_text(result).data[expected.text_size] == '\0');
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_LENGTH);
    CHECK(gpt2_result_stop_string(result).size == 0);
    CHECK(gpt2_result_seed(result).is_set == 1 && gpt2_result_seed(result).value == 7);
    CHECK(gpt2_result_prompt_tokens(result) > 5);
    CHECK(gpt2_result_ttft(result) > 0.0 && gpt2_result_tpot(result) > 0.0);
    CHECK(gpt2_result_total(result) >= gpt2_result_ttft(result));

    CHECK(streamed.n == expected.n && memcmp(streamed.ids, expected.tokens, n * sizeof *tokens) == 0);
    CHECK(memcmp(streamed.logprobs, expected.logprobs, n * sizeof *logprobs) == 0);
    CHECK(streamed.text_size == expected.text_size &&
          memcmp(streamed.text, expected.text, streamed.text_size) == 0);
    CHECK(gpt2_result_bytes(result).size == streamed.bytes_size);
    CHECK(memcmp(gpt2_result_bytes(result).data, streamed.bytes, streamed.bytes_size) == 0);
    gpt2_result_free(result);
}

static void test_finish_reasons(const gpt2_model* model) {
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    collected streamed;
    gpt2_bytes stop[2] = {{"\n\n\n", 3}, {" ", 1}};
    const int32_t* tokens;
    size_t n = 0;
    memset(&streamed, 0, sizeof streamed);
    streamed.stop_at = 2;
    OK(gpt2_generate(model, "Once", 4, NULL, collect, &streamed, &result)); /* defaults: greedy, 20 tokens */
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_CALLBACK);
    CHECK(streamed.n == 2 && isnan(streamed.logprobs[0]));
    CHECK(gpt2_result_seed(result).is_set == 0);
    CHECK(gpt2_result_logprobs(result, &n) == NULL && n == 0);
    tokens = gpt2_result_tokens(result, &n);
    CHECK(n == 2);

    gpt2_generation_config_init(&config);
    config.eos_token_id = gpt2_int(tokens[1]);
    gpt2_result_free(result);
    OK(gpt2_generate(model, "Once", 4, &config, NULL, NULL, &result));
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_EOS);
    gpt2_result_free(result);

    gpt2_generation_config_init(&config);
    config.stop_strings = stop;
    config.n_stop_strings = 2;
    config.ignore_eos = 1;
    OK(gpt2_generate(model, "Once upon a", 11, &config, NULL, NULL, &result));
    CHECK(gpt2_result_finish_reason(result) == GPT2_FINISH_STOP_STRING);
    CHECK(same_text(gpt2_result_stop_string(result), " "));
    CHECK(memchr(gpt2_result_text(result).data, ' ', gpt2_result_text(result).size) == NULL);
    gpt2_result_free(result);

    OK(gpt2_generate(model, NULL, 0, NULL, NULL, NULL, NULL)); /* the result may be of no interest */
}

static int32_t answer_seven(const gpt2_token* token, void* user_data) {
    (void)token;
    (void)user_data;
    return 7;
}

static void test_generation_errors(const gpt2_model* model) {
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    gpt2_bytes text = {NULL, 1};
    const struct {
        char what;
        gpt2_status status;
        const char* message;
    } thrown[] = {{'m', GPT2_ERROR_MEMORY, "out of memory"},
                  {'l', GPT2_ERROR_MEMORY, "out of memory"},
                  {'s', GPT2_ERROR_UNKNOWN, "a standard exception"},
                  {'i', GPT2_ERROR_UNKNOWN, "not a std::exception"},
                  {'g', GPT2_ERROR, "an exception of the library"}};
    size_t i;
#define BAD_OPTION(member, given, message)                                                                   \
    gpt2_generation_config_init(&config);                                                                    \
    config.member = given;                                                                                   \
    FAILS(GPT2_ERROR_OPTION, message, gpt2_generate(model, "a", 1, &config, NULL, NULL, &result))
    BAD_OPTION(max_new_tokens, -1, "max_new_tokens is -1, expected 0 or more");
    BAD_OPTION(temperature, gpt2_float(0.5f),
               "temperature is set but has no effect while do_sample is false");
    BAD_OPTION(temperature, gpt2_float(-1.0f), "temperature is -1");
    BAD_OPTION(temperature.value, 0.5f, "temperature.value is 0.5 but has no effect while is_set is 0");
    BAD_OPTION(top_k.value, 5, "top_k.value is 5 but has no effect");
    BAD_OPTION(seed.value, 5, "seed.value is 5 but has no effect");
    BAD_OPTION(top_k.is_set, 2, "top_k.is_set is 2, expected a number from 0 to 1");
    BAD_OPTION(top_p, gpt2_float(1.5f), "top_p is 1.5");
    BAD_OPTION(min_p, gpt2_float(-0.5f), "min_p is -0.5");
    BAD_OPTION(repetition_penalty, gpt2_float(0.0f), "repetition_penalty is 0");
    BAD_OPTION(sample, 1, "sample is set");
    BAD_OPTION(do_sample, 2, "do_sample is 2");
    BAD_OPTION(logprobs, 2, "logprobs is 2");
    BAD_OPTION(ignore_eos, 2, "ignore_eos is 2");
    BAD_OPTION(overflow, 3, "overflow is 3");
    BAD_OPTION(eos_token_id, gpt2_int(-1), "eos_token_id is -1");
    BAD_OPTION(eos_token_id, gpt2_int((int64_t)1 << 40), "eos_token_id is 1099511627776");
    BAD_OPTION(n_stop_strings, 1, "stop_strings: expected a pointer");
    gpt2_generation_config_init(&config);
    config.stop_strings = &text;
    config.n_stop_strings = 1;
    FAILS(GPT2_ERROR_OPTION, "stop_strings: expected a pointer",
          gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
    text.size = 0;
    FAILS(GPT2_ERROR_OPTION, "stop_strings[0] is empty",
          gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
#undef BAD_OPTION
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 1 << 20;
    FAILS(GPT2_ERROR_CONTEXT, "max_new_tokens (1048576)",
          gpt2_generate(model, "a", 1, &config, NULL, NULL, &result));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer",
          gpt2_generate(NULL, "a", 1, NULL, NULL, NULL, &result));
    FAILS(GPT2_ERROR_OPTION, "prompt: expected a pointer",
          gpt2_generate(model, NULL, 1, NULL, NULL, NULL, &result));
    FAILS(GPT2_ERROR_OPTION, "found 7", gpt2_generate(model, "a", 1, NULL, answer_seven, NULL, &result));
    for (i = 0; i < sizeof thrown / sizeof thrown[0]; ++i) {
        char what = thrown[i].what;
        FAILS(thrown[i].status, thrown[i].message,
              gpt2_generate(model, "a", 1, NULL, engine_throw, &what, &result));
    }
    CHECK(result == NULL);
}

/* Programs that were compiled with older and newer headers. */
static void test_structures_that_grow(const gpt2_model* model) {
    struct {
        gpt2_generation_config config;
        uint64_t newer[2];
    } large;
    union {
        gpt2_generation_config config;
        unsigned char bytes[sizeof(gpt2_generation_config)];
    } small;
    gpt2_load_options load_options;
    gpt2_session_options session_options;
    gpt2_session* session = NULL;
    gpt2_model* loaded = NULL;
    gpt2_result* result = NULL;
    size_t n = 0;
    size_t i;
    const size_t first =
        offsetof(gpt2_generation_config, temperature); /* a program that knows max_new_tokens only */

    memset(&small, 0xee, sizeof small);
    gpt2_generation_config_init_sized(&small.config, first);
    CHECK(small.config.size == first && small.config.max_new_tokens == 20);
    for (i = first; i < sizeof small; ++i) {
        CHECK(small.bytes[i] == 0xee); /* not his memory */
    }
    small.config.max_new_tokens = 3;
    OK(gpt2_generate(model, "a", 1, &small.config, NULL, NULL, &result));
    (void)gpt2_result_tokens(result, &n);
    CHECK(n == 3 && gpt2_result_seed(result).is_set == 0);
    gpt2_result_free(result);
    small.config.size = 7; /* nobody's */
    gpt2_generation_config_init_sized(&small.config, 7);
    CHECK(small.config.size == 7 && small.config.max_new_tokens == 3);

    memset(&large, 0xee, sizeof large);
    gpt2_generation_config_init_sized(&large.config, sizeof large);
    CHECK(large.config.size == sizeof large && large.newer[0] == 0 && large.newer[1] == 0);
    large.config.max_new_tokens = 4;
    OK(gpt2_generate(model, "a", 1, &large.config, NULL, NULL, &result));
    (void)gpt2_result_tokens(result, &n);
    CHECK(n == 4);
    gpt2_result_free(result);
    result = NULL;
    large.newer[1] = 1;
    FAILS(GPT2_ERROR_OPTION, "sets an option of a newer version",
          gpt2_generate(model, "a", 1, &large.config, NULL, NULL, &result));

#define BAD_SIZE(number)                                                                                     \
    large.config.size = number;                                                                              \
    FAILS(GPT2_ERROR_OPTION, "gpt2_generation_config.size is ",                                              \
          gpt2_generate(model, "a", 1, &large.config, NULL, NULL, &result))
    BAD_SIZE(0);
    BAD_SIZE(8);
    BAD_SIZE(first + 4);
    BAD_SIZE(1 << 20);
    BAD_SIZE(UINT64_MAX);
#undef BAD_SIZE

    small.config.size = offsetof(gpt2_generation_config, max_time); /* the first version */
    gpt2_generation_config_init_sized(&small.config, small.config.size);
    small.config.early_stopping = 99;
    OK(gpt2_generate(model, "a", 1, &small.config, NULL, NULL, NULL));

    gpt2_load_options_init(&load_options);
    load_options.size = 16; /* weights and head only */
    load_options.isa = 99;
    OK(gpt2_model_load(TINY, &load_options, &loaded));
    gpt2_model_free(loaded);
    gpt2_session_options_init(&session_options);
    session_options.size = 16; /* pool only */
    session_options.kv_dtype = 99;
    OK(gpt2_session_create(model, &session_options, &session));
    gpt2_session_free(session);
}

static void test_session(const gpt2_model* model, const char* path) {
    enum { n_tokens = 9 };
    const int32_t tokens[n_tokens] = {7, 20, 33, 7, 250, 91, 100, 101, 99};
    const size_t V = gpt2_model_vocab_size(model);
    float* expected = malloc(n_tokens * V * sizeof *expected);
    float expected_scores[n_tokens];
    float scores[n_tokens];
    const float* logits = NULL;
    const int32_t* held = NULL;
    size_t n = 7;
    gpt2_session* session = session_of(model);
    engine_logits(path, tokens, n_tokens, expected);
    engine_scores(path, tokens, n_tokens, expected_scores);

    OK(gpt2_session_logits(session, &logits, &n));
    CHECK(n == 0 && logits == NULL);
    OK(gpt2_session_forward(session, tokens, 4, &logits));
    CHECK(memcmp(logits, expected + 3 * V, V * sizeof *logits) == 0);
    OK(gpt2_session_forward(session, tokens + 4, n_tokens - 4, NULL));
    OK(gpt2_session_logits(session, &logits, &n));
    CHECK(n == 1 && memcmp(logits, expected + (n_tokens - 1) * V, V * sizeof *logits) == 0);
    CHECK(position_of(session) == n_tokens);
    OK(gpt2_session_tokens(session, &held, &n));
    CHECK(n == n_tokens && memcmp(held, tokens, sizeof tokens) == 0);
    OK(gpt2_session_tokens(session, &held, NULL));
    OK(gpt2_session_truncate(session, 2));
    CHECK(position_of(session) == 2);
    OK(gpt2_session_forward(session, tokens + 2, 2, &logits));
    CHECK(memcmp(logits, expected + 3 * V, V * sizeof *logits) == 0);

    OK(gpt2_session_truncate(session, 0));
    OK(gpt2_session_score(session, tokens, n_tokens, scores));
    CHECK(isnan(scores[0]) &&
          memcmp(scores + 1, expected_scores + 1, (n_tokens - 1) * sizeof scores[0]) == 0);
    OK(gpt2_session_score(session, NULL, 0, NULL));
    CHECK(gpt2_session_kv_dtype(session) == GPT2_KV_FLOAT32);
    gpt2_session_free(session);
    free(expected);
}

static void test_session_options(const gpt2_model* model) {
    gpt2_session_options options;
    gpt2_session* session = NULL;
    gpt2_pool* pool = NULL;
    const int32_t token = 5;
    OK(gpt2_pool_create(2, &pool));
    gpt2_session_options_init(&options);
    options.pool = pool;
    options.kv_dtype = GPT2_KV_FLOAT16;
    OK(gpt2_session_create(model, &options, &session));
    gpt2_pool_free(pool); /* the session keeps it */
    CHECK(gpt2_session_kv_dtype(session) == GPT2_KV_FLOAT16);
    OK(gpt2_session_forward(session, &token, 1, NULL));
    gpt2_session_free(session);

    session = NULL;
    options.kv_dtype = 3;
    options.pool = NULL;
    FAILS(GPT2_ERROR_OPTION, "kv_dtype is 3", gpt2_session_create(model, &options, &session));
    gpt2_session_options_init(&options);
    options.reserved = 1;
    FAILS(GPT2_ERROR_OPTION, "reserved is 1", gpt2_session_create(model, &options, &session));
    options.size = 0;
    FAILS(GPT2_ERROR_OPTION, "gpt2_session_options.size is 0",
          gpt2_session_create(model, &options, &session));
    FAILS(GPT2_ERROR_OPTION, "model: expected a pointer", gpt2_session_create(NULL, NULL, &session));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_create(model, NULL, NULL));
    CHECK(session == NULL);
    OK(gpt2_session_create(model, NULL, &session));
    gpt2_session_free(session);
}

static void test_session_errors(const gpt2_model* tiny) {
    gpt2_session* session = session_of(tiny);
    int32_t tokens[25] = {0};
    const int32_t bad = 300;
    const float* logits = NULL;
    const int32_t* held = NULL;
    float scores[25];
    size_t n = 0;
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_forward(NULL, tokens, 1, NULL));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_session_forward(session, NULL, 1, NULL));
    FAILS(GPT2_ERROR_OPTION, "at least one token", gpt2_session_forward(session, tokens, 0, NULL));
    FAILS(GPT2_ERROR_OPTION, "found 300", gpt2_session_forward(session, &bad, 1, NULL));
    FAILS(GPT2_ERROR_CONTEXT, "found 25", gpt2_session_forward(session, tokens, 25, NULL));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_logits(NULL, &logits, &n));
    FAILS(GPT2_ERROR_OPTION, "logits: expected a pointer", gpt2_session_logits(session, NULL, &n));
    FAILS(GPT2_ERROR_OPTION, "n_rows: expected a pointer", gpt2_session_logits(session, &logits, NULL));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_score(NULL, tokens, 1, scores));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_session_score(session, NULL, 1, scores));
    FAILS(GPT2_ERROR_OPTION, "logprobs: expected a pointer", gpt2_session_score(session, tokens, 1, NULL));
    FAILS(GPT2_ERROR_CONTEXT, "found 25", gpt2_session_score(session, tokens, 25, scores));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_position(NULL, &n));
    FAILS(GPT2_ERROR_OPTION, "position: expected a pointer", gpt2_session_position(session, NULL));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_tokens(NULL, &held, &n));
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_session_tokens(session, NULL, &n));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_session_truncate(NULL, 0));
    FAILS(GPT2_ERROR_OPTION, "found 1", gpt2_session_truncate(session, 1));
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer",
          gpt2_session_generate(NULL, tokens, 1, NULL, NULL, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "prompt: expected a pointer",
          gpt2_session_generate(session, NULL, 1, NULL, NULL, NULL, NULL));
    FAILS(GPT2_ERROR_OPTION, "found neither",
          gpt2_session_generate(session, NULL, 0, NULL, NULL, NULL, NULL));
    FAILS(GPT2_ERROR_CONTEXT, "20", gpt2_session_generate(session, tokens, 5, NULL, NULL, NULL, NULL));
    CHECK(position_of(session) == 0);
    gpt2_session_free(session);
}

static void test_session_generation(const gpt2_model* tiny) {
    gpt2_session* session = session_of(tiny);
    const int32_t prompt[4] = {1, 2, 3, 4};
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    size_t n = 0;
    int32_t all[10];
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 10;
    config.ignore_eos = 1;
    OK(gpt2_session_generate(session, prompt, 4, &config, NULL, NULL, &result));
    memcpy(all, gpt2_result_tokens(result, &n), sizeof all);
    CHECK(n == 10 && gpt2_result_prompt_tokens(result) == 4);
    CHECK(position_of(session) == 13); /* nobody has read the last one */
    gpt2_result_free(result);

    /* In two calls, the second of which continues from the logits of the first. */
    OK(gpt2_session_truncate(session, 0));
    OK(gpt2_session_forward(session, prompt, 4, NULL));
    OK(gpt2_session_generate(session, NULL, 0, &config, NULL, NULL, &result));
    CHECK(memcmp(gpt2_result_tokens(result, &n), all, sizeof all) == 0);
    gpt2_result_free(result);

    /* Far beyond the 24 positions. */
    OK(gpt2_session_truncate(session, 0));
    config.max_new_tokens = 50;
    config.overflow = GPT2_OVERFLOW_SLIDE;
    OK(gpt2_session_generate(session, prompt, 4, &config, NULL, NULL, &result));
    CHECK(memcmp(gpt2_result_tokens(result, &n), all, sizeof all) == 0 && n == 50);
    gpt2_result_free(result);
    gpt2_session_free(session);
}

/* A callback that uses the session that calls it, and another one. */
typedef struct reentrant {
    gpt2_session* own;
    gpt2_session* other;
    int calls;
} reentrant;

static int32_t use_sessions(const gpt2_token* token, void* user_data) {
    reentrant* state = (reentrant*)user_data;
    const gpt2_batch_item items[2] = {{state->other, &token->id, 1, GPT2_LOGITS_LAST, 0},
                                      {state->own, &token->id, 1, GPT2_LOGITS_LAST, 0}};
    const float* logits = NULL;
    const int32_t* held = NULL;
    float score = 0.0f;
    size_t n = 0;
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_forward(state->own, &token->id, 1, NULL));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_score(state->own, &token->id, 1, &score));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_logits(state->own, &logits, &n));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_tokens(state->own, &held, &n));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_position(state->own, &n));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_truncate(state->own, 0));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_session_generate(state->own, NULL, 0, NULL, NULL, NULL, NULL));
    FAILS(GPT2_ERROR_BUSY, "in use", gpt2_forward(items, 2));
    OK(gpt2_session_forward(state->other, &token->id, 1, NULL));
    ++state->calls;
    return GPT2_PROCEED;
}

static void test_reentrance(const gpt2_model* tiny) {
    reentrant state = {NULL, NULL, 0};
    const int32_t token = 9;
    gpt2_generation_config config;
    state.own = session_of(tiny);
    state.other = session_of(tiny);
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 3;
    config.ignore_eos = 1;
    OK(gpt2_session_generate(state.own, &token, 1, &config, use_sessions, &state, NULL));
    CHECK(state.calls == 3 && position_of(state.own) == 3 && position_of(state.other) == 3);
    gpt2_session_free(state.own);
    gpt2_session_free(state.other);
}

static void test_batch(const gpt2_model* model, const char* path) {
    const int32_t tokens[6] = {7, 20, 33, 7, 50, 91};
    const size_t V = gpt2_model_vocab_size(model);
    float* expected = malloc(6 * V * sizeof *expected);
    const float* logits = NULL;
    size_t n = 0;
    gpt2_model* other = load(TINY);
    gpt2_session* a = session_of(model);
    gpt2_session* b = session_of(model);
    gpt2_session* c = session_of(model);
    gpt2_session* stranger = session_of(other);
    gpt2_batch_item items[3];
    memset(items, 0, sizeof items);
    items[0].session = a;
    items[0].tokens = tokens;
    items[0].n_tokens = 6;
    items[0].logits = GPT2_LOGITS_ALL;
    items[1].session = b;
    items[1].tokens = tokens;
    items[1].n_tokens = 2;
    items[2].session = c;
    items[2].tokens = tokens;
    items[2].n_tokens = 3;
    items[2].logits = GPT2_LOGITS_NONE;
    engine_logits(path, tokens, 6, expected);
    OK(gpt2_forward(items, 3));
    OK(gpt2_session_logits(a, &logits, &n));
    CHECK(n == 6 && memcmp(logits, expected, 6 * V * sizeof *logits) == 0);
    OK(gpt2_session_logits(b, &logits, &n));
    CHECK(n == 1 && memcmp(logits, expected + V, V * sizeof *logits) == 0);
    OK(gpt2_session_logits(c, &logits, &n));
    CHECK(n == 0 && logits == NULL && position_of(c) == 3);

    OK(gpt2_forward(NULL, 0));
    FAILS(GPT2_ERROR_OPTION, "items: expected a pointer", gpt2_forward(NULL, 1));
    items[1].session = a;
    FAILS(GPT2_ERROR_OPTION, "found one twice", gpt2_forward(items, 3));
    items[1].session = NULL;
    FAILS(GPT2_ERROR_OPTION, "session: expected a pointer", gpt2_forward(items, 3));
    items[1].session = stranger;
    FAILS(GPT2_ERROR_OPTION, "one of another", gpt2_forward(items, 3));
    items[1].session = b;
    items[1].logits = 3;
    FAILS(GPT2_ERROR_OPTION, "logits is 3", gpt2_forward(items, 3));
    items[1].logits = 0;
    items[1].reserved = 1;
    FAILS(GPT2_ERROR_OPTION, "reserved is 1", gpt2_forward(items, 3));
    items[1].reserved = 0;
    items[1].n_tokens = 0;
    FAILS(GPT2_ERROR_OPTION, "at least one token", gpt2_forward(items, 3));
    items[1].tokens = NULL;
    items[1].n_tokens = 1;
    FAILS(GPT2_ERROR_OPTION, "tokens: expected a pointer", gpt2_forward(items, 3));
    CHECK(position_of(a) == 6 && position_of(b) == 2 && position_of(c) == 3);
    gpt2_model_free(other);
    gpt2_session_free(a);
    gpt2_session_free(b);
    gpt2_session_free(c);
    gpt2_session_free(stranger); /* after its model */
    free(expected);
}

static void test_last_error(const gpt2_model* model) {
    size_t n = 0;
    int32_t* tokens = NULL;
    FAILS(GPT2_ERROR_OPTION, "special_tokens is 2", gpt2_encode(model, "a", 1, 2, &tokens, &n));
    OK(gpt2_encode(model, "a", 1, 0, &tokens, &n));
    gpt2_free(tokens);
    CHECK(strstr(gpt2_last_error(), "special_tokens is 2") != NULL); /* success leaves it alone */
}

int main(void) {
    gpt2_model* model;
    gpt2_model* tiny;
    setvbuf(stdout, NULL, _IONBF, 0); /* what was said before a crash is not lost */
    test_version_and_names();
    test_null_is_harmless();
    test_pool();
    test_load();
    test_load_errors();
    test_numeric_error();
    test_tokenizer();
    model = load(NOVELLA);
    tiny = load(TINY);
    test_generation(model);
    test_finish_reasons(model);
    test_generation_errors(model);
    test_structures_that_grow(model);
    test_session(model, NOVELLA);
    test_session(tiny, TINY);
    test_session_options(model);
    test_session_errors(tiny);
    test_session_generation(tiny);
    test_reentrance(tiny);
    test_batch(model, NOVELLA);
    test_last_error(tiny);
    n_failed += test_modes(model, tiny);
    gpt2_model_free(model);
    gpt2_model_free(tiny);
    printf("%d checks failed\n", n_failed);
    return n_failed == 0 ? 0 : 1;
}
