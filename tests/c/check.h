/* SPDX-License-Identifier: MIT */
#ifndef GPT2_TEST_CHECK_H
#define GPT2_TEST_CHECK_H

#include <gpt2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the tests in C have in common. Everything is static: each file counts for itself. */

#define GPT2_STRING_OF(number) #number
#define GPT2_STRING(number) GPT2_STRING_OF(number)
#define WHERE __FILE__ ":" GPT2_STRING(__LINE__)

#define NOVELLA GPT2_SOURCE_DIR "/models/novella-f16.safetensors"
#define TINY GPT2_FIXTURES "/tiny-f32.safetensors"

static int n_failed = 0;

static void check(int is_true, const char* what, const char* where) {
    if (!is_true) {
        printf("%s: %s\n", where, what);
        ++n_failed;
    }
}
#define CHECK(condition) check((condition) != 0, #condition, WHERE)

/* A call that must succeed. */
static void check_ok(gpt2_status status, const char* what, const char* where) {
    if (status != GPT2_OK) {
        printf("%s: %s\n    %s: %s\n", where, what, gpt2_status_name((int)status), gpt2_last_error());
        exit(1); /* what follows needs what it makes */
    }
}
#define OK(call) check_ok((call), #call, WHERE)

/* A call that must fail with this status and a message that has this text in it. */
static void check_fails(gpt2_status status, gpt2_status expected, const char* text, const char* what,
                        const char* where) {
    if (status != expected || strstr(gpt2_last_error(), text) == NULL) {
        printf("%s: %s\n    expected %s, \"...%s...\"\n    found %s, \"%s\"\n", where, what,
               gpt2_status_name((int)expected), text, gpt2_status_name((int)status), gpt2_last_error());
        ++n_failed;
    }
}
#define FAILS(expected, text, call) check_fails((call), (expected), (text), #call, WHERE)

static int same_text(gpt2_bytes found, const char* expected) {
    return found.size == strlen(expected) && memcmp(found.data, expected, found.size) == 0;
}

static gpt2_session* session_of(const gpt2_model* model) {
    gpt2_session_options options;
    gpt2_session* session = NULL;
    gpt2_session_options_init(&options);
    options.kv_dtype = GPT2_KV_FLOAT32;
    OK(gpt2_session_create(model, &options, &session));
    return session;
}

static size_t position_of(const gpt2_session* session) {
    size_t position = 0;
    OK(gpt2_session_position(session, &position));
    return position;
}

/* The texts and bytes that a callback was given. */
typedef struct collected {
    char text[1024];
    size_t text_size;
    char bytes[1024];
    size_t bytes_size;
    size_t n;
    size_t stop_at; /* tokens */
    int32_t ids[64];
    float logprobs[64];
} collected;

static int32_t collect(const gpt2_token* token, void* user_data) {
    collected* all = (collected*)user_data;
    CHECK(token->size == sizeof *token && token->index == all->n);
    memcpy(all->text + all->text_size, token->text.data, token->text.size);
    memcpy(all->bytes + all->bytes_size, token->bytes.data, token->bytes.size);
    all->text_size += token->text.size;
    all->bytes_size += token->bytes.size;
    all->ids[all->n] = token->id;
    all->logprobs[all->n] = token->logprob;
    ++all->n;
    return all->n == all->stop_at ? GPT2_STOP : GPT2_PROCEED;
}

#endif
