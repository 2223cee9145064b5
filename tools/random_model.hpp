// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/config.hpp>
#include <gpt2/error.hpp>
#include <gpt2/float16.hpp>
#include <gpt2/io/checkpoint_tensor.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// @file
/// Writes Hugging Face directories with random weights of GPT-2's usual scale, for tests and benchmarks.
/// Not part of the library. The same options give the same bytes everywhere.

namespace gpt2::tools {

/// What a directory of random weights looks like.
struct RandomModelOptions {
    Dtype dtype = Dtype::F32; ///< F32, F16 or BF16
    bool prefix = false;      ///< names begin with `transformer.`
    bool tied = true;         ///< the output head is `wte`; otherwise `lm_head.weight` is written
    std::size_t shards = 1;   ///< more than one: an index and so many files
    std::uint64_t seed = 0;
    std::size_t header_padding = 0; ///< more spaces behind each header, so that data may begin at any address
    std::function<void(std::size_t written, std::size_t total)> progress{}; ///< bytes, called now and then
};

/// A shape by its usual name: `124M`, `355M`, `774M`, `1558M` (OpenAI's), `novella` (the default model's) or
/// `tiny`.
[[nodiscard]] inline std::optional<Config> config_by_name(std::string_view name) {
    const auto make = [](std::size_t V, std::size_t T, std::size_t C, std::size_t layers, std::size_t heads) {
        Config config;
        config.vocab_size = V;
        config.n_positions = T;
        config.n_embd = C;
        config.n_layer = layers;
        config.n_head = heads;
        config.n_inner = 4 * C;
        config.bos_token_id = config.eos_token_id = static_cast<TokenId>(V - 1);
        return config;
    };
    if (name == "124M") {
        return make(50257, 1024, 768, 12, 12);
    }
    if (name == "355M") {
        return make(50257, 1024, 1024, 24, 16);
    }
    if (name == "774M") {
        return make(50257, 1024, 1280, 36, 20);
    }
    if (name == "1558M") {
        return make(50257, 1024, 1600, 48, 25);
    }
    if (name == "novella") {
        return make(8192, 512, 256, 6, 4);
    }
    if (name == "tiny") {
        return make(300, 64, 32, 2, 4);
    }
    return std::nullopt;
}

/// The name of an activation in `config.json`.
[[nodiscard]] inline std::string_view activation_name(Activation activation) noexcept {
    switch (activation) {
    case Activation::gelu_erf:
        return "gelu";
    case Activation::relu:
        return "relu";
    case Activation::gelu_tanh:
        break;
    }
    return "gelu_new";
}

/// The text of a `config.json`.
[[nodiscard]] inline std::string config_json_text(const Config& config, bool tied = true) {
    std::array<char, 64> epsilon{};
    const auto end =
        std::to_chars(epsilon.data(), epsilon.data() + epsilon.size(), config.layer_norm_epsilon).ptr;
    const auto token = [](std::optional<TokenId> id) { return id ? std::to_string(*id) : "null"; };
    const auto flag = [](bool value) { return value ? "true" : "false"; };
    return detail::concat(
        "{\n  \"activation_function\": \"", activation_name(config.activation),
        "\",\n  \"architectures\": [\"GPT2LMHeadModel\"],\n  \"bos_token_id\": ", token(config.bos_token_id),
        ",\n  \"eos_token_id\": ", token(config.eos_token_id),
        ",\n  \"layer_norm_epsilon\": ", std::string_view(epsilon.data(), end),
        ",\n  \"model_type\": \"gpt2\",\n  \"n_embd\": ", config.n_embd, ",\n  \"n_head\": ", config.n_head,
        ",\n  \"n_inner\": ", config.n_inner, ",\n  \"n_layer\": ", config.n_layer,
        ",\n  \"n_positions\": ", config.n_positions,
        ",\n  \"scale_attn_by_inverse_layer_idx\": ", flag(config.scale_attn_by_inverse_layer_idx),
        ",\n  \"scale_attn_weights\": ", flag(config.scale_attn_weights),
        ",\n  \"tie_word_embeddings\": ", flag(tied), ",\n  \"vocab_size\": ", config.vocab_size, "\n}\n");
}

/// The random values of one tensor; element i depends on the seed, the tensor's name and i alone.
class RandomTensor {
public:
    RandomTensor(std::string_view name, const Config& config, std::uint64_t seed) {
        state_ = mix(seed ^ 0x6770743277656967u);
        for (const char c : name) {
            state_ = mix(state_ ^ static_cast<unsigned char>(c));
        }
        double deviation = 0.02; // as GPT-2 is initialised (Radford et al. 2019, section 2.3)
        if (name.ends_with("c_proj.weight")) {
            deviation /= std::sqrt(2.0 * static_cast<double>(config.n_layer));
        } else if (name == "wpe.weight") {
            deviation = 0.01;
        } else if (name.find("ln_") != std::string_view::npos && name.ends_with("weight")) {
            gain_ = true;
        }
        // The sum of four uniform 16-bit numbers has the variance 4 (2^32 - 1) / 12.
        scale_ = static_cast<float>(deviation / std::sqrt(4.0 * 4294967295.0 / 12.0));
    }

    [[nodiscard]] float operator()(std::size_t i) const noexcept {
        const std::uint64_t bits = mix(state_ + i * 0x9e3779b97f4a7c15u);
        const auto sum = static_cast<std::int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                                   (bits >> 32 & 0xffff) + (bits >> 48));
        const auto centred = static_cast<float>(sum - 2 * 65535);
        return gain_ ? std::fma(centred, scale_, 1.0f) : centred * scale_;
    }

private:
    /// The output function of SplitMix64 (Steele, Lea, Flood 2014).
    static std::uint64_t mix(std::uint64_t x) noexcept {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return x ^ (x >> 31);
    }

    std::uint64_t state_ = 0;
    float scale_ = 0;
    bool gain_ = false; ///< values around 1
};

namespace detail {

using namespace gpt2::detail;

inline std::size_t element_count(std::span<const std::size_t> shape) noexcept {
    std::size_t count = 1;
    for (const std::size_t extent : shape) {
        count *= extent;
    }
    return count;
}

/// A new file; every failure to write is an exception.
class Output {
public:
    explicit Output(std::filesystem::path path)
        : path_(std::move(path)), stream_(path_, std::ios::binary | std::ios::trunc) {
        check();
    }
    void write(const void* data, std::size_t size) {
        stream_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
        check();
    }
    void write(std::string_view text) { write(text.data(), text.size()); }
    void close() {
        stream_.close();
        check();
    }

private:
    void check() const {
        if (!stream_) {
            throw FileError(concat(quoted_path(path_), ": cannot write: ",
                                   std::error_code(errno, std::generic_category()).message()));
        }
    }
    std::filesystem::path path_;
    std::ofstream stream_;
};

[[nodiscard]] inline std::string file_tensor_name(std::string_view name, const RandomModelOptions& options) {
    return (options.prefix && name != "lm_head.weight" ? "transformer." : "") + std::string(name);
}

/// The length and the header of a safetensors file with these tensors in this order.
[[nodiscard]] inline std::string safetensors_header(std::span<const ExpectedTensor> tensors,
                                                    const RandomModelOptions& options) {
    std::string header = R"({"__metadata__":{"format":"pt"})";
    std::size_t offset = 0;
    for (const ExpectedTensor& tensor : tensors) {
        const std::size_t end = offset + element_count(tensor.shape) * dtype_bits(options.dtype) / 8;
        header += concat(",\"", file_tensor_name(tensor.name, options), "\":{\"dtype\":\"",
                         dtype_name(options.dtype), "\",\"shape\":", shape_text(tensor.shape),
                         ",\"data_offsets\":[", offset, ",", end, "]}");
        offset = end;
    }
    header += '}';
    header.append((8 - header.size() % 8) % 8 + options.header_padding, ' ');
    std::uint64_t length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header;
}

template <class T>
void write_elements(Output& out, const RandomTensor& values, std::size_t begin, std::size_t end) {
    std::vector<T> block(end - begin);
    for (std::size_t i = 0; i < block.size(); ++i) {
        block[i] = T(values(begin + i));
    }
    out.write(block.data(), block.size() * sizeof(T));
}

} // namespace detail

/// Writes `config.json` and the weights into a directory, which is made when it does not exist.
/// @throws FileError when something cannot be written
inline void write_random_model(const std::filesystem::path& directory, const Config& config,
                               const RandomModelOptions& options = {}) {
    validate(config, "random model");
    std::filesystem::create_directories(directory);
    for (const char* old :
         {"model.safetensors", "model.safetensors.index.json"}) { // would contradict new files
        std::filesystem::remove(directory / old);
    }
    detail::Output config_file(directory / "config.json");
    config_file.write(config_json_text(config, options.tied));
    config_file.close();

    const std::vector<ExpectedTensor> list = expected_tensors(config, !options.tied);
    const std::size_t element_size = dtype_bits(options.dtype) / 8;
    std::size_t total = 0;
    for (const ExpectedTensor& tensor : list) {
        total += detail::element_count(tensor.shape) * element_size;
    }
    std::size_t written = 0;
    std::string index;
    const std::size_t shards = std::clamp<std::size_t>(options.shards, 1, list.size());
    for (std::size_t shard = 0; shard < shards; ++shard) {
        const auto tensors = std::span(list).subspan(
            list.size() * shard / shards, list.size() * (shard + 1) / shards - list.size() * shard / shards);
        std::ostringstream name;
        name << std::setfill('0') << "model-" << std::setw(5) << shard + 1 << "-of-" << std::setw(5) << shards
             << ".safetensors";
        detail::Output file(directory / (shards == 1 ? "model.safetensors" : name.str()));
        file.write(detail::safetensors_header(tensors, options));
        for (const ExpectedTensor& tensor : tensors) {
            index +=
                detail::concat(index.empty() ? "" : ",\n", "    \"",
                               detail::file_tensor_name(tensor.name, options), "\": \"", name.str(), "\"");
            const RandomTensor values(tensor.name, config, options.seed);
            const std::size_t count = detail::element_count(tensor.shape);
            constexpr std::size_t block = std::size_t{1} << 18;
            for (std::size_t i = 0; i < count; i += block) {
                const std::size_t end = std::min(count, i + block);
                switch (options.dtype) {
                case Dtype::F16:
                    detail::write_elements<half>(file, values, i, end);
                    break;
                case Dtype::BF16:
                    detail::write_elements<bfloat16>(file, values, i, end);
                    break;
                default:
                    detail::write_elements<float>(file, values, i, end);
                }
                written += (end - i) * element_size;
                if (options.progress) {
                    options.progress(written, total);
                }
            }
        }
        file.close();
    }
    if (shards > 1) {
        detail::Output index_file(directory / "model.safetensors.index.json");
        index_file.write(detail::concat("{\n  \"metadata\": {\"total_size\": ", total,
                                        "},\n  \"weight_map\": {\n", index, "\n  }\n}\n"));
        index_file.close();
    }
}

} // namespace gpt2::tools
