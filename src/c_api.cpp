// SPDX-License-Identifier: MIT

// libgpt2: c/gpt2.h over the headers. Each function checks what C cannot, calls the engine, and turns what
// that throws into a status.

#include "c_arguments.hpp"
#include "c_options.hpp"
#include "exclusive_use.hpp"
#include "gpt2.h"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace gpt2::bindings; // of these three headers alone
using gpt2::OptionError;
using gpt2::TokenId;

namespace {

// ---- Errors

struct LastError {
    std::string memory;
    const char* text = "";
};
thread_local LastError last_error;

gpt2_status failed(gpt2_status status, const char* text) noexcept {
    try {
        last_error.memory = text;
        last_error.text = last_error.memory.c_str();
    } catch (...) {
        last_error.text = "out of memory, even for the message";
    }
    return status;
}

/// Of the exception that is being handled.
GPT2_COLD gpt2_status status_of_exception() noexcept {
    try {
        throw;
    } catch (const gpt2::FileError& error) {
        return failed(GPT2_ERROR_FILE, error.what());
    } catch (const gpt2::FormatError& error) {
        return failed(GPT2_ERROR_FORMAT, error.what());
    } catch (const gpt2::OptionError& error) {
        return failed(GPT2_ERROR_OPTION, error.what());
    } catch (const gpt2::ContextError& error) {
        return failed(GPT2_ERROR_CONTEXT, error.what());
    } catch (const gpt2::NumericError& error) {
        return failed(GPT2_ERROR_NUMERIC, error.what());
    } catch (const BusyError& error) {
        return failed(GPT2_ERROR_BUSY, error.what());
    } catch (const gpt2::Error& error) {
        return failed(GPT2_ERROR, error.what());
    } catch (const std::bad_alloc&) {
        return failed(GPT2_ERROR_MEMORY, "out of memory");
    } catch (const std::length_error&) { // a size that no memory can have
        return failed(GPT2_ERROR_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return failed(GPT2_ERROR_UNKNOWN, error.what());
    } catch (...) {
        return failed(GPT2_ERROR_UNKNOWN, "an exception that is not a std::exception");
    }
}

template <class Body> gpt2_status guarded(Body&& body) noexcept {
    try {
        body();
        return GPT2_OK;
    } catch (...) {
        return status_of_exception();
    }
}

// ---- To C

gpt2_bytes bytes_of(std::string_view text) noexcept {
    return {text.data() != nullptr ? text.data() : "", text.size()};
}

/// A copy for gpt2_free(), with @p zeros elements behind it; never null.
template <class T> T* allocated_copy(std::span<const T> values, std::size_t zeros) {
    auto* const copy =
        static_cast<T*>(std::calloc(values.size() + std::max<std::size_t>(zeros, 1), sizeof(T)));
    if (copy == nullptr) {
        throw std::bad_alloc();
    }
    std::ranges::copy(values, copy);
    return copy;
}

void hand_out(const std::vector<TokenId>& from, std::int32_t** tokens, std::size_t* n_tokens) {
    *tokens = allocated_copy(std::span(from), 0);
    *n_tokens = from.size();
}

void hand_out(gpt2::GenerationResult&& from, gpt2_result** result) {
    if (result != nullptr) {
        *result = new gpt2_result(std::move(from));
    }
}

/// @param top  token.top_logprobs as C has them, which the callback may look at
gpt2_token token_of(const gpt2::GeneratedToken& token, std::span<const gpt2_token_logprob> top) noexcept {
    gpt2_token c{};
    c.size = sizeof c;
    c.id = token.id;
    c.logprob = token.logprob.value_or(std::numeric_limits<float>::quiet_NaN());
    c.text = bytes_of(token.text);
    c.bytes = bytes_of(token.bytes);
    c.index = token.index;
    c.top_logprobs = top.empty() ? nullptr : top.data();
    c.n_top_logprobs = top.size();
    return c;
}

gpt2::Flow flow_of(std::int32_t answer) {
    switch (answer) {
    case GPT2_PROCEED:
        return gpt2::Flow::proceed;
    case GPT2_STOP:
        return gpt2::Flow::stop;
    default:
        throw OptionError(concat("callback: expected GPT2_PROCEED (", static_cast<int>(GPT2_PROCEED),
                                 ") or GPT2_STOP (", static_cast<int>(GPT2_STOP), "), found ", answer));
    }
}

gpt2::StreamCallback stream_callback(gpt2_callback callback, void* user_data) {
    if (callback == nullptr) {
        return {};
    }
    return [callback, user_data](const gpt2::GeneratedToken& token) {
        const std::vector<gpt2_token_logprob> top = to_c(token.top_logprobs);
        const gpt2_token c = token_of(token, top);
        return flow_of(callback(&c, user_data));
    };
}

gpt2::BatchCallback batch_callback(gpt2_batch_callback callback, void* user_data) {
    if (callback == nullptr) {
        return {};
    }
    return [callback, user_data](std::size_t index, const gpt2::GeneratedToken& token) {
        const std::vector<gpt2_token_logprob> top = to_c(token.top_logprobs);
        const gpt2_token c = token_of(token, top);
        return flow_of(callback(index, &c, user_data));
    };
}

gpt2_optional_double optional_double(const std::optional<double>& value) noexcept {
    return value ? gpt2_double(*value) : gpt2_optional_double{};
}

// ---- Sessions

template <class Body> gpt2_status with_session(const gpt2_session* session, Body&& body) noexcept {
    return guarded([&] {
        const ExclusiveUse use(required(session, "session").busy);
        body();
    });
}

gpt2::Logits logits_of(std::int32_t value) {
    switch (choice("logits", value, GPT2_LOGITS_NONE)) {
    case GPT2_LOGITS_ALL:
        return gpt2::Logits::all;
    case GPT2_LOGITS_NONE:
        return gpt2::Logits::none;
    default:
        return gpt2::Logits::last;
    }
}

void forward_batch(std::span<const gpt2_batch_item> items) {
    std::set<const gpt2_session*> sessions; // one that is there twice is for the engine to refuse
    std::vector<gpt2::BatchItem> batch;
    for (const gpt2_batch_item& item : items) {
        require_reserved(item.reserved);
        gpt2_session& session = required(item.session, "session");
        sessions.insert(&session);
        batch.push_back(
            {&session.session, array(item.tokens, item.n_tokens, "tokens"), logits_of(item.logits)});
    }
    std::deque<ExclusiveUse> uses;
    for (const gpt2_session* const session : sessions) {
        uses.emplace_back(session->busy);
    }
    gpt2::forward(batch);
}

std::int32_t token_or_none(const std::optional<TokenId>& token) noexcept {
    return token.value_or(-1);
}

/// A session for gpt2_session_free().
void hand_out(gpt2::Session&& from, gpt2_session** session) {
    *session = new gpt2_session{std::move(from)};
}

/// @param prompts  a function that returns those of the engine
template <class Prompts>
gpt2_status generate_batch(const gpt2_model* model, Prompts&& prompts, const gpt2_generation_config* config,
                           gpt2_batch_callback callback, void* user_data, const gpt2_session_options* options,
                           gpt2_results** results) noexcept {
    return guarded([&] {
        const gpt2::Gpt2Model& engine = required(model, "model").model;
        auto texts = engine.generate_batch(prompts(), generation_config(config),
                                           batch_callback(callback, user_data), session_options(options));
        if (results == nullptr) {
            return;
        }
        auto all = std::make_unique<gpt2_results>();
        for (gpt2::GenerationResult& text : texts) {
            all->all.emplace_back(std::move(text));
        }
        *results = all.release();
    });
}

template <class Input>
gpt2_status embed(const gpt2_model* model, Input&& input, std::int32_t pooling,
                  const gpt2_session_options* options, float* embedding) noexcept {
    return guarded([&] {
        required(embedding, "embedding");
        const auto kind = choice("pooling", pooling, GPT2_POOLING_LAST) == GPT2_POOLING_LAST
                              ? gpt2::Pooling::last
                              : gpt2::Pooling::mean;
        std::ranges::copy(
            gpt2::embed(required(model, "model").model, input(), kind, session_options(options)), embedding);
    });
}

/// What @p look finds in a result; nothing in particular for null.
template <class Look> auto look_at(const gpt2_result* result, Look&& look) noexcept {
    using Found = decltype(look(result->result));
    return result != nullptr ? look(result->result) : Found{};
}

/// The pointer to an array, and its size; null where it is empty.
template <class T> const T* array_in(std::span<const T> found, std::size_t* n) noexcept {
    if (n != nullptr) {
        *n = found.size();
    }
    return found.empty() ? nullptr : found.data();
}

/// One of several arrays; none for an index that is none.
const gpt2_token_logprob* place_in(const gpt2_result* result, gpt2_result::Places gpt2_result::*places,
                                   std::size_t index, std::size_t* n) noexcept {
    std::span<const gpt2_token_logprob> found;
    if (result != nullptr && index < (result->*places).size()) {
        found = (result->*places)[index];
    }
    return array_in(found, n);
}

using MakeConstraint = decltype(gpt2::Constraint::regex);

gpt2_status make_constraint(const gpt2_model* model, std::string_view name, const char* text,
                            std::size_t size, MakeConstraint& make, gpt2_constraint** constraint) noexcept {
    return guarded([&] {
        required(constraint, "constraint");
        const gpt2::Tokenizer& tokenizer = required(model, "model").model.tokenizer();
        *constraint = new gpt2_constraint{make(text_of(text, size, name), tokenizer, {})};
    });
}

using AskConstraint = bool (gpt2::Constraint::*)(std::string_view) const;

/// What @p ask says about a text.
gpt2_status ask_about(const gpt2_constraint* constraint, const char* text, std::size_t size,
                      AskConstraint ask, std::string_view name, std::int32_t* answer) noexcept {
    return guarded([&] {
        required(answer, name);
        const gpt2::Constraint& asked = *required(constraint, "constraint").constraint;
        *answer = (asked.*ask)(text_of(text, size, "text")) ? 1 : 0;
    });
}

const gpt2::Config& config_of(const gpt2_model* model) noexcept {
    static constexpr gpt2::Config none{.vocab_size = 0,
                                       .n_positions = 0,
                                       .n_embd = 0,
                                       .n_layer = 0,
                                       .n_head = 0,
                                       .n_inner = 0,
                                       .bos_token_id = {},
                                       .eos_token_id = {}};
    return model != nullptr ? model->model.config() : none;
}

} // namespace

// ---- Status and version

const char* gpt2_status_name(int status) {
    switch (status) {
    case GPT2_OK:
        return "ok";
    case GPT2_ERROR:
        return "error";
    case GPT2_ERROR_FILE:
        return "file error";
    case GPT2_ERROR_FORMAT:
        return "format error";
    case GPT2_ERROR_OPTION:
        return "option error";
    case GPT2_ERROR_CONTEXT:
        return "context error";
    case GPT2_ERROR_NUMERIC:
        return "numeric error";
    case GPT2_ERROR_MEMORY:
        return "out of memory";
    case GPT2_ERROR_BUSY:
        return "session in use";
    case GPT2_ERROR_UNKNOWN:
        return "unknown error";
    default:
        return "unknown status";
    }
}

const char* gpt2_last_error(void) {
    return last_error.text;
}

void gpt2_free(void* memory) {
    std::free(memory);
}

const char* gpt2_version(void) {
    return gpt2::version_string;
}

std::int32_t gpt2_version_number(void) {
    return GPT2_VERSION;
}

std::int32_t gpt2_abi_version(void) {
    return GPT2_ABI_VERSION;
}

// ---- Threads

gpt2_status gpt2_pool_create(std::size_t n_threads, gpt2_pool** pool) {
    return guarded([&] {
        required(pool, "pool");
        *pool = new gpt2_pool{std::make_shared<gpt2::ThreadPool>(n_threads)};
    });
}

std::size_t gpt2_pool_size(const gpt2_pool* pool) {
    return pool != nullptr ? pool->pool->size() : 0;
}

void gpt2_pool_free(gpt2_pool* pool) {
    delete pool;
}

// ---- Model

void gpt2_load_options_init_sized(gpt2_load_options* options, std::size_t size) {
    initialize(options, size, default_load_options);
}

gpt2_status gpt2_model_load(const char* path, const gpt2_load_options* options, gpt2_model** model) {
    return guarded([&] {
        required(model, "model");
        *model = new gpt2_model{gpt2::Gpt2Model::load(path_of(path), load_options(options))};
    });
}

gpt2_status gpt2_model_load_memory(const void* file, std::size_t size, const gpt2_load_options* options,
                                   gpt2_model** model) {
    return guarded([&] {
        required(model, "model");
        const auto bytes = array(static_cast<const std::byte*>(file), size, "file");
        *model = new gpt2_model{gpt2::Gpt2Model::load(bytes, load_options(options))};
    });
}

void gpt2_model_free(gpt2_model* model) {
    delete model;
}

gpt2_status gpt2_model_verify(const gpt2_model* model, gpt2_pool* pool, float* largest_difference) {
    return guarded([&] {
        const gpt2::Verification found = required(model, "model").model.verify(pool_of(pool));
        if (largest_difference != nullptr) {
            *largest_difference = found.largest_difference;
        }
    });
}

std::size_t gpt2_model_vocab_size(const gpt2_model* model) {
    return config_of(model).vocab_size;
}

std::size_t gpt2_model_n_positions(const gpt2_model* model) {
    return config_of(model).n_positions;
}

std::size_t gpt2_model_n_embd(const gpt2_model* model) {
    return config_of(model).n_embd;
}

std::size_t gpt2_model_n_layer(const gpt2_model* model) {
    return config_of(model).n_layer;
}

std::size_t gpt2_model_n_head(const gpt2_model* model) {
    return config_of(model).n_head;
}

std::size_t gpt2_model_n_inner(const gpt2_model* model) {
    return config_of(model).n_inner;
}

std::int32_t gpt2_model_bos_token(const gpt2_model* model) {
    return token_or_none(config_of(model).bos_token_id);
}

std::int32_t gpt2_model_eos_token(const gpt2_model* model) {
    return token_or_none(config_of(model).eos_token_id);
}

const char* gpt2_model_isa(const gpt2_model* model) {
    return model != nullptr ? gpt2::to_string(model->model.isa()).data() : ""; // literals
}

std::size_t gpt2_model_bytes_read(const gpt2_model* model) {
    return model != nullptr ? model->model.bytes_read() : 0;
}

// ---- Tokenizer

gpt2_status gpt2_encode(const gpt2_model* model, const char* text, std::size_t size,
                        std::int32_t special_tokens, std::int32_t** tokens, std::size_t* n_tokens) {
    return guarded([&] {
        required(tokens, "tokens");
        required(n_tokens, "n_tokens");
        const auto special = choice("special_tokens", special_tokens, GPT2_SPECIAL_TOKENS_RECOGNIZED) ==
                                     GPT2_SPECIAL_TOKENS_RECOGNIZED
                                 ? gpt2::SpecialTokens::recognized
                                 : gpt2::SpecialTokens::as_text;
        const gpt2::Tokenizer& tokenizer = required(model, "model").model.tokenizer();
        hand_out(tokenizer.encode(text_of(text, size, "text"), special), tokens, n_tokens);
    });
}

gpt2_status gpt2_encode_prompt(const gpt2_model* model, const char* text, std::size_t size,
                               std::int32_t** tokens, std::size_t* n_tokens) {
    return guarded([&] {
        required(tokens, "tokens");
        required(n_tokens, "n_tokens");
        hand_out(required(model, "model").model.encode_prompt(text_of(text, size, "text")), tokens, n_tokens);
    });
}

gpt2_status gpt2_decode(const gpt2_model* model, const std::int32_t* tokens, std::size_t n_tokens,
                        char** bytes, std::size_t* size) {
    return guarded([&] {
        required(bytes, "bytes");
        required(size, "size");
        const gpt2::Tokenizer& tokenizer = required(model, "model").model.tokenizer();
        const std::string text = tokenizer.decode(array(tokens, n_tokens, "tokens"));
        *bytes = allocated_copy(std::span<const char>(text), 1);
        *size = text.size();
    });
}

gpt2_status gpt2_token_bytes(const gpt2_model* model, std::int32_t token, gpt2_bytes* bytes) {
    return guarded([&] {
        required(bytes, "bytes");
        *bytes = bytes_of(required(model, "model").model.tokenizer().token_bytes(token));
    });
}

std::size_t gpt2_n_tokens(const gpt2_model* model) {
    return model != nullptr ? model->model.tokenizer().size() : 0;
}

std::int32_t gpt2_special_token(const gpt2_model* model, const char* name) {
    return model != nullptr && name != nullptr ? token_or_none(model->model.tokenizer().special_token(name))
                                               : -1;
}

std::int32_t gpt2_is_special(const gpt2_model* model, std::int32_t token) {
    return model != nullptr && model->model.tokenizer().is_special(token) ? 1 : 0;
}

// ---- Generation

gpt2_status gpt2_cancellation_create(gpt2_cancellation** cancellation) {
    return guarded([&] {
        required(cancellation, "cancellation");
        *cancellation = new gpt2_cancellation{};
    });
}

void gpt2_cancellation_request(gpt2_cancellation* cancellation) {
    if (cancellation != nullptr) {
        cancellation->source.request_stop();
    }
}

std::int32_t gpt2_cancellation_requested(const gpt2_cancellation* cancellation) {
    return cancellation != nullptr && cancellation->source.stop_requested() ? 1 : 0;
}

void gpt2_cancellation_free(gpt2_cancellation* cancellation) {
    delete cancellation;
}

gpt2_status gpt2_constraint_regex(const gpt2_model* model, const char* pattern, std::size_t size,
                                  gpt2_constraint** constraint) {
    return make_constraint(model, "pattern", pattern, size, gpt2::Constraint::regex, constraint);
}

gpt2_status gpt2_constraint_grammar(const gpt2_model* model, const char* grammar, std::size_t size,
                                    gpt2_constraint** constraint) {
    return make_constraint(model, "grammar", grammar, size, gpt2::Constraint::grammar, constraint);
}

gpt2_status gpt2_constraint_matches(const gpt2_constraint* constraint, const char* text, std::size_t size,
                                    std::int32_t* matches) {
    return ask_about(constraint, text, size, &gpt2::Constraint::matches, "matches", matches);
}

gpt2_status gpt2_constraint_may_begin_with(const gpt2_constraint* constraint, const char* text,
                                           std::size_t size, std::int32_t* may_begin) {
    return ask_about(constraint, text, size, &gpt2::Constraint::may_begin_with, "may_begin", may_begin);
}

void gpt2_constraint_free(gpt2_constraint* constraint) {
    delete constraint;
}

void gpt2_generation_config_init_sized(gpt2_generation_config* config, std::size_t size) {
    initialize(config, size, default_generation_config());
}

const char* gpt2_finish_reason_name(int reason) {
    switch (reason) {
    case GPT2_FINISH_LENGTH:
        return "length";
    case GPT2_FINISH_EOS:
        return "eos";
    case GPT2_FINISH_STOP_STRING:
        return "stop_string";
    case GPT2_FINISH_CALLBACK:
        return "callback";
    case GPT2_FINISH_MAX_TIME:
        return "max_time";
    case GPT2_FINISH_CANCELLED:
        return "cancelled";
    default:
        return "unknown";
    }
}

gpt2_status gpt2_generate(const gpt2_model* model, const char* prompt, std::size_t size,
                          const gpt2_generation_config* config, gpt2_callback callback, void* user_data,
                          gpt2_result** result) {
    return guarded([&] {
        const std::string_view text = text_of(prompt, size, "prompt");
        hand_out(required(model, "model")
                     .model.generate(text, generation_config(config), stream_callback(callback, user_data)),
                 result);
    });
}

void gpt2_result_free(gpt2_result* result) {
    delete result;
}

gpt2_bytes gpt2_result_text(const gpt2_result* result) {
    return bytes_of(look_at(result, [](const auto& r) { return std::string_view(r.text); }));
}

gpt2_bytes gpt2_result_bytes(const gpt2_result* result) {
    return bytes_of(look_at(result, [](const auto& r) { return std::string_view(r.bytes); }));
}

const std::int32_t* gpt2_result_tokens(const gpt2_result* result, std::size_t* n) {
    const auto tokens = look_at(result, [](const auto& r) { return std::span<const TokenId>(r.tokens); });
    if (n != nullptr) {
        *n = tokens.size();
    }
    return tokens.data();
}

const float* gpt2_result_logprobs(const gpt2_result* result, std::size_t* n) {
    return array_in(look_at(result, [](const auto& r) { return std::span<const float>(r.logprobs); }), n);
}

const gpt2_token_logprob* gpt2_result_top_logprobs(const gpt2_result* result, std::size_t index,
                                                   std::size_t* n) {
    return place_in(result, &gpt2_result::top_logprobs, index, n);
}

const float* gpt2_result_prompt_logprobs(const gpt2_result* result, std::size_t* n) {
    return array_in(look_at(result, [](const auto& r) { return std::span<const float>(r.prompt_logprobs); }),
                    n);
}

const gpt2_token_logprob* gpt2_result_prompt_top_logprobs(const gpt2_result* result, std::size_t index,
                                                          std::size_t* n) {
    return place_in(result, &gpt2_result::prompt_top_logprobs, index, n);
}

gpt2_finish_reason gpt2_result_finish_reason(const gpt2_result* result) {
    switch (look_at(result, [](const auto& r) { return r.finish_reason; })) {
    case gpt2::FinishReason::eos:
        return GPT2_FINISH_EOS;
    case gpt2::FinishReason::stop_string:
        return GPT2_FINISH_STOP_STRING;
    case gpt2::FinishReason::callback:
        return GPT2_FINISH_CALLBACK;
    case gpt2::FinishReason::max_time:
        return GPT2_FINISH_MAX_TIME;
    case gpt2::FinishReason::cancelled:
        return GPT2_FINISH_CANCELLED;
    case gpt2::FinishReason::length:
        break;
    }
    return GPT2_FINISH_LENGTH;
}

gpt2_bytes gpt2_result_stop_string(const gpt2_result* result) {
    return bytes_of(look_at(result, [](const auto& r) { return std::string_view(r.stop_string); }));
}

gpt2_optional_uint gpt2_result_seed(const gpt2_result* result) {
    const auto seed = look_at(result, [](const auto& r) { return r.seed; });
    return seed ? gpt2_uint(*seed) : gpt2_optional_uint{};
}

std::size_t gpt2_result_prompt_tokens(const gpt2_result* result) {
    return look_at(result, [](const auto& r) { return r.prompt_tokens; });
}

double gpt2_result_ttft(const gpt2_result* result) {
    return look_at(result, [](const auto& r) { return r.ttft.count(); });
}

double gpt2_result_tpot(const gpt2_result* result) {
    return look_at(result, [](const auto& r) { return r.tpot.count(); });
}

double gpt2_result_total(const gpt2_result* result) {
    return look_at(result, [](const auto& r) { return r.total.count(); });
}

gpt2_speculation gpt2_result_speculation(const gpt2_result* result) {
    const auto found = look_at(result, [](const auto& r) { return r.speculation; });
    return {found.proposed, found.accepted, found.passes};
}

gpt2_optional_double gpt2_result_score(const gpt2_result* result) {
    return optional_double(look_at(result, [](const auto& r) { return r.score; }));
}

// ---- Sessions

void gpt2_session_options_init_sized(gpt2_session_options* options, std::size_t size) {
    initialize(options, size, default_session_options);
}

gpt2_status gpt2_session_create(const gpt2_model* model, const gpt2_session_options* options,
                                gpt2_session** session) {
    return guarded([&] {
        required(session, "session");
        hand_out(gpt2::Session(required(model, "model").model, session_options(options)), session);
    });
}

gpt2_status gpt2_session_fork(const gpt2_session* session, gpt2_session** fork) {
    return with_session(session, [&] {
        required(fork, "fork");
        hand_out(session->session.fork(), fork);
    });
}

gpt2_status gpt2_session_save(const gpt2_session* session, const char* path) {
    return with_session(session, [&] { session->session.save(path_of(path)); });
}

gpt2_status gpt2_session_restore(const gpt2_model* model, const char* path,
                                 const gpt2_session_options* options, gpt2_session** session) {
    return guarded([&] {
        required(session, "session");
        hand_out(
            gpt2::Session::restore(required(model, "model").model, path_of(path), session_options(options)),
            session);
    });
}

gpt2_status gpt2_session_restore_memory(const gpt2_model* model, const void* file, std::size_t size,
                                        const gpt2_session_options* options, gpt2_session** session) {
    return guarded([&] {
        required(session, "session");
        const auto bytes = array(static_cast<const std::byte*>(file), size, "file");
        hand_out(gpt2::Session::restore(required(model, "model").model, bytes, session_options(options)),
                 session);
    });
}

void gpt2_session_free(gpt2_session* session) {
    delete session;
}

gpt2_status gpt2_session_forward(gpt2_session* session, const std::int32_t* tokens, std::size_t n_tokens,
                                 const float** logits) {
    return with_session(session, [&] {
        const auto found = session->session.forward(array(tokens, n_tokens, "tokens"));
        if (logits != nullptr) {
            *logits = found.data();
        }
    });
}

gpt2_status gpt2_session_logits(const gpt2_session* session, const float** logits, std::size_t* n_rows) {
    return with_session(session, [&] {
        required(logits, "logits");
        required(n_rows, "n_rows");
        const auto found = session->session.logits();
        *logits = found.data();
        *n_rows = found.dim(0);
    });
}

gpt2_status gpt2_session_score(gpt2_session* session, const std::int32_t* tokens, std::size_t n_tokens,
                               float* logprobs) {
    return with_session(session, [&] {
        array(logprobs, n_tokens, "logprobs");
        const std::vector<float> scores = session->session.score(array(tokens, n_tokens, "tokens"));
        std::ranges::copy(scores, logprobs);
    });
}

gpt2_status gpt2_session_position(const gpt2_session* session, std::size_t* position) {
    return with_session(session, [&] { required(position, "position") = session->session.position(); });
}

gpt2_status gpt2_session_tokens(const gpt2_session* session, const std::int32_t** tokens,
                                std::size_t* n_tokens) {
    return with_session(session, [&] {
        required(tokens, "tokens");
        const std::span<const TokenId> found = session->session.tokens();
        *tokens = found.data();
        if (n_tokens != nullptr) {
            *n_tokens = found.size();
        }
    });
}

gpt2_status gpt2_session_truncate(gpt2_session* session, std::size_t length) {
    return with_session(session, [&] { session->session.truncate(length); });
}

std::int32_t gpt2_session_kv_dtype(const gpt2_session* session) {
    if (session == nullptr) {
        return GPT2_KV_DEFAULT;
    }
    return session->session.kv_dtype() == gpt2::KvDtype::float16 ? GPT2_KV_FLOAT16 : GPT2_KV_FLOAT32;
}

gpt2_status gpt2_session_generate(gpt2_session* session, const std::int32_t* prompt, std::size_t n_tokens,
                                  const gpt2_generation_config* config, gpt2_callback callback,
                                  void* user_data, gpt2_result** result) {
    return with_session(session, [&] {
        hand_out(session->session.generate(array(prompt, n_tokens, "prompt"), generation_config(config),
                                           stream_callback(callback, user_data)),
                 result);
    });
}

gpt2_status gpt2_forward(const gpt2_batch_item* items, std::size_t n_items) {
    return guarded([&] { forward_batch(array(items, n_items, "items")); });
}

// ---- Several texts at once

std::size_t gpt2_results_size(const gpt2_results* results) {
    return results != nullptr ? results->all.size() : 0;
}

const gpt2_result* gpt2_results_at(const gpt2_results* results, std::size_t index) {
    return index < gpt2_results_size(results) ? &results->all[index] : nullptr;
}

void gpt2_results_free(gpt2_results* results) {
    delete results;
}

gpt2_status gpt2_generate_batch(const gpt2_model* model, const gpt2_bytes* prompts, std::size_t n_prompts,
                                const gpt2_generation_config* config, gpt2_batch_callback callback,
                                void* user_data, const gpt2_session_options* options,
                                gpt2_results** results) {
    const auto texts = [&] { return texts_of("prompts", prompts, n_prompts); };
    return generate_batch(model, texts, config, callback, user_data, options, results);
}

gpt2_status gpt2_generate_batch_tokens(const gpt2_model* model, const gpt2_tokens* prompts,
                                       std::size_t n_prompts, const gpt2_generation_config* config,
                                       gpt2_batch_callback callback, void* user_data,
                                       const gpt2_session_options* options, gpt2_results** results) {
    const auto sequences = [&] { return sequences_of("prompts", prompts, n_prompts); };
    return generate_batch(model, sequences, config, callback, user_data, options, results);
}

// ---- Seeing inside

gpt2_status gpt2_embed(const gpt2_model* model, const char* text, std::size_t size, std::int32_t pooling,
                       const gpt2_session_options* options, float* embedding) {
    return embed(
        model, [&] { return text_of(text, size, "text"); }, pooling, options, embedding);
}

gpt2_status gpt2_embed_tokens(const gpt2_model* model, const std::int32_t* tokens, std::size_t n_tokens,
                              std::int32_t pooling, const gpt2_session_options* options, float* embedding) {
    return embed(
        model, [&] { return array(tokens, n_tokens, "tokens"); }, pooling, options, embedding);
}
