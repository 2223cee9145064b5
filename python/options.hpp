// SPDX-License-Identifier: MIT
#pragma once

#include "arguments.hpp"
#include "model.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// From Python: the options of generation, by the type of their member.

namespace gpt2::python {

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

template <> struct FromPython<sampling::EarlyStopping> {
    static sampling::EarlyStopping convert(std::string_view name, py::handle value) {
        if (PyBool_Check(value.ptr())) {
            return value.ptr() == Py_True ? sampling::EarlyStopping::on : sampling::EarlyStopping::off;
        }
        if (is_text(value) && bytes_from(name, value) == "never") {
            return sampling::EarlyStopping::never;
        }
        wrong_type(name, "True, False or \"never\"", value);
    }
};
template <> struct FromPython<std::stop_token> {
    static std::stop_token convert(std::string_view name, py::handle value) {
        if (value.is_none()) {
            return {};
        }
        if (!py::isinstance<Cancellation>(value)) {
            wrong_type(name, "a gpt2.Cancellation", value);
        }
        return value.cast<Cancellation&>().source.get_token();
    }
};
template <> struct FromPython<std::shared_ptr<const gpt2::Constraint>> {
    static std::shared_ptr<const gpt2::Constraint> convert(std::string_view name, py::handle value) {
        if (value.is_none()) {
            return nullptr;
        }
        if (!py::isinstance<Constraint>(value)) {
            wrong_type(name, "a gpt2.Constraint", value);
        }
        return value.cast<Constraint&>().constraint;
    }
};
/// A Model, which is kept as long as the engine needs it. Its end needs the interpreter's lock, as that of a
/// function does.
template <> struct FromPython<std::shared_ptr<const Drafter>> {
    struct Assistant {
        std::shared_ptr<Model> model;
        DraftModel drafter;
    };
    static std::shared_ptr<const Drafter> convert(std::string_view name, py::handle value) {
        if (value.is_none()) {
            return nullptr;
        }
        if (!py::isinstance<Model>(value)) {
            wrong_type(name, "a gpt2.Model", value);
        }
        const auto model = value.cast<std::shared_ptr<Model>>();
        const std::shared_ptr<Assistant> held(
            new Assistant{model, DraftModel(model->model, {.pool = model->pool})}, [](Assistant* assistant) {
                const py::gil_scoped_acquire acquired;
                delete assistant;
            });
        return {held, &held->drafter};
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

/// The members of GenerationConfig, in its order. A new one needs a line here, one in _Options in
/// gpt2/__init__.pyi, and a FromPython if its type has none yet; a test compares the three.
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
    {"cancellation", set<&GenerationConfig::cancellation>},
    {"num_return_sequences", set<&GenerationConfig::num_return_sequences>},
    {"num_beams", set<&GenerationConfig::num_beams>},
    {"length_penalty", set<&GenerationConfig::length_penalty>},
    {"early_stopping", set<&GenerationConfig::early_stopping>},
    {"num_beam_groups", set<&GenerationConfig::num_beam_groups>},
    {"diversity_penalty", set<&GenerationConfig::diversity_penalty>},
    {"prompt_lookup_num_tokens", set<&GenerationConfig::prompt_lookup_num_tokens>},
    {"max_matching_ngram_size", set<&GenerationConfig::max_matching_ngram_size>},
    {"assistant_model", set<&GenerationConfig::assistant_model>},
    {"num_assistant_tokens", set<&GenerationConfig::num_assistant_tokens>},
    {"top_logprobs", set<&GenerationConfig::top_logprobs>},
    {"prompt_logprobs", set<&GenerationConfig::prompt_logprobs>},
    {"penalty_alpha", set<&GenerationConfig::penalty_alpha>},
    {"constraint", set<&GenerationConfig::constraint>},
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
