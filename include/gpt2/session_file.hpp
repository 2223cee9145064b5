// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"
#include "gpt2/io/converted_file.hpp"
#include "gpt2/io/crc32.hpp"
#include "gpt2/io/output_file.hpp"
#include "gpt2/io/safetensors.hpp"
#include "gpt2/model.hpp"
#include "gpt2/session.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Session::save() and Session::restore(): conversations on disk. The format is specified in
/// docs/sessions.md: a safetensors file with the tokens, their keys and values as the cache has them, and the
/// last logits. With these a session goes on with the bits that it would have had without the detour.
///
/// Keys and values mean something to one model alone, so the file is bound to it, by two checksums:
/// - of the configuration and of the format of each matrix in memory: what is computed;
/// - of the weights. A converted file has a checksum of all its data (`gpt2.crc32`), which costs nothing to
///   ask for; where its matrices were converted to other formats, they still follow from it. The weights of a
///   Hugging Face directory are read once, all of them: a fraction of what loading took, and no choice of
///   some weights would tell a model from every one that was trained on from it.
///
/// So a model that was converted and the directory it came from count as two, although their logits are
/// equal. The instruction set is not part of it: all that have FMA compute the same.

namespace gpt2 {

namespace detail {

inline constexpr std::string_view session_version = "1";

[[nodiscard]] GPT2_COLD inline std::string hexadecimal(std::uint32_t number) {
    std::array<char, 9> digits{};
    std::snprintf(digits.data(), digits.size(), "%08x", static_cast<unsigned>(number));
    return digits.data();
}

/// All matrices and vectors of a model.
[[nodiscard]] GPT2_COLD inline std::vector<std::span<const std::byte>> weights_of(const Transformer& model) {
    std::vector<std::span<const std::byte>> list;
    const auto add_matrix = [&list](const PackedMatrix& matrix) {
        list.emplace_back(matrix.panels(), matrix.bytes());
    };
    const auto add_vector = [&list](std::span<const float> values) { list.push_back(std::as_bytes(values)); };
    const auto add_linear = [&](const Linear& layer) {
        add_matrix(layer.weight());
        add_vector(layer.bias());
    };
    const auto add_norm = [&](const LayerNorm& norm) {
        add_vector(norm.gain());
        add_vector(norm.bias());
    };
    add_matrix(model.wte);
    add_vector(model.wpe.flat());
    for (const Block& block : model.h) {
        add_norm(block.ln_1);
        add_linear(block.attn.c_attn);
        add_linear(block.attn.c_proj);
        add_norm(block.ln_2);
        add_linear(block.mlp.c_fc);
        add_linear(block.mlp.c_proj);
    }
    add_norm(model.ln_f);
    add_linear(model.lm_head);
    return list;
}

/// The checksum of all checksums.
[[nodiscard]] GPT2_COLD inline std::string checksum_of_weights(const Transformer& model, ThreadPool& pool) {
    const auto list = weights_of(model);
    std::vector<std::uint32_t> checksums(list.size());
    pool.parallel_for(list.size(), 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            checksums[i] = crc32(list[i]);
        }
    });
    return hexadecimal(crc32(std::as_bytes(std::span(checksums))));
}

/// What is computed: the configuration, and the format of each matrix.
[[nodiscard]] GPT2_COLD inline std::string description_of(const Transformer& model) {
    const Config& c = model.config;
    std::string text = concat(c.vocab_size, ' ', c.n_positions, ' ', c.n_embd, ' ', c.n_layer, ' ', c.n_head,
                              ' ', c.n_inner, ' ', c.layer_norm_epsilon, ' ', static_cast<int>(c.activation),
                              ' ', static_cast<int>(c.scale_attn_weights), ' ',
                              static_cast<int>(c.scale_attn_by_inverse_layer_idx));
    const auto add = [&text](const PackedMatrix& matrix) { text += concat(' ', to_string(matrix.type())); };
    add(model.wte);
    add(model.lm_head.weight());
    for (const Block& block : model.h) {
        add(block.attn.c_attn.weight());
        add(block.attn.c_proj.weight());
        add(block.mlp.c_fc.weight());
        add(block.mlp.c_proj.weight());
    }
    return text;
}

/// What a session's file is bound to, as "12345678-9abcdef0".
[[nodiscard]] GPT2_COLD inline std::string identity_of(const ModelState& model, ThreadPool& pool) {
    const std::string text = description_of(model.transformer);
    return hexadecimal(crc32(std::as_bytes(std::span(text)))) + '-' +
           (model.file ? converted_metadata(model.file->file(), "gpt2.crc32")
                       : checksum_of_weights(model.transformer, pool));
}

/// What the header of a session's file says.
struct SessionHeader {
    std::string model; ///< identity_of()
    KvDtype kv_dtype = KvDtype::float32;
    std::size_t tokens = 0;
    std::array<std::size_t, 3> cache{}; ///< layers, heads, D
    std::size_t logits = 0;             ///< V or 0

    [[nodiscard]] std::size_t element_size() const noexcept { return kv_dtype == KvDtype::float16 ? 2 : 4; }

    /// The file up to its data, which begin at a multiple of 64 bytes.
    /// @param checksum  of the data; changes no length
    [[nodiscard]] std::string text(std::uint32_t checksum) const {
        std::string json =
            concat(R"({"__metadata__":{"gpt2.session_version":")", session_version, R"(","gpt2.model":")",
                   model, R"(","gpt2.crc32":")", hexadecimal(checksum), "\"}");
        std::size_t end = 0;
        const auto add = [&](std::string_view name, std::string_view dtype, std::string_view shape,
                             std::size_t bytes) {
            json += concat(",\"", name, R"(":{"dtype":")", dtype, R"(","shape":)", shape,
                           R"(,"data_offsets":[)", end, ',', end + bytes, "]}");
            end += bytes;
        };
        add("tokens", "I32", shape_text(std::array{tokens}), tokens * sizeof(TokenId));
        if (logits != 0) {
            add("logits", "F32", shape_text(std::array{logits}), logits * sizeof(float));
        }
        const std::array shape{cache[0], cache[1], tokens, cache[2]};
        const std::size_t bytes = cache[0] * cache[1] * tokens * cache[2] * element_size();
        for (const std::string_view name : {"keys", "values"}) {
            add(name, kv_dtype == KvDtype::float16 ? "F16" : "F32", shape_text(shape), bytes);
        }
        json += '}';
        json.resize((sizeof(std::uint64_t) + json.size() + 63) / 64 * 64 - sizeof(std::uint64_t), ' ');
        const std::uint64_t length = json.size();
        std::string out(sizeof length, '\0');
        std::memcpy(out.data(), &length, sizeof length);
        return out + json;
    }
};

/// The file of a session, checked against a model and itself: when the object exists, all is there and can be
/// used as it is.
class SessionFile {
public:
    /// @throws FormatError naming the file, what was expected and what was found
    SessionFile(SafetensorsFile file, const ModelState& model, ThreadPool& pool)
        : file_(std::move(file)), config_(model.transformer.config) {
        check_metadata(identity_of(model, pool));
        check_tensors();
        check_data();
    }

    [[nodiscard]] KvDtype kv_dtype() const noexcept {
        return find("keys").dtype == Dtype::F16 ? KvDtype::float16 : KvDtype::float32;
    }

    [[nodiscard]] std::vector<TokenId> tokens() const { return numbers<TokenId>(find("tokens").data); }

    /// [V], or nothing.
    [[nodiscard]] std::vector<float> logits() const {
        const TensorInfo* const tensor = file_.find("logits");
        return tensor == nullptr ? std::vector<float>() : numbers<float>(tensor->data);
    }

    /// Keys or values [n, D] of a head, exactly.
    [[nodiscard]] std::vector<float> rows(std::string_view name, std::size_t layer, std::size_t head) const {
        const std::span<const std::byte> data = find(name).data;
        const std::size_t bytes = data.size() / (config_.n_layer * config_.n_head);
        const auto part = data.subspan((layer * config_.n_head + head) * bytes, bytes);
        if (kv_dtype() == KvDtype::float32) {
            return numbers<float>(part);
        }
        const std::vector<half> halves = numbers<half>(part);
        std::vector<float> out(halves.size());
        std::ranges::transform(halves, out.begin(), [](half value) { return static_cast<float>(value); });
        return out;
    }

    [[nodiscard]] std::string where() const { return quoted(std::string_view(file_.name()), 4096); }

private:
    template <class T> [[nodiscard]] static std::vector<T> numbers(std::span<const std::byte> bytes) {
        std::vector<T> out(bytes.size() / sizeof(T));
        if (!out.empty()) {
            std::memcpy(out.data(), bytes.data(), bytes.size());
        }
        return out;
    }

    template <class... Parts> [[noreturn]] void fail(const Parts&... reason) const {
        throw FormatError(concat(where(), ": ", reason...));
    }

    [[nodiscard]] const TensorInfo& find(std::string_view name) const { return *file_.find(name); }

    GPT2_COLD void check_metadata(const std::string& identity) const {
        const auto version = file_.metadata().find("gpt2.session_version");
        if (version == file_.metadata().end()) {
            fail("expected a session, found a safetensors file without \"gpt2.session_version\"");
        }
        if (version->second != session_version) {
            fail("expected session version ", session_version, ", found ",
                 quoted(std::string_view(version->second)));
        }
        if (const std::string& found = converted_metadata(file_, "gpt2.model"); found != identity) {
            fail("expected a session of this model, ", identity, ", found one of another, ",
                 quoted(std::string_view(found)), " (\"gpt2.model\")");
        }
    }

    GPT2_COLD void check_tensor(std::string_view name, std::span<const Dtype> types,
                                std::span<const std::size_t> shape) const {
        const std::string label = concat("tensor ", quoted(name), ": ");
        const TensorInfo* const tensor = file_.find(name);
        if (tensor == nullptr) {
            fail(label, "expected one of shape ", shape_text(shape), ", found none");
        }
        if (std::ranges::find(types, tensor->dtype) == types.end()) {
            fail(label, "expected element type ", dtype_name(types.front()),
                 types.size() > 1 ? concat(" or ", dtype_name(types.back())) : std::string(), ", found ",
                 dtype_name(tensor->dtype));
        }
        if (!std::ranges::equal(tensor->shape, shape)) {
            fail(label, "expected shape ", shape_text(shape), ", found ", shape_text(tensor->shape));
        }
    }

    GPT2_COLD void check_tensors() const {
        constexpr std::array ids{Dtype::I32};
        constexpr std::array floats{Dtype::F32};
        constexpr std::array cached{Dtype::F32, Dtype::F16};
        const TensorInfo* const tokens = file_.find("tokens");
        const std::size_t n = tokens == nullptr || tokens->shape.empty() ? 0 : tokens->shape.front();
        check_tensor("tokens", ids, std::array{n});
        if (n > config_.n_positions) {
            fail("tensor \"tokens\": expected at most ", config_.n_positions,
                 " tokens, the positions of the model, found ", n);
        }
        const std::array shape{config_.n_layer, config_.n_head, n, config_.head_size()};
        check_tensor("keys", cached, shape);
        check_tensor("values", std::array{find("keys").dtype}, shape);
        const bool has_logits = file_.find("logits") != nullptr;
        if (has_logits) {
            check_tensor("logits", floats, std::array{config_.vocab_size});
        }
        if (has_logits && n == 0) {
            fail("tensor \"logits\": expected none in a session without tokens, found some");
        }
        if (file_.tensors().size() != std::size_t{3} + (has_logits ? 1 : 0)) {
            fail("expected the tensors tokens, keys, values and logits, found others");
        }
    }

    GPT2_COLD void check_data() const {
        const std::string found = hexadecimal(crc32(file_.data()));
        if (const std::string& expected = converted_metadata(file_, "gpt2.crc32"); expected != found) {
            fail("expected data with the checksum ", quoted(std::string_view(expected)),
                 " (gpt2.crc32), found ", found, ": the file is damaged");
        }
        for (const TokenId token : tokens()) {
            if (token < 0 || static_cast<std::size_t>(token) >= config_.vocab_size) {
                fail("tensor \"tokens\": expected ids below ", config_.vocab_size, ", found ", token);
            }
        }
        for (const float logit : logits()) {
            if (!std::isfinite(logit)) {
                fail("tensor \"logits\": expected finite numbers, found ", logit);
            }
        }
    }

    SafetensorsFile file_;
    const Config& config_;
};

} // namespace detail

GPT2_COLD inline std::string Gpt2Model::identity(const std::shared_ptr<ThreadPool>& pool) const {
    return detail::identity_of(*state_, *detail::pool_or_default(pool));
}

GPT2_COLD inline void Session::save(const std::filesystem::path& path) const {
    const Config& config = model_->transformer.config;
    const std::size_t V = config.vocab_size;
    detail::SessionHeader header{.model = detail::identity_of(*model_, *pool_),
                                 .kv_dtype = kv_dtype(),
                                 .tokens = position(),
                                 .cache = {config.n_layer, config.n_head, config.head_size()},
                                 .logits = logit_rows_ == 0 ? 0 : V};
    detail::OutputFile file(path);
    std::uint32_t checksum = 0;
    const auto write = [&](std::span<const std::byte> bytes) {
        checksum = detail::crc32(bytes, checksum);
        file.write(bytes);
    };
    const std::string room = header.text(0);
    file.write(std::as_bytes(std::span(room)));
    write(std::as_bytes(tokens()));
    if (logit_rows_ != 0) {
        write(std::as_bytes(logits()[logit_rows_ - 1].flat()));
    }
    std::vector<std::byte> rows(position() * config.head_size() * header.element_size());
    for (const auto part : {KvCache::Part::keys, KvCache::Part::values}) {
        for (std::size_t layer = 0; layer < config.n_layer; ++layer) {
            for (std::size_t head = 0; head < config.n_head; ++head) {
                cache_.read(part, layer, head, position(), rows.data());
                write(rows);
            }
        }
    }
    file.rewind();
    const std::string complete = header.text(checksum);
    file.write(std::as_bytes(std::span(complete)));
    file.finish();
}

GPT2_COLD inline Session Session::restore(const Gpt2Model& model, const SafetensorsFile& from,
                                          const SessionOptions& options) {
    const detail::ModelState& state = *model.state_;
    const auto pool = detail::pool_or_default(options.pool);
    const detail::SessionFile file(from, state, *pool);
    if (options.kv_dtype.value_or(file.kv_dtype()) != file.kv_dtype()) {
        throw OptionError(detail::concat("kv_dtype is ", to_string(*options.kv_dtype), ", expected ",
                                         to_string(file.kv_dtype()), ", the type of the keys and values in ",
                                         file.where()));
    }
    Session session(model.state_, pool, options.profile, options.observer, file.kv_dtype());
    const std::vector<TokenId> tokens = file.tokens();
    const std::size_t heads = state.transformer.config.n_head;
    const std::size_t D = state.transformer.config.head_size();
    try {
        pool->parallel_for(
            state.transformer.config.n_layer * heads, 1, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i) {
                    const std::vector<float> keys = file.rows("keys", i / heads, i % heads);
                    const std::vector<float> values = file.rows("values", i / heads, i % heads);
                    session.cache_.write(*state.kernels, i / heads, i % heads,
                                         {.keys = keys.data(),
                                          .values = values.data(),
                                          .row_stride = D,
                                          .n_rows = tokens.size(),
                                          .position = 0});
                }
            });
    } catch (const NumericError& error) { // a file with the right checksum that save() did not write
        throw FormatError(detail::concat(file.where(), ": ", error.what()));
    }
    session.tokens_.assign(tokens.begin(), tokens.end());
    if (const std::vector<float> logits = file.logits(); !logits.empty()) {
        Tensor<float, 2> row({1, logits.size()});
        std::ranges::copy(logits, row.data());
        session.logits_ = std::make_shared<const Tensor<float, 2>>(std::move(row));
        session.logit_rows_ = 1;
    }
    return session;
}

inline Session Session::restore(const Gpt2Model& model, const std::filesystem::path& path,
                                const SessionOptions& options) {
    return restore(model, SafetensorsFile::open(path), options);
}

inline Session Session::restore(const Gpt2Model& model, std::span<const std::byte> file,
                                const SessionOptions& options) {
    return restore(model, SafetensorsFile::from_bytes(file, "memory"), options);
}

} // namespace gpt2
