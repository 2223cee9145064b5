// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// From Python: options, tokens and texts. A wrong type is a TypeError, a number that its type cannot hold an
/// OptionError; what the numbers mean is for the engine to check.

namespace gpt2::python {

namespace py = pybind11;
using detail::concat;

inline std::string type_name(py::handle value) {
    return Py_TYPE(value.ptr())->tp_name;
}

[[noreturn]] inline void wrong_type(std::string_view name, std::string_view expected, py::handle found) {
    throw py::type_error(concat(name, ": expected ", expected, ", found ", type_name(found)));
}

/// A whole number of type @p Integer; numpy's are as good as Python's, True and 1.0 are none.
template <class Integer> Integer integer_from(std::string_view name, py::handle value) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
        wrong_type(name, "a whole number", value);
    }
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!number) {
        throw py::error_already_set();
    }
    using Limits = std::numeric_limits<Integer>;
    const auto refuse = [&] {
        throw OptionError(concat(name, " is ", std::string(py::str(number)), ", expected a number from ",
                                 Limits::min(), " to ", Limits::max()));
    };
    if constexpr (std::is_signed_v<Integer>) {
        int overflow = 0;
        const long long found = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
        if (overflow != 0 || found < Limits::min() || found > Limits::max()) {
            refuse();
        }
        return static_cast<Integer>(found);
    } else {
        const unsigned long long found = PyLong_AsUnsignedLongLong(number.ptr());
        if (PyErr_Occurred() != nullptr || found > Limits::max()) {
            PyErr_Clear();
            refuse();
        }
        return static_cast<Integer>(found);
    }
}

inline double double_from(std::string_view name, py::handle value) {
    if (PyBool_Check(value.ptr()) || (!PyFloat_Check(value.ptr()) && PyNumber_Check(value.ptr()) == 0)) {
        wrong_type(name, "a number", value);
    }
    const double number = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred() != nullptr) {
        throw py::error_already_set();
    }
    return number;
}

inline float float_from(std::string_view name, py::handle value) {
    return static_cast<float>(double_from(name, value));
}

inline bool bool_from(std::string_view name, py::handle value) {
    if (!PyBool_Check(value.ptr())) {
        wrong_type(name, "True or False", value);
    }
    return value.ptr() == Py_True;
}

/// The bytes of a str (its UTF-8) or bytes. Good as long as @p value.
inline std::string_view bytes_from(std::string_view name, py::handle value) {
    if (PyUnicode_Check(value.ptr())) {
        Py_ssize_t size = 0;
        const char* const text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
        if (text == nullptr) {
            throw py::error_already_set();
        }
        return {text, static_cast<std::size_t>(size)};
    }
    if (PyBytes_Check(value.ptr())) {
        return {PyBytes_AS_STRING(value.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(value.ptr()))};
    }
    wrong_type(name, "str or bytes", value);
}

inline bool is_text(py::handle value) {
    return PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr());
}

/// The elements of anything that can be iterated, text excepted.
template <class T, class Convert>
std::vector<T> list_from(std::string_view name, std::string_view expected, py::handle value,
                         Convert&& convert) {
    if (is_text(value)) {
        wrong_type(name, expected, value);
    }
    const auto iterator = py::reinterpret_steal<py::object>(PyObject_GetIter(value.ptr()));
    if (!iterator) {
        PyErr_Clear();
        wrong_type(name, expected, value);
    }
    std::vector<T> result;
    while (const auto item = py::reinterpret_steal<py::object>(PyIter_Next(iterator.ptr()))) {
        result.push_back(convert(item));
    }
    if (PyErr_Occurred() != nullptr) {
        throw py::error_already_set();
    }
    return result;
}

inline std::vector<TokenId> tokens_from(py::handle value) {
    return list_from<TokenId>("tokens", "a list or array of whole numbers (encode() makes it)", value,
                              [](py::handle item) { return integer_from<TokenId>("token", item); });
}

/// @p Value by a table of its names.
template <class Value, std::size_t n>
Value choice_from(std::string_view name, py::handle value,
                  const std::pair<std::string_view, Value> (&known)[n]) {
    if (!PyUnicode_Check(value.ptr())) {
        wrong_type(name, "a name (str)", value);
    }
    const std::string_view text = bytes_from(name, value);
    std::string names;
    for (const auto& [known_name, known_value] : known) {
        if (text == known_name) {
            return known_value;
        }
        names += concat(names.empty() ? "" : ", ", known_name);
    }
    throw OptionError(concat(name, " is ", detail::quoted(text), ", expected one of ", names));
}

inline std::optional<WeightType> weights_from(std::string_view name, py::handle value) {
    static constexpr std::pair<std::string_view, WeightType> known[] = {{"float32", WeightType::float32},
                                                                        {"float16", WeightType::float16},
                                                                        {"bfloat16", WeightType::bfloat16},
                                                                        {"int8", WeightType::int8},
                                                                        {"int4", WeightType::int4}};
    return value.is_none() ? std::nullopt : std::optional(choice_from(name, value, known));
}

inline std::optional<Isa> isa_from(py::handle value) {
    static constexpr std::pair<std::string_view, Isa> known[] = {
        {to_string(Isa::portable), Isa::portable},
        {to_string(Isa::avx2), Isa::avx2},
        {to_string(Isa::avx2_vnni), Isa::avx2_vnni},
        {to_string(Isa::avx512), Isa::avx512},
        {to_string(Isa::avx512_vnni), Isa::avx512_vnni}};
    return value.is_none() ? std::nullopt : std::optional(choice_from("isa", value, known));
}

inline std::optional<KvDtype> kv_dtype_from(py::handle value) {
    static constexpr std::pair<std::string_view, KvDtype> known[] = {{"float32", KvDtype::float32},
                                                                     {"float16", KvDtype::float16}};
    return value.is_none() ? std::nullopt : std::optional(choice_from("kv_dtype", value, known));
}

inline Logits logits_from(py::handle value) {
    static constexpr std::pair<std::string_view, Logits> known[] = {
        {"last", Logits::last}, {"all", Logits::all}, {"none", Logits::none}};
    return choice_from("logits", value, known);
}

// ---- The options of generation, by the type of their member

template <class T> struct FromPython;

template <> struct FromPython<bool> {
    static bool convert(std::string_view name, py::handle value) { return bool_from(name, value); }
};
template <> struct FromPython<double> {
    static double convert(std::string_view name, py::handle value) { return double_from(name, value); }
};
template <> struct FromPython<float> {
    static float convert(std::string_view name, py::handle value) { return float_from(name, value); }
};
template <class T>
requires std::is_integral_v<T>
struct FromPython<T> {
    static T convert(std::string_view name, py::handle value) { return integer_from<T>(name, value); }
};
template <class T> struct FromPython<std::optional<T>> {
    static std::optional<T> convert(std::string_view name, py::handle value) {
        return value.is_none() ? std::nullopt : std::optional<T>(FromPython<T>::convert(name, value));
    }
};
/// One text, or several.
template <> struct FromPython<std::vector<std::string>> {
    static std::vector<std::string> convert(std::string_view name, py::handle value) {
        if (is_text(value)) {
            return {std::string(bytes_from(name, value))};
        }
        return list_from<std::string>(name, "str, bytes or a list of them", value,
                                      [&](py::handle item) { return std::string(bytes_from(name, item)); });
    }
};
template <> struct FromPython<std::vector<TokenId>> {
    static std::vector<TokenId> convert(std::string_view name, py::handle value) {
        return list_from<TokenId>(name, "a list of tokens", value,
                                  [&](py::handle item) { return integer_from<TokenId>(name, item); });
    }
};
template <> struct FromPython<std::vector<std::vector<TokenId>>> {
    static std::vector<std::vector<TokenId>> convert(std::string_view name, py::handle value) {
        return list_from<std::vector<TokenId>>(
            name, "a list of lists of tokens", value,
            [&](py::handle item) { return FromPython<std::vector<TokenId>>::convert(name, item); });
    }
};
/// A dict: its keys and values by their types, of the map or of the members of a structure.
inline py::dict dict_from(std::string_view name, py::handle value) {
    if (!py::isinstance<py::dict>(value)) {
        wrong_type(name, "a dict", value);
    }
    return py::reinterpret_borrow<py::dict>(value);
}
template <class Key> struct FromPython<std::map<Key, float>> {
    static std::map<Key, float> convert(std::string_view name, py::handle value) {
        std::map<Key, float> result;
        for (const auto& [key, bias] : dict_from(name, value)) {
            result[FromPython<Key>::convert(name, key)] = float_from(name, bias);
        }
        return result;
    }
};
template <class Struct, class... Members>
Struct structure_from(std::string_view name, py::handle value,
                      std::pair<const char*, Members Struct::*>... members) {
    const py::dict given = dict_from(name, value);
    Struct result;
    std::size_t known = 0;
    const auto take = [&](const char* key, auto member) {
        if (given.contains(key)) {
            using Member = std::remove_cvref_t<decltype(result.*member)>;
            result.*member = FromPython<Member>::convert(concat(name, "[\"", key, "\"]"), given[key]);
            ++known;
        }
    };
    (take(members.first, members.second), ...);
    if (known != given.size()) {
        std::string names;
        ((names += concat(names.empty() ? "" : ", ", members.first)), ...);
        throw OptionError(concat(name, ": expected no keys but ", names, ", found ",
                                 std::string(py::str(py::list(given)))));
    }
    return result;
}
template <class Struct, class Member>
std::pair<const char*, Member Struct::*> member(const char* name, Member Struct::*pointer) {
    return {name, pointer};
}
template <> struct FromPython<sampling::ExponentialDecay> {
    static sampling::ExponentialDecay convert(std::string_view name, py::handle value) {
        using T = sampling::ExponentialDecay;
        return structure_from<T>(name, value, member("start", &T::start), member("factor", &T::factor));
    }
};
template <> struct FromPython<sampling::Dry> {
    static sampling::Dry convert(std::string_view name, py::handle value) {
        using T = sampling::Dry;
        return structure_from<T>(name, value, member("multiplier", &T::multiplier), member("base", &T::base),
                                 member("allowed_length", &T::allowed_length),
                                 member("penalty_last_n", &T::penalty_last_n),
                                 member("sequence_breakers", &T::sequence_breakers));
    }
};
template <> struct FromPython<sampling::Xtc> {
    static sampling::Xtc convert(std::string_view name, py::handle value) {
        using T = sampling::Xtc;
        return structure_from<T>(name, value, member("probability", &T::probability),
                                 member("threshold", &T::threshold));
    }
};
template <> struct FromPython<sampling::Mirostat> {
    static sampling::Mirostat convert(std::string_view name, py::handle value) {
        using T = sampling::Mirostat;
        return structure_from<T>(name, value, member("tau", &T::tau), member("eta", &T::eta));
    }
};
template <> struct FromPython<sampling::TopKTies> {
    static sampling::TopKTies convert(std::string_view name, py::handle value) {
        static constexpr std::pair<std::string_view, sampling::TopKTies> known[] = {
            {"keep", sampling::TopKTies::keep}, {"cut", sampling::TopKTies::cut}};
        return choice_from(name, value, known);
    }
};
template <> struct FromPython<sampling::TopPRule> {
    static sampling::TopPRule convert(std::string_view name, py::handle value) {
        static constexpr std::pair<std::string_view, sampling::TopPRule> known[] = {
            {"reach", sampling::TopPRule::reach}, {"within", sampling::TopPRule::within}};
        return choice_from(name, value, known);
    }
};
/// A function of Python. The engine copies and calls it in any thread, without the interpreter's lock; so the
/// object is held by a pointer whose end takes the lock.
template <> struct FromPython<sampling::LogitsProcessor> {
    static sampling::LogitsProcessor convert(std::string_view name, py::handle value) {
        if (PyCallable_Check(value.ptr()) == 0) {
            wrong_type(name, "a list of functions", value);
        }
        const std::shared_ptr<py::object> function(new py::object(py::reinterpret_borrow<py::object>(value)),
                                                   [](py::object* held) {
                                                       const py::gil_scoped_acquire acquired;
                                                       delete held;
                                                   });
        return [function](std::span<const TokenId> tokens, std::span<float> scores) {
            const py::gil_scoped_acquire acquired;
            const py::array_t<TokenId> seen(static_cast<py::ssize_t>(tokens.size()), tokens.data());
            py::array_t<float> changed(static_cast<py::ssize_t>(scores.size()), scores.data());
            (*function)(seen, changed);
            std::copy_n(changed.data(), scores.size(), scores.data());
        };
    }
};
template <> struct FromPython<std::vector<sampling::LogitsProcessor>> {
    static std::vector<sampling::LogitsProcessor> convert(std::string_view name, py::handle value) {
        return list_from<sampling::LogitsProcessor>(name, "a list of functions", value, [&](py::handle item) {
            return FromPython<sampling::LogitsProcessor>::convert(name, item);
        });
    }
};
template <> struct FromPython<Overflow> {
    static Overflow convert(std::string_view name, py::handle value) {
        static constexpr std::pair<std::string_view, Overflow> known[] = {
            {"error", Overflow::error},
            {"slide", Overflow::slide},
            {"truncate_left", Overflow::truncate_left}};
        return choice_from(name, value, known);
    }
};

template <auto member> void set(GenerationConfig& config, std::string_view name, py::handle value) {
    using Member = std::remove_cvref_t<decltype(config.*member)>;
    config.*member = FromPython<Member>::convert(name, value);
}

struct Option {
    std::string_view name;
    void (*set)(GenerationConfig&, std::string_view, py::handle);
};

/// The members of GenerationConfig, in its order, but for those of several texts at once, for which the
/// module has no function, and what is an object of C++: cancellation, assistant_model. A new one needs a
/// line here, one in each list of gpt2/__init__.pyi, and a FromPython if its type has none yet; a test
/// compares the three.
inline constexpr Option generation_options[] = {
    {"max_new_tokens", set<&GenerationConfig::max_new_tokens>},
    {"do_sample", set<&GenerationConfig::do_sample>},
    {"temperature", set<&GenerationConfig::temperature>},
    {"top_k", set<&GenerationConfig::top_k>},
    {"top_p", set<&GenerationConfig::top_p>},
    {"min_p", set<&GenerationConfig::min_p>},
    {"repetition_penalty", set<&GenerationConfig::repetition_penalty>},
    {"seed", set<&GenerationConfig::seed>},
    {"sample", set<&GenerationConfig::sample>},
    {"stop_strings", set<&GenerationConfig::stop_strings>},
    {"logprobs", set<&GenerationConfig::logprobs>},
    {"eos_token_id", set<&GenerationConfig::eos_token_id>},
    {"ignore_eos", set<&GenerationConfig::ignore_eos>},
    {"overflow", set<&GenerationConfig::overflow>},
    {"guidance_scale", set<&GenerationConfig::guidance_scale>},
    {"negative_prompt_ids", set<&GenerationConfig::negative_prompt_ids>},
    {"typical_p", set<&GenerationConfig::typical_p>},
    {"epsilon_cutoff", set<&GenerationConfig::epsilon_cutoff>},
    {"eta_cutoff", set<&GenerationConfig::eta_cutoff>},
    {"top_n_sigma", set<&GenerationConfig::top_n_sigma>},
    {"presence_penalty", set<&GenerationConfig::presence_penalty>},
    {"frequency_penalty", set<&GenerationConfig::frequency_penalty>},
    {"penalty_last_n", set<&GenerationConfig::penalty_last_n>},
    {"no_repeat_ngram_size", set<&GenerationConfig::no_repeat_ngram_size>},
    {"bad_words_ids", set<&GenerationConfig::bad_words_ids>},
    {"suppress_tokens", set<&GenerationConfig::suppress_tokens>},
    {"begin_suppress_tokens", set<&GenerationConfig::begin_suppress_tokens>},
    {"forced_bos_token_id", set<&GenerationConfig::forced_bos_token_id>},
    {"forced_eos_token_id", set<&GenerationConfig::forced_eos_token_id>},
    {"sequence_bias", set<&GenerationConfig::sequence_bias>},
    {"logit_bias", set<&GenerationConfig::logit_bias>},
    {"min_new_tokens", set<&GenerationConfig::min_new_tokens>},
    {"exponential_decay_length_penalty", set<&GenerationConfig::exponential_decay_length_penalty>},
    {"dry", set<&GenerationConfig::dry>},
    {"xtc", set<&GenerationConfig::xtc>},
    {"mirostat", set<&GenerationConfig::mirostat>},
    {"top_k_ties", set<&GenerationConfig::top_k_ties>},
    {"top_p_rule", set<&GenerationConfig::top_p_rule>},
    {"logits_processors", set<&GenerationConfig::logits_processors>},
    {"processor_order", set<&GenerationConfig::processor_order>},
    {"max_time", set<&GenerationConfig::max_time>},
    {"prompt_lookup_num_tokens", set<&GenerationConfig::prompt_lookup_num_tokens>},
    {"max_matching_ngram_size", set<&GenerationConfig::max_matching_ngram_size>},
};

inline GenerationConfig config_from(const py::kwargs& options) {
    GenerationConfig config;
    for (const auto& [key, value] : options) {
        const std::string_view name = bytes_from("option", key);
        const Option* const option = std::ranges::find(generation_options, name, &Option::name);
        if (option == std::end(generation_options)) {
            throw py::type_error(concat(detail::quoted(name), " is no option of generation"));
        }
        option->set(config, name, value);
    }
    return config;
}

} // namespace gpt2::python
