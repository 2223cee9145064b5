// SPDX-License-Identifier: MIT
#include "engine.h"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <iterator>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

void copy(const gpt2::GenerationResult& found, engine_text* result) {
    result->n = found.tokens.size();
    std::ranges::copy(found.tokens, result->tokens);
    std::ranges::copy(found.logprobs, result->logprobs);
    result->text_size = found.text.copy(result->text, sizeof result->text);
    result->score = found.score.value_or(0.0);
    result->proposed = found.speculation.proposed;
    result->accepted = found.speculation.accepted;
}

void copy(std::span<const float> logprobs, std::span<const std::vector<gpt2::TokenLogprob>> top,
          engine_places* places) {
    places->n = logprobs.size();
    std::ranges::copy(logprobs, places->logprobs);
    for (std::size_t i = 0; i < top.size(); ++i) {
        places->n_top[i] = top[i].size();
        std::ranges::transform(top[i], places->top[i], [](const gpt2::TokenLogprob& token) {
            return gpt2_token_logprob{token.id, token.logprob};
        });
    }
}

/// Leaves the same chance to the tokens up to 99.
void flatten(std::span<const gpt2::TokenId>, std::span<float> scores) {
    std::ranges::fill(scores.first(100), 0.0f);
    std::ranges::fill(scores.subspan(100), -infinity);
}

struct Option {
    const char* name;
    void (*set)(gpt2::GenerationConfig& config, gpt2::TokenId token);
};

using Config = gpt2::GenerationConfig;
using gpt2::TokenId;

/// Each by itself or with what it needs.
constexpr Option options[] = {
    {"", [](Config&, TokenId) {}},
    {"min_new_tokens",
     [](Config& c, TokenId token) {
         c.eos_token_id = token;
         c.min_new_tokens = 9;
     }},
    {"num_beams",
     [](Config& c, TokenId) {
         c.num_beams = 4;
         c.length_penalty = 0.5f;
         c.early_stopping = gpt2::sampling::EarlyStopping::never;
     }},
    {"num_beam_groups",
     [](Config& c, TokenId) {
         c = {.max_new_tokens = ENGINE_TOKENS};
         c.num_beams = 4;
         c.num_beam_groups = 2;
         c.diversity_penalty = 1.5f;
         c.early_stopping = gpt2::sampling::EarlyStopping::on;
     }},
    {"penalty_alpha",
     [](Config& c, TokenId) {
         c = {.max_new_tokens = ENGINE_TOKENS};
         c.top_k = 4;
         c.penalty_alpha = 0.6f;
     }},
    {"guidance_scale",
     [](Config& c, TokenId token) {
         c.guidance_scale = 1.7f;
         c.negative_prompt_ids = {token, 5};
     }},
    {"typical_p", [](Config& c, TokenId) { c.typical_p = 0.4f; }},
    {"epsilon_cutoff", [](Config& c, TokenId) { c.epsilon_cutoff = 0.02f; }},
    {"eta_cutoff", [](Config& c, TokenId) { c.eta_cutoff = 0.02f; }},
    {"top_n_sigma", [](Config& c, TokenId) { c.top_n_sigma = 1.5f; }},
    {"presence_penalty", [](Config& c, TokenId) { c.presence_penalty = 6.0f; }},
    {"frequency_penalty",
     [](Config& c, TokenId) {
         c.frequency_penalty = 6.0f;
         c.penalty_last_n = 3;
     }},
    {"no_repeat_ngram_size", [](Config& c, TokenId) { c.no_repeat_ngram_size = 1; }},
    {"forced_bos_token_id", [](Config& c, TokenId) { c.forced_bos_token_id = 11; }},
    {"forced_eos_token_id", [](Config& c, TokenId) { c.forced_eos_token_id = 12; }},
    {"suppress_tokens",
     [](Config& c, TokenId token) {
         c.suppress_tokens = {4, token};
     }},
    {"begin_suppress_tokens", [](Config& c, TokenId token) { c.begin_suppress_tokens = {token}; }},
    {"bad_words_ids",
     [](Config& c, TokenId token) {
         c.bad_words_ids = {{1, 2}, {token}};
     }},
    {"sequence_bias",
     [](Config& c, TokenId token) {
         c.sequence_bias = {{{token}, -9.0f}, {{7}, 5.0f}};
     }},
    {"logit_bias",
     [](Config& c, TokenId token) {
         c.logit_bias = {{token, -infinity}, {9, 5.0f}};
     }},
    {"exponential_decay_length_penalty",
     [](Config& c, TokenId) { c.exponential_decay_length_penalty = {.start = 3, .factor = 1.3f}; }},
    {"dry",
     [](Config& c, TokenId) {
         c.dry = {.multiplier = 8.0f,
                  .base = 2.0f,
                  .allowed_length = 1,
                  .penalty_last_n = 20,
                  .sequence_breakers = {"."}};
     }},
    {"xtc", [](Config& c, TokenId) { c.xtc = {.probability = 0.9f, .threshold = 0.02f}; }},
    {"mirostat", [](Config& c, TokenId) { c.mirostat = {.tau = 2.0f, .eta = 0.3f}; }},
    {"top_k_ties",
     [](Config& c, TokenId) {
         c.logits_processors = {flatten};
         c.top_k = 5;
         c.top_k_ties = gpt2::sampling::TopKTies::cut;
     }},
    {"top_p_rule",
     [](Config& c, TokenId) {
         c.top_p = 0.6f;
         c.top_p_rule = gpt2::sampling::TopPRule::within;
     }},
    {"processor_order",
     [](Config& c, TokenId) {
         c.top_p = 0.6f;
         c.processor_order = {"top_p", "temperature"};
     }},
    {"prompt_lookup_num_tokens",
     [](Config& c, TokenId) {
         c.prompt_lookup_num_tokens = 3;
         c.max_matching_ngram_size = 1;
     }},
};

std::thread canceller;

} // namespace

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
    copy(found, result);
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

void engine_option(const char* model, const char* option, int32_t token, engine_text* result) {
    gpt2::GenerationConfig config{
        .max_new_tokens = ENGINE_TOKENS, .do_sample = true, .temperature = 1.5f, .seed = 7};
    const Option* const found =
        std::ranges::find(options, std::string_view(option), [](const Option& o) { return o.name; });
    found->set(config, token);
    copy(gpt2::Gpt2Model::load(model).generate("", config), result);
}

const char* engine_option_name(size_t number) {
    return number < std::size(options) ? options[number].name : nullptr;
}

void engine_logprobs(const char* model, const char* prompt, engine_places* text, engine_places* in_prompt) {
    gpt2::GenerationConfig config{.max_new_tokens = 8, .logprobs = true};
    config.top_logprobs = ENGINE_TOP;
    config.prompt_logprobs = true;
    const auto found = gpt2::Gpt2Model::load(model).generate(prompt, config);
    copy(found.logprobs, found.top_logprobs, text);
    copy(found.prompt_logprobs, found.prompt_top_logprobs, in_prompt);
}

void engine_constrained(const char* model, const char* pattern, int32_t is_grammar, engine_text* result) {
    const auto loaded = gpt2::Gpt2Model::load(model);
    gpt2::GenerationConfig config{.max_new_tokens = ENGINE_TOKENS};
    config.constraint = is_grammar != 0 ? gpt2::Constraint::grammar(pattern, loaded.tokenizer())
                                        : gpt2::Constraint::regex(pattern, loaded.tokenizer());
    copy(loaded.generate("Once", config), result);
}

void engine_embed(const char* model, const char* text, int32_t last, float* embedding) {
    std::ranges::copy(gpt2::embed(gpt2::Gpt2Model::load(model), text,
                                  last != 0 ? gpt2::Pooling::last : gpt2::Pooling::mean),
                      embedding);
}

void engine_cancel(gpt2_cancellation* cancellation) {
    canceller = std::thread([cancellation] { gpt2_cancellation_request(cancellation); });
}

void engine_join() {
    canceller.join();
}
