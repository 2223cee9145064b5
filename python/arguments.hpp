// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/gpt2.hpp>

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// From Python: numbers, names, tokens and texts. A wrong type is a TypeError, a number that its type cannot
/// hold an OptionError; what the numbers mean is for the engine to check.

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

inline Pooling pooling_from(py::handle value) {
    static constexpr std::pair<std::string_view, Pooling> known[] = {{"mean", Pooling::mean},
                                                                     {"last", Pooling::last}};
    return choice_from("pooling", value, known);
}

inline Logits logits_from(py::handle value) {
    static constexpr std::pair<std::string_view, Logits> known[] = {
        {"last", Logits::last}, {"all", Logits::all}, {"none", Logits::none}};
    return choice_from("logits", value, known);
}

} // namespace gpt2::python
