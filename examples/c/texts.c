/* SPDX-License-Identifier: MIT */

/* Several prompts at once, a text that ends in time, the same text sooner, and a session on disk:
 * texts-c [MODEL] */

#include <gpt2.h>
#include <stdio.h>
#include <string.h>

static const char* const prompt = "There was once a poor woodcutter who";

static void print(const char* title, const gpt2_result* result) {
    printf("%s: %s (%s)\n", title, gpt2_result_text(result).data,
           gpt2_finish_reason_name((int)gpt2_result_finish_reason(result)));
}

static gpt2_status batch(const gpt2_model* model) {
    const gpt2_bytes prompts[2] = {{"Once upon a time", 16}, {"The king", 8}};
    gpt2_generation_config config;
    gpt2_results* results = NULL;
    gpt2_status status;
    size_t i;
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 12;
    config.num_beams = gpt2_int(4);
    config.num_return_sequences = gpt2_int(2);
    status = gpt2_generate_batch(model, prompts, 2, &config, NULL, NULL, NULL, &results);
    for (i = 0; i < gpt2_results_size(results); ++i) {
        print("beam", gpt2_results_at(results, i));
    }
    gpt2_results_free(results);
    return status;
}

/* Any thread may call gpt2_cancellation_request(); here it is the callback. */
static int32_t cancel(const gpt2_token* token, void* user_data) {
    if (token->index == 5) {
        gpt2_cancellation_request((gpt2_cancellation*)user_data);
    }
    return GPT2_PROCEED;
}

static gpt2_status endless(const gpt2_model* model) {
    gpt2_generation_config config;
    gpt2_cancellation* cancellation = NULL;
    gpt2_result* result = NULL;
    gpt2_status status = gpt2_cancellation_create(&cancellation);
    if (status != GPT2_OK) {
        return status;
    }
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 1000000000;
    config.overflow = GPT2_OVERFLOW_SLIDE;
    config.cancellation = cancellation;
    config.max_time = gpt2_double(60.0); /* at the latest */
    status = gpt2_generate(model, prompt, strlen(prompt), &config, cancel, cancellation, &result);
    if (status == GPT2_OK) {
        print("without end", result);
    }
    gpt2_result_free(result);
    gpt2_cancellation_free(cancellation);
    return status;
}

static gpt2_status sooner(const gpt2_model* model) {
    gpt2_generation_config config;
    gpt2_result* result = NULL;
    gpt2_speculation found;
    gpt2_status status;
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 40;
    config.prompt_lookup_num_tokens = gpt2_int(3);
    status = gpt2_generate(model, prompt, strlen(prompt), &config, NULL, NULL, &result);
    found = gpt2_result_speculation(result);
    printf("%d of %d proposals right, %d passes\n", (int)found.accepted, (int)found.proposed,
           (int)found.passes);
    gpt2_result_free(result);
    return status;
}

static gpt2_status on_disk(const gpt2_model* model) {
    const char* const path = "texts-c.session";
    gpt2_session* session = NULL;
    gpt2_session* again = NULL;
    gpt2_result* result = NULL;
    int32_t* tokens = NULL;
    size_t n = 0;
    gpt2_status status = gpt2_encode_prompt(model, prompt, strlen(prompt), &tokens, &n);
    status = status == GPT2_OK ? gpt2_session_create(model, NULL, &session) : status;
    status = status == GPT2_OK ? gpt2_session_forward(session, tokens, n, NULL) : status;
    status = status == GPT2_OK ? gpt2_session_save(session, path) : status;
    status = status == GPT2_OK ? gpt2_session_restore(model, path, NULL, &again) : status;
    status = status == GPT2_OK ? gpt2_session_generate(again, NULL, 0, NULL, NULL, NULL, &result) : status;
    if (status == GPT2_OK) {
        print("from a file", result);
    }
    remove(path);
    gpt2_free(tokens);
    gpt2_result_free(result);
    gpt2_session_free(session);
    gpt2_session_free(again);
    return status;
}

int main(int argc, char** argv) {
    gpt2_model* model = NULL;
    const char* const path = argc > 1 ? argv[1] : "models/novella-f16.safetensors";
    const int ok = gpt2_model_load(path, NULL, &model) == GPT2_OK && batch(model) == GPT2_OK &&
                   endless(model) == GPT2_OK && sooner(model) == GPT2_OK && on_disk(model) == GPT2_OK;
    if (!ok) {
        fprintf(stderr, "%s\n", gpt2_last_error());
    }
    gpt2_model_free(model);
    return ok ? 0 : 1;
}
