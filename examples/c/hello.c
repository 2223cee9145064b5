/* SPDX-License-Identifier: MIT */
#include <gpt2.h>
#include <stdio.h>

static int32_t print(const gpt2_token* token, void* user_data) {
    (void)user_data;
    fwrite(token->text.data, 1, token->text.size, stdout);
    return fflush(stdout) == 0 ? GPT2_PROCEED : GPT2_STOP;
}

int main(int argc, char** argv) {
    static const char prompt[] = "There was once a poor woodcutter who";
    gpt2_model* model = NULL;
    gpt2_generation_config config;
    gpt2_generation_config_init(&config);
    config.max_new_tokens = 80;
    config.do_sample = 1;
    config.temperature = gpt2_float(0.8f);
    config.top_k = gpt2_int(40);
    config.seed = gpt2_uint(42);
    if (gpt2_model_load(argc > 1 ? argv[1] : "models/novella-f16.safetensors", NULL, &model) != GPT2_OK ||
        gpt2_generate(model, prompt, sizeof prompt - 1, &config, print, NULL, NULL) != GPT2_OK) {
        fprintf(stderr, "%s\n", gpt2_last_error());
        gpt2_model_free(model);
        return 1;
    }
    gpt2_model_free(model);
    return 0;
}
