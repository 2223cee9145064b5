// SPDX-License-Identifier: MIT

// libgpt2: c/gpt2.h over the headers. Each function checks what C cannot, calls the engine, and turns what
// that throws into a status.

#include "exclusive_use.hpp"
#include "gpt2.h"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

using gpt2::OptionError;
using gpt2::TokenId;
using gpt2::bindings::BusyError;
using gpt2::bindings::ExclusiveUse;
using gpt2::detail::concat;

static_assert(std::is_same_v<TokenId, std::int32_t>);

struct gpt2_pool {
    std::shared_ptr<gpt2::ThreadPool> pool;
};

struct gpt2_model {
    gpt2::Gpt2Model model;
};

struct gpt2_session {
    gpt2::Session session;
    mutable std::atomic<bool> busy{false};
};

struct gpt2_result {
    gpt2::GenerationResult result;
};

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

// ---- Arguments

template <class T> T& required(T* pointer, std::string_view name) {
    if (pointer == nullptr) {
        throw OptionError(concat(name, ": expected a pointer, found null"));
    }
    return *pointer;
}

template <class T> std::span<const T> array(const T* data, std::size_t size, std::string_view name) {
    if (size > 0) {
        required(data, name);
    }
    return {data, size};
}

std::string_view text_of(const char* data, std::size_t size, std::string_view name) {
    const std::span<const char> bytes = array(data, size, name);
    return {bytes.data(), bytes.size()};
}

/// @p value as one of the numbers from 0 to @p last.
std::int32_t choice(std::string_view name, std::int32_t value, std::int32_t last) {
    if (value < 0 || value > last) {
        throw OptionError(concat(name, " is ", value, ", expected a number from 0 to ", last));
    }
    return value;
}

bool flag(std::string_view name, std::int32_t value) {
    return choice(name, value, 1) == 1;
}

void require_reserved(std::int32_t value) {
    choice("reserved", value, 0);
}

template <class Optional> auto optional(std::string_view name, const Optional& given) {
    using Value = decltype(given.value);
    if (flag(concat(name, ".is_set"), given.is_set)) {
        return std::optional<Value>(given.value);
    }
    if (given.value != Value{}) {
        throw OptionError(
            concat(name, ".value is ", given.value,
                   " but has no effect while is_set is 0; use gpt2_float(), gpt2_int() or gpt2_uint()"));
    }
    return std::optional<Value>();
}

std::optional<TokenId> optional_token(std::string_view name, const gpt2_optional_int& given) {
    const auto value = optional(name, given);
    using Limits = std::numeric_limits<TokenId>;
    if (value && (*value < Limits::min() || *value > Limits::max())) {
        throw OptionError(concat(name, " is ", *value, ", expected the id of a token"));
    }
    return value ? std::optional(static_cast<TokenId>(*value)) : std::nullopt;
}

// ---- Structures that grow

/// More than any structure here will ever have; a size that was never set is hardly below.
constexpr std::uint64_t largest_structure = 4096;

/// Writes @p size bytes: @p defaults, and 0 for members that only the caller knows.
template <class Structure>
void initialize(Structure* structure, std::size_t size, Structure defaults) noexcept {
    if (structure == nullptr || size < sizeof(std::uint64_t)) {
        return;
    }
    defaults.size = size;
    std::memset(static_cast<void*>(structure), 0, size);
    std::memcpy(static_cast<void*>(structure), &defaults, std::min(size, sizeof defaults));
}

/// What the caller set, whichever version of the structure he was compiled with. Members that he does not
/// know have their defaults, and those that are not known here must be 0, which is to say: they do nothing.
template <class Structure>
Structure known(std::string_view name, const Structure* given, Structure defaults) {
    if (given == nullptr) {
        return defaults;
    }
    const std::uint64_t size = given->size;
    if (size < 2 * sizeof(std::uint64_t) || size > largest_structure || size % sizeof(std::uint64_t) != 0) {
        throw OptionError(
            concat(name, ".size is ", size, ", expected what ", name, "_init() sets, ", sizeof(Structure)));
    }
    const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
    for (std::size_t i = sizeof(Structure); i < size; ++i) {
        if (bytes[i] != 0) {
            throw OptionError(concat(name, ": the byte at ", i, " is ", bytes[i], ", expected 0, as libgpt2 ",
                                     gpt2::version_string, " knows ", sizeof(Structure),
                                     " bytes: the program sets an option of a newer version"));
        }
    }
    std::memcpy(&defaults, bytes, std::min<std::size_t>(size, sizeof(Structure)));
    return defaults;
}

constexpr gpt2_load_options default_load_options{};
constexpr gpt2_session_options default_session_options{};

gpt2_generation_config default_generation_config() {
    gpt2_generation_config config{};
    config.max_new_tokens = gpt2::GenerationConfig{}.max_new_tokens;
    return config;
}

// ---- From C

std::optional<gpt2::WeightType> weight_type(std::string_view name, std::int32_t value) {
    switch (choice(name, value, GPT2_WEIGHTS_INT4)) {
    case GPT2_WEIGHTS_FLOAT32:
        return gpt2::WeightType::float32;
    case GPT2_WEIGHTS_FLOAT16:
        return gpt2::WeightType::float16;
    case GPT2_WEIGHTS_BFLOAT16:
        return gpt2::WeightType::bfloat16;
    case GPT2_WEIGHTS_INT8:
        return gpt2::WeightType::int8;
    case GPT2_WEIGHTS_INT4:
        return gpt2::WeightType::int4;
    default:
        return std::nullopt;
    }
}

std::optional<gpt2::Isa> isa_of(std::int32_t value) {
    switch (choice("isa", value, GPT2_ISA_AVX512_VNNI)) {
    case GPT2_ISA_PORTABLE:
        return gpt2::Isa::portable;
    case GPT2_ISA_AVX2:
        return gpt2::Isa::avx2;
    case GPT2_ISA_AVX2_VNNI:
        return gpt2::Isa::avx2_vnni;
    case GPT2_ISA_AVX512:
        return gpt2::Isa::avx512;
    case GPT2_ISA_AVX512_VNNI:
        return gpt2::Isa::avx512_vnni;
    default:
        return std::nullopt;
    }
}

std::shared_ptr<gpt2::ThreadPool> pool_of(const gpt2_pool* pool) {
    return pool != nullptr ? pool->pool : nullptr;
}

gpt2::LoadOptions load_options(const gpt2_load_options* given) {
    const gpt2_load_options c = known("gpt2_load_options", given, default_load_options);
    gpt2::LoadOptions options;
    options.weights = weight_type("weights", c.weights);
    options.head = weight_type("head", c.head);
    options.isa = isa_of(c.isa);
    options.residency =
        choice("residency", c.residency, GPT2_RESIDENCY_HUGE_PAGES) == GPT2_RESIDENCY_HUGE_PAGES
            ? gpt2::Residency::huge_pages
            : gpt2::Residency::mapped;
    options.verify = flag("verify", c.verify);
    options.screen_head = flag("screen_head", c.screen_head);
    options.pool = pool_of(c.pool);
    return options;
}

gpt2::SessionOptions session_options(const gpt2_session_options* given) {
    const gpt2_session_options c = known("gpt2_session_options", given, default_session_options);
    require_reserved(c.reserved);
    gpt2::SessionOptions options;
    options.pool = pool_of(c.pool);
    if (choice("kv_dtype", c.kv_dtype, GPT2_KV_FLOAT16) != GPT2_KV_DEFAULT) {
        options.kv_dtype = c.kv_dtype == GPT2_KV_FLOAT16 ? gpt2::KvDtype::float16 : gpt2::KvDtype::float32;
    }
    return options;
}

/// Here, and in the header, is where a new option goes.
gpt2::GenerationConfig generation_config(const gpt2_generation_config* given) {
    const gpt2_generation_config c = known("gpt2_generation_config", given, default_generation_config());
    gpt2::GenerationConfig config;
    config.max_new_tokens = c.max_new_tokens;
    config.do_sample = flag("do_sample", c.do_sample);
    config.temperature = optional("temperature", c.temperature);
    config.top_k = optional("top_k", c.top_k);
    config.top_p = optional("top_p", c.top_p);
    config.min_p = optional("min_p", c.min_p);
    config.repetition_penalty = optional("repetition_penalty", c.repetition_penalty);
    config.seed = optional("seed", c.seed);
    config.sample = c.sample;
    for (const gpt2_bytes& text : array(c.stop_strings, c.n_stop_strings, "stop_strings")) {
        config.stop_strings.emplace_back(text_of(text.data, text.size, "stop_strings"));
    }
    config.logprobs = flag("logprobs", c.logprobs);
    config.eos_token_id = optional_token("eos_token_id", c.eos_token_id);
    config.ignore_eos = flag("ignore_eos", c.ignore_eos);
    config.overflow = choice("overflow", c.overflow, GPT2_OVERFLOW_SLIDE) == GPT2_OVERFLOW_SLIDE
                          ? gpt2::Overflow::slide
                          : gpt2::Overflow::error;
    return config;
}

std::filesystem::path path_of(const char* path) {
#if defined(_WIN32)
    return std::filesystem::path(reinterpret_cast<const char8_t*>(&required(path, "path")));
#else
    return std::filesystem::path(&required(path, "path"));
#endif
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
        *result = new gpt2_result{std::move(from)};
    }
}

gpt2::StreamCallback stream_callback(gpt2_callback callback, void* user_data) {
    if (callback == nullptr) {
        return {};
    }
    return [callback, user_data](const gpt2::GeneratedToken& token) {
        gpt2_token c{};
        c.size = sizeof c;
        c.id = token.id;
        c.logprob = token.logprob.value_or(std::numeric_limits<float>::quiet_NaN());
        c.text = bytes_of(token.text);
        c.bytes = bytes_of(token.bytes);
        c.index = token.index;
        switch (const std::int32_t answer = callback(&c, user_data)) {
        case GPT2_PROCEED:
            return gpt2::Flow::proceed;
        case GPT2_STOP:
            return gpt2::Flow::stop;
        default:
            throw OptionError(concat("callback: expected GPT2_PROCEED (", static_cast<int>(GPT2_PROCEED),
                                     ") or GPT2_STOP (", static_cast<int>(GPT2_STOP), "), found ", answer));
        }
    };
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

/// What @p look finds in a result; nothing in particular for null.
template <class Look> auto look_at(const gpt2_result* result, Look&& look) noexcept {
    using Found = decltype(look(result->result));
    return result != nullptr ? look(result->result) : Found{};
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
    const auto logprobs = look_at(result, [](const auto& r) { return std::span<const float>(r.logprobs); });
    if (n != nullptr) {
        *n = logprobs.size();
    }
    return logprobs.empty() ? nullptr : logprobs.data();
}

gpt2_finish_reason gpt2_result_finish_reason(const gpt2_result* result) {
    switch (look_at(result, [](const auto& r) { return r.finish_reason; })) {
    case gpt2::FinishReason::eos:
        return GPT2_FINISH_EOS;
    case gpt2::FinishReason::stop_string:
        return GPT2_FINISH_STOP_STRING;
    case gpt2::FinishReason::callback:
        return GPT2_FINISH_CALLBACK;
    case gpt2::FinishReason::max_time: // which nothing in this interface asks for
    case gpt2::FinishReason::cancelled:
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

// ---- Sessions

void gpt2_session_options_init_sized(gpt2_session_options* options, std::size_t size) {
    initialize(options, size, default_session_options);
}

gpt2_status gpt2_session_create(const gpt2_model* model, const gpt2_session_options* options,
                                gpt2_session** session) {
    return guarded([&] {
        required(session, "session");
        *session = new gpt2_session{gpt2::Session(required(model, "model").model, session_options(options))};
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
