// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/checkpoint_tensor.hpp"
#include "gpt2/io/config_json.hpp"
#include "gpt2/io/converted_file.hpp"
#include "gpt2/io/converted_tokenizer.hpp"
#include "gpt2/io/crc32.hpp"
#include "gpt2/io/safetensors.hpp"
#include "gpt2/packed_matrix.hpp"
#include "gpt2/shared_tensor.hpp"
#include "gpt2/thread_pool.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// A converted model: one file, made by tools/convert_weights.py, whose weights are used where they lie.
/// The format is specified in docs/model-format.md.

namespace gpt2 {

namespace detail {

/// The type of a matrix by its tensor. Integer formats are bytes, and differ in the size of their units.
[[nodiscard]] inline WeightType matrix_type(const TensorInfo& tensor) noexcept {
    if (tensor.dtype != Dtype::U8) {
        return weight_type_of(tensor.dtype);
    }
    return !tensor.shape.empty() && tensor.shape.back() == kernels::int4_unit.bytes ? WeightType::int4
                                                                                    : WeightType::int8;
}

/// The shape of the tensor that holds a matrix.
[[nodiscard]] inline std::array<std::size_t, 3> panel_shape(WeightType type, std::size_t n_inputs,
                                                            std::size_t n_outputs) noexcept {
    return {kernels::panel_count(n_outputs), kernels::unit_count(type, n_inputs),
            kernels::is_integer(type) ? kernels::unit_of(type).bytes : kernels::panel_width};
}

/// @throws FormatError naming an integer matrix with a scale that is an infinity or a NaN
GPT2_COLD inline void require_finite_scales(const TensorInfo& tensor, std::string_view file) {
    const kernels::UnitShape unit = kernels::unit_of(matrix_type(tensor));
    for (std::size_t at = unit.scales_at; at < tensor.data.size(); at += unit.bytes) {
        for (std::size_t lane = 0; lane < kernels::panel_width; ++lane) {
            bfloat16 scale;
            std::memcpy(&scale, tensor.data.data() + at + lane * sizeof scale, sizeof scale);
            if ((scale.bits & 0x7f80u) == 0x7f80u) {
                throw FormatError(concat(quoted(file, 4096), ": tensor ",
                                         quoted(std::string_view(tensor.name)),
                                         ": expected finite scales, found ", static_cast<float>(scale)));
            }
        }
    }
}

} // namespace detail

/// Token ids, and the logits that a float64 computation gives after the last of them.
struct SelfTest {
    std::vector<TokenId> tokens;
    std::span<const float> logits; ///< [V], inside the file: valid as long as the ConvertedModel or a copy
    float bound = 0.0f;            ///< of the difference that float32 arithmetic may make
};

/// The file of a converted model. Names, types, shapes and places of all tensors have been checked once the
/// object exists; the weights have not been read. Immutable and thread-safe; copies share the mapping.
class ConvertedModel {
public:
    static constexpr std::size_t alignment = 64; ///< of every tensor, in bytes
    static constexpr std::size_t floats_aligned = alignment / sizeof(float);

    /// Maps a file.
    /// @throws FileError, FormatError  naming file, key or tensor, what was expected and what was found
    [[nodiscard]] static ConvertedModel open(const std::filesystem::path& path) {
        return ConvertedModel(detail::open_converted(path));
    }

    /// A file in memory. It is used in place, and must outlive the object and everything made from it, if it
    /// begins at a multiple of 64 bytes; otherwise it is copied once.
    /// @param name  stands for the file in messages
    /// @throws FormatError as open()
    [[nodiscard]] static ConvertedModel from_bytes(std::span<const std::byte> bytes, std::string_view name) {
        return ConvertedModel(is_aligned(bytes.data()) ? SafetensorsFile::from_bytes(bytes, name)
                                                       : SafetensorsFile::copy_of(bytes, name));
    }

    /// Copies a file into memory of its own, in huge pages where the system gives them.
    /// @throws as open()
    [[nodiscard]] static ConvertedModel copy_of(const std::filesystem::path& path) {
        const ConvertedModel mapped = open(path); // what is wrong is found before anything is copied
        return ConvertedModel(SafetensorsFile::copy_of(mapped.file_.bytes(), mapped.file_.name()));
    }

    [[nodiscard]] const SafetensorsFile& file() const noexcept { return file_; }
    [[nodiscard]] const Config& config() const noexcept { return config_.config; }
    [[nodiscard]] bool has_separate_head() const noexcept { return !config_.tie_word_embeddings; }

    // The weights, by the names of a checkpoint (see make_transformer()).

    [[nodiscard]] PackedMatrix matrix(const std::string& name) const {
        const TensorInfo& tensor = *file_.find(name);
        const MatrixShape& shape = matrices_.find(name)->second;
        return PackedMatrix::of_panels(detail::matrix_type(tensor), shape.n_inputs, shape.n_outputs,
                                       keep(tensor.data.data()));
    }

    [[nodiscard]] std::vector<std::string> matrix_names() const {
        std::vector<std::string> names;
        for (const auto& [name, shape] : matrices_) {
            names.push_back(name);
        }
        return names;
    }

    [[nodiscard]] SharedTensor<float, 1> vector(const std::string& name, std::size_t size) const {
        return {floats(name), {size}};
    }

    [[nodiscard]] SharedTensor<float, 2> positions() const {
        const TensorInfo& tensor = *file_.find("wpe.weight");
        return {floats("wpe.weight"), {tensor.shape[0], tensor.shape[1]}};
    }

    [[nodiscard]] SelfTest self_test() const;

    /// Reads the whole file.
    /// @throws FormatError when its checksum is not the one it has in its header, or naming a tensor with an
    ///         infinity or a NaN
    GPT2_HEAVY void check_data(ThreadPool& pool) const;

private:
    explicit ConvertedModel(SafetensorsFile file) : file_(std::move(file)) { check(); }

    GPT2_HEAVY void check();

    [[nodiscard]] static bool is_aligned(const std::byte* address) noexcept {
        return reinterpret_cast<std::uintptr_t>(address) % alignment == 0;
    }
    [[nodiscard]] static std::size_t padded(std::size_t n, std::size_t unit = floats_aligned) noexcept {
        return (n + unit - 1) / unit * unit;
    }

    [[nodiscard]] std::string where() const { return detail::quoted(std::string_view(file_.name()), 4096); }
    void check_tensor(const std::string& name, std::span<const Dtype> types,
                      std::span<const std::size_t> shape) const;
    void check_weights();
    void check_self_test() const;

    /// An address in the file that keeps the file mapped.
    template <class T> [[nodiscard]] std::shared_ptr<const T> keep(const T* address) const noexcept {
        return {file_.owner(), address};
    }
    [[nodiscard]] std::shared_ptr<const float> floats(const std::string& name) const {
        return keep(reinterpret_cast<const float*>(file_.find(name)->data.data()));
    }

    struct MatrixShape {
        std::size_t n_inputs = 0;
        std::size_t n_outputs = 0;
    };

    SafetensorsFile file_;
    ConfigJson config_;
    std::map<std::string, MatrixShape, std::less<>> matrices_; ///< by name; the panels may have more
};

namespace detail {

/// Whether a tensor of a checkpoint is the matrix of a product, and kept in panels.
[[nodiscard]] inline bool is_matrix(const ExpectedTensor& tensor) noexcept {
    return tensor.shape.size() == 2 && tensor.name != "wpe.weight";
}

} // namespace detail

template <class> GPT2_COLD void ConvertedModel::check() {
    detail::check_converted_version(file_);
    config_ = parse_config(detail::converted_metadata(file_, "gpt2.config"), file_.name() + ": gpt2.config");
    check_weights();
    check_self_test();
}

GPT2_COLD inline void ConvertedModel::check_tensor(const std::string& name, std::span<const Dtype> types,
                                                   std::span<const std::size_t> shape) const {
    const std::string label =
        detail::concat(where(), ": tensor ", detail::quoted(std::string_view(name)), ": ");
    const TensorInfo* const tensor = file_.find(name);
    if (tensor == nullptr) {
        throw FormatError(detail::concat(label, "expected one of shape ", shape_text(shape), ", found none"));
    }
    if (std::ranges::find(types, tensor->dtype) == types.end()) {
        std::string expected;
        for (const Dtype type : types) {
            expected += detail::concat(expected.empty() ? "" : " or ", dtype_name(type));
        }
        throw FormatError(
            detail::concat(label, "expected element type ", expected, ", found ", dtype_name(tensor->dtype)));
    }
    if (!std::ranges::equal(tensor->shape, shape)) {
        throw FormatError(detail::concat(label, "expected shape ", shape_text(shape), ", found ",
                                         shape_text(tensor->shape)));
    }
    if (!is_aligned(tensor->data.data())) {
        throw FormatError(detail::concat(label, "expected data that begin at a multiple of ", alignment,
                                         " bytes in the file, found them elsewhere"));
    }
}

GPT2_COLD inline void ConvertedModel::check_weights() {
    constexpr std::array matrix_types{Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U8};
    constexpr std::array vector_types{Dtype::F32};
    const auto expected = expected_tensors(config(), has_separate_head());
    for (const ExpectedTensor& tensor : expected) {
        if (detail::is_matrix(tensor)) {
            const bool by_inputs = matrix_layout(tensor.name) == MatrixLayout::inputs_by_outputs;
            const std::size_t inputs = tensor.shape[by_inputs ? 0 : 1];
            const std::size_t outputs = tensor.shape[by_inputs ? 1 : 0];
            const TensorInfo* const found = file_.find(tensor.name);
            const WeightType type = found == nullptr ? WeightType::float32 : detail::matrix_type(*found);
            check_tensor(tensor.name, matrix_types, detail::panel_shape(type, inputs, outputs));
            matrices_[tensor.name] = {inputs, outputs};
            continue;
        }
        std::vector<std::size_t> shape = tensor.shape;
        const bool is_linear = tensor.name.find("ln_") == std::string::npos && shape.size() == 1;
        shape.back() = padded(shape.back(), is_linear ? kernels::panel_width : floats_aligned);
        check_tensor(tensor.name, vector_types, shape);
    }
    std::set<std::string, std::less<>> known{"tokenizer.lengths", "self_test.tokens", "self_test.logits",
                                             "self_test.bound"};
    for (const std::string_view table : detail::tokenizer_tables) {
        known.insert(detail::concat("tokenizer.", table));
    }
    for (const ExpectedTensor& tensor : expected) {
        known.insert(tensor.name);
    }
    for (const TensorInfo& tensor : file_.tensors()) {
        if (!known.contains(tensor.name)) {
            throw FormatError(detail::concat(where(), ": tensor ",
                                             detail::quoted(std::string_view(tensor.name)),
                                             ": expected only tensors of the format, found this one"));
        }
    }
}

GPT2_COLD inline void ConvertedModel::check_self_test() const {
    constexpr std::array ids{Dtype::I32};
    constexpr std::array numbers{Dtype::F32};
    check_tensor("self_test.tokens", ids, std::array{floats_aligned});
    check_tensor("self_test.logits", numbers, std::array{padded(config().vocab_size)});
    check_tensor("self_test.bound", numbers, std::array{floats_aligned});
    const SelfTest test = self_test();
    const auto fail = [&](std::string_view tensor, const auto&... reason) {
        throw FormatError(
            detail::concat(where(), ": tensor ", detail::quoted(tensor), ": expected ", reason...));
    };
    if (test.tokens.empty() || test.tokens.size() > config().n_positions) {
        fail("self_test.tokens", "1 to ", config().n_positions, " tokens before the first -1, found ",
             test.tokens.size());
    }
    for (const TokenId token : test.tokens) {
        if (token < 0 || static_cast<std::size_t>(token) >= config().vocab_size) {
            fail("self_test.tokens", "ids from 0 to ", config().vocab_size - 1, ", found ", token);
        }
    }
    if (!std::isfinite(test.bound) || test.bound < 0.0f) {
        fail("self_test.bound", "a number that is not negative, found ", test.bound);
    }
}

inline SelfTest ConvertedModel::self_test() const {
    SelfTest test;
    std::array<TokenId, floats_aligned> tokens{};
    std::memcpy(tokens.data(), file_.find("self_test.tokens")->data.data(), sizeof tokens);
    test.tokens.assign(tokens.begin(), std::ranges::find(tokens, TokenId{-1}));
    test.logits = {floats("self_test.logits").get(), config().vocab_size};
    test.bound = *floats("self_test.bound");
    return test;
}

template <class> GPT2_COLD void ConvertedModel::check_data(ThreadPool& pool) const {
    std::array<char, 9> found{};
    std::snprintf(found.data(), found.size(), "%08x", static_cast<unsigned>(detail::crc32(file_.data())));
    const std::string& expected = detail::converted_metadata(file_, "gpt2.crc32");
    if (expected != found.data()) {
        throw FormatError(detail::concat(where(), ": expected data with the checksum ",
                                         detail::quoted(std::string_view(expected)), " (gpt2.crc32), found ",
                                         found.data(), ": the file is damaged"));
    }
    const std::span<const TensorInfo> tensors = file_.tensors();
    pool.parallel_for(tensors.size(), 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            const TensorInfo& tensor = tensors[i];
            if (tensor.dtype == Dtype::F32 || tensor.dtype == Dtype::F16 || tensor.dtype == Dtype::BF16) {
                require_finite({tensor.name, file_.name(), tensor.dtype, tensor.shape, tensor.data, nullptr});
            } else if (tensor.dtype == Dtype::U8 && matrices_.contains(tensor.name)) {
                detail::require_finite_scales(tensor, file_.name());
            }
        }
    });
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE void ConvertedModel::check<void>();
GPT2_INSTANCE void ConvertedModel::check_data<void>(ThreadPool&) const;
#endif

} // namespace gpt2
