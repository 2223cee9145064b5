// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2.h"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// libgpt2: what its handles hold, and how values come from C. Everything that C cannot check is checked
/// here.

static_assert(std::is_same_v<gpt2::TokenId, std::int32_t>);

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

namespace gpt2::bindings {

/// Those of a place, as C has them.
inline std::vector<gpt2_token_logprob> to_c(std::span<const gpt2::TokenLogprob> place) {
    std::vector<gpt2_token_logprob> result;
    for (const gpt2::TokenLogprob& token : place) {
        result.push_back({token.id, token.logprob});
    }
    return result;
}

} // namespace gpt2::bindings

struct gpt2_result {
    using Places = std::vector<std::vector<gpt2_token_logprob>>;

    explicit gpt2_result(gpt2::GenerationResult from)
        : result(std::move(from)), top_logprobs(places(result.top_logprobs)),
          prompt_top_logprobs(places(result.prompt_top_logprobs)) {}

    gpt2::GenerationResult result;
    Places top_logprobs;
    Places prompt_top_logprobs;

private:
    static Places places(const std::vector<std::vector<gpt2::TokenLogprob>>& from) {
        Places result;
        for (const auto& place : from) {
            result.push_back(gpt2::bindings::to_c(place));
        }
        return result;
    }
};

struct gpt2_results {
    std::vector<gpt2_result> all;
};

struct gpt2_cancellation {
    std::stop_source source;
};

struct gpt2_constraint {
    std::shared_ptr<const gpt2::Constraint> constraint;
};

namespace gpt2::bindings {

using detail::concat;

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

inline std::string_view text_of(const char* data, std::size_t size, std::string_view name) {
    const std::span<const char> bytes = array(data, size, name);
    return {bytes.data(), bytes.size()};
}

/// @p value as one of the numbers from 0 to @p last.
inline std::int32_t choice(std::string_view name, std::int32_t value, std::int32_t last) {
    if (value < 0 || value > last) {
        throw OptionError(concat(name, " is ", value, ", expected a number from 0 to ", last));
    }
    return value;
}

inline bool flag(std::string_view name, std::int32_t value) {
    return choice(name, value, 1) == 1;
}

inline void require_reserved(std::int32_t value) {
    choice("reserved", value, 0);
}

template <class Optional> auto optional(std::string_view name, const Optional& given) {
    using Value = decltype(given.value);
    if (flag(concat(name, ".is_set"), given.is_set)) {
        return std::optional<Value>(given.value);
    }
    if (given.value != Value{}) {
        throw OptionError(concat(name, ".value is ", given.value,
                                 " but has no effect while is_set is 0; use gpt2_float() and its like"));
    }
    return std::optional<Value>();
}

inline std::optional<TokenId> optional_token(std::string_view name, const gpt2_optional_int& given) {
    const auto value = optional(name, given);
    using Limits = std::numeric_limits<TokenId>;
    if (value && (*value < Limits::min() || *value > Limits::max())) {
        throw OptionError(concat(name, " is ", *value, ", expected the id of a token"));
    }
    return value ? std::optional(static_cast<TokenId>(*value)) : std::nullopt;
}

// ---- Structures that grow

/// More than any structure here will ever have; a size that was never set is hardly below.
inline constexpr std::uint64_t largest_structure = 4096;

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
                                     version_string, " knows ", sizeof(Structure),
                                     " bytes: the program sets an option of a newer version"));
        }
    }
    std::memcpy(&defaults, bytes, std::min<std::size_t>(size, sizeof(Structure)));
    return defaults;
}

} // namespace gpt2::bindings
