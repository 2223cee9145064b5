// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/config.hpp"
#include "gpt2/error.hpp"
#include "gpt2/io/checkpoint_tensor.hpp"
#include "gpt2/io/config_json.hpp"
#include "gpt2/io/json.hpp"
#include "gpt2/io/mapped_file.hpp"
#include "gpt2/io/safetensors.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// @file
/// A model as Hugging Face keeps it: a directory with `config.json` and the weights in safetensors files.

namespace gpt2 {

/// The configuration and the weights of a Hugging Face directory. Everything that can be checked without
/// reading the weights has been checked once the object exists: each tensor that the configuration demands is
/// there, with its shape, as F32, F16 or BF16, and there is nothing that the model would leave unused
/// (but for the mask buffers `h.N.attn.bias` and `h.N.attn.masked_bias`, which hold no weights).
///
/// Names may have the prefix `transformer.`. The output head: with `tie_word_embeddings` false it must be in
/// the file as `lm_head.weight`; with true (the default) it is `wte.weight`, and a `lm_head.weight` in the
/// file must be a copy of it. A different one is refused, because it has no agreed meaning: transformers 4
/// replaces it by `wte`, transformers 5 uses it.
///
/// Immutable and thread-safe; copies are cheap and share the mapped files.
class Checkpoint {
public:
    /// Opens a directory with `config.json` and either `model.safetensors` or
    /// `model.safetensors.index.json` and the files it names (the first wins, as in transformers).
    /// The files stay mapped as long as a copy of the object or of a tensor lives; see MappedFile for what
    /// happens when somebody changes them meanwhile.
    /// @throws FileError    no such directory, a file that cannot be opened
    /// @throws FormatError  naming the file, the tensor or the key, what was expected and what was found
    [[nodiscard]] static Checkpoint open(const std::filesystem::path& directory) {
        return open_directory(directory);
    }

    /// The same from memory. The bytes of @p model are not copied and must outlive the object.
    /// @param name  stands for the directory in messages
    /// @throws FormatError  as open()
    [[nodiscard]] static Checkpoint from_bytes(std::string_view config_json, std::span<const std::byte> model,
                                               std::string_view name = "memory") {
        const std::string prefix = std::string(name) + "/";
        const std::string config_name = prefix + "config.json";
        const ConfigJson config = parse_config(config_json, config_name);
        SafetensorsFile file = SafetensorsFile::from_bytes(model, prefix + "model.safetensors");
        const std::string model_name = file.name();
        return Checkpoint(config, config_name, {std::move(file)}, model_name);
    }

    [[nodiscard]] const Config& config() const noexcept { return state_->config; }

    /// The file of the weights, or the index of the files.
    [[nodiscard]] const std::string& name() const noexcept { return state_->model_name; }

    /// Whether `lm_head.weight` is a tensor of its own; otherwise `wte.weight` is the output head.
    [[nodiscard]] bool has_separate_head() const noexcept { return state_->separate_head; }

    /// A tensor by its name in expected_tensors().
    /// @throws OptionError when the model has no tensor of that name
    [[nodiscard]] const CheckpointTensor& tensor(std::string_view name) const {
        const auto it = state_->tensors.find(name);
        if (it == state_->tensors.end()) {
            throw OptionError(detail::concat(detail::quoted(std::string_view(state_->model_name), 4096),
                                             ": expected the name of a tensor of the model, found ",
                                             detail::quoted(name)));
        }
        return it->second;
    }

    /// A tensor by its name, for a caller who relies on its shape.
    /// @throws FormatError when the shape is another
    [[nodiscard]] const CheckpointTensor& tensor(std::string_view name,
                                                 std::span<const std::size_t> shape) const {
        const CheckpointTensor& found = tensor(name);
        check_shape(found.file, found.name, shape, found.shape);
        return found;
    }
    [[nodiscard]] const CheckpointTensor& tensor(std::string_view name,
                                                 std::initializer_list<std::size_t> shape) const {
        return tensor(name, std::span(shape.begin(), shape.size()));
    }

private:
    struct State {
        Config config;
        std::string config_name;
        std::string model_name; ///< the file of the weights, or the index of the files
        bool separate_head = false;
        std::map<std::string, CheckpointTensor, std::less<>> tensors; ///< without prefix
    };

    Checkpoint(const ConfigJson& config, std::string config_name, const std::vector<SafetensorsFile>& files,
               std::string model_name)
        : state_(check(config, std::move(config_name), files, std::move(model_name))) {}

    GPT2_HEAVY [[nodiscard]] static Checkpoint open_directory(const std::filesystem::path& directory);
    GPT2_HEAVY [[nodiscard]] static std::shared_ptr<const State>
    check(const ConfigJson& config, std::string config_name, const std::vector<SafetensorsFile>& files,
          std::string model_name);
    static std::vector<SafetensorsFile> open_shards(const std::filesystem::path& directory,
                                                    const std::filesystem::path& index);
    static void add_tensor(State& state, const SafetensorsFile& file, const TensorInfo& tensor);
    static void choose_head(State& state, bool tied);
    static void check_expected(const State& state);
    static void check_shape(std::string_view file, std::string_view tensor,
                            std::span<const std::size_t> expected, std::span<const std::size_t> found);

    template <class... Parts> [[noreturn]] static void fail(std::string_view file, const Parts&... parts) {
        throw FormatError(detail::concat(detail::quoted(file, 4096), ": ", parts...));
    }

    std::shared_ptr<const State> state_;
};

namespace detail {

/// The number N in a name `h.N.rest`, and the rest; nothing for other names.
[[nodiscard]] GPT2_COLD inline std::optional<std::pair<std::size_t, std::string_view>>
split_layer(std::string_view name) noexcept {
    if (!name.starts_with("h.")) {
        return std::nullopt;
    }
    std::size_t layer = 0;
    const char* const end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 2, end, layer);
    if (error != std::errc{} || stop == end || *stop != '.') {
        return std::nullopt;
    }
    return std::pair(layer, std::string_view(stop + 1, static_cast<std::size_t>(end - stop - 1)));
}

/// Whether a file may be called that inside a directory that somebody else made.
[[nodiscard]] GPT2_COLD inline bool is_plain_file_name(std::string_view name) noexcept {
    return !name.empty() && name.find_first_of(std::string_view("/\\:\0", 4)) == std::string_view::npos &&
           name.find("..") == std::string_view::npos && name.ends_with(".safetensors");
}

/// @throws FileError unless there is a directory
GPT2_COLD inline void require_directory(const std::filesystem::path& path) {
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) {
        const std::string reason = error ? error.message() : "No such file or directory";
        throw FileError(concat(quoted_path(path), ": expected the file of a converted model, or a directory ",
                               "with config.json and model.safetensors, found nothing: ", reason));
    }
    if (!std::filesystem::is_directory(status)) {
        const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
        throw FileError(concat(quoted_path(path),
                               ": expected a directory with config.json and model.safetensors, found "
                               "a file (to load the model that it belongs to, give ",
                               quoted_path(parent), ")"));
    }
}

} // namespace detail

template <class> GPT2_COLD Checkpoint Checkpoint::open_directory(const std::filesystem::path& directory) {
    detail::require_directory(directory);
    const std::filesystem::path config_path = directory / "config.json";
    const std::string config_name = detail::path_text(config_path);
    const ConfigJson config = parse_config(MappedFile::open(config_path).text(), config_name);

    const std::filesystem::path single = directory / "model.safetensors";
    const std::filesystem::path index = directory / "model.safetensors.index.json";
    std::error_code ignored; // what cannot be looked at is reported when it is opened
    if (std::filesystem::exists(std::filesystem::symlink_status(single, ignored))) {
        return Checkpoint(config, config_name, {SafetensorsFile::open(single)}, detail::path_text(single));
    }
    if (std::filesystem::exists(std::filesystem::symlink_status(index, ignored))) {
        return Checkpoint(config, config_name, open_shards(directory, index), detail::path_text(index));
    }
    std::string found = "neither";
    for (const char* other : {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"}) {
        if (std::filesystem::exists(directory / other, ignored)) {
            found = detail::concat(other, ", to be converted by tools/convert_weights.py");
            break;
        }
    }
    throw FileError(detail::concat(detail::quoted_path(directory),
                                   ": expected model.safetensors or model.safetensors.index.json, found ",
                                   found));
}

/// The files of an index: `{"metadata": {...}, "weight_map": {"tensor": "file"}}`. Each tensor must be in the
/// file that the index names, and in no other.
GPT2_COLD inline std::vector<SafetensorsFile> Checkpoint::open_shards(const std::filesystem::path& directory,
                                                                      const std::filesystem::path& index) {
    const std::string name = detail::path_text(index);
    const detail::Json json = detail::parse_json(MappedFile::open(index).text(), name);
    const std::string where = detail::quoted(std::string_view(name), 4096);
    const detail::JsonObject object(json, where);
    const detail::Json& entries = object.at("weight_map", "an object of tensor and file names");
    const detail::JsonObject weight_map(entries, where + ": \"weight_map\"");

    std::map<std::string, SafetensorsFile> files;
    for (const auto& [tensor, value] : entries.items()) {
        const std::string shard = *weight_map.string(tensor);
        if (!detail::is_plain_file_name(shard)) {
            weight_map.fail(tensor, "the name of a .safetensors file in the same directory", value);
        }
        auto it = files.find(shard);
        if (it == files.end()) {
            it = files.emplace(shard, SafetensorsFile::open(directory / shard)).first;
        }
        if (it->second.find(tensor) == nullptr) {
            fail(it->second.name(), "expected tensor ", detail::quoted(std::string_view(tensor)), " (from ",
                 where, "), found no such tensor");
        }
    }
    std::vector<SafetensorsFile> result;
    for (const auto& [shard, file] : files) {
        for (const TensorInfo& tensor : file.tensors()) {
            const detail::Json* entry = weight_map.find(tensor.name);
            if (entry == nullptr || entry->get_ref<const std::string&>() != shard) {
                fail(file.name(), "tensor ", detail::quoted(std::string_view(tensor.name)),
                     ": expected only tensors that ", where, " has in this file, found another");
            }
        }
        result.push_back(file);
    }
    return result;
}

template <class>
GPT2_COLD std::shared_ptr<const Checkpoint::State>
Checkpoint::check(const ConfigJson& config, std::string config_name,
                  const std::vector<SafetensorsFile>& files, std::string model_name) {
    auto state = std::make_shared<State>();
    state->config = config.config;
    state->config_name = std::move(config_name);
    state->model_name = std::move(model_name);
    for (const SafetensorsFile& file : files) {
        for (const TensorInfo& tensor : file.tensors()) {
            add_tensor(*state, file, tensor);
        }
    }
    state->separate_head = !config.tie_word_embeddings;
    check_expected(*state);
    choose_head(*state, config.tie_word_embeddings);
    return state;
}

GPT2_COLD inline void Checkpoint::add_tensor(State& state, const SafetensorsFile& file,
                                             const TensorInfo& tensor) {
    constexpr std::string_view prefix = "transformer.";
    std::string_view name = tensor.name;
    if (name.starts_with(prefix) && name != "transformer.lm_head.weight") {
        name.remove_prefix(prefix.size());
    }
    if (const auto layer = detail::split_layer(name)) {
        if (layer->first >= state.config.n_layer) {
            fail(file.name(), "tensor ", detail::quoted(std::string_view(tensor.name)), ": expected ",
                 state.config.n_layer, " layers (n_layer in ",
                 detail::quoted(std::string_view(state.config_name), 4096), "), found layer ", layer->first);
        }
        if (layer->second == "attn.bias" || layer->second == "attn.masked_bias") {
            return; // the causal mask and the value behind it, constants of the computation
        }
    }
    const bool added = state.tensors
                           .emplace(name, CheckpointTensor{std::string(name), file.name(), tensor.dtype,
                                                           tensor.shape, tensor.data, file.owner()})
                           .second;
    if (!added) {
        fail(file.name(), "tensor ", detail::quoted(std::string_view(tensor.name)),
             ": expected every tensor once, found it with and without the prefix ", detail::quoted(prefix));
    }
}

/// Compares what is there with what must be there; a head beside tied embeddings is let pass.
GPT2_COLD inline void Checkpoint::check_expected(const State& state) {
    const auto list = expected_tensors(state.config, true);
    std::map<std::string_view, std::span<const std::size_t>> expected;
    for (const ExpectedTensor& tensor : list) {
        expected.emplace(tensor.name, tensor.shape);
    }
    for (const auto& [name, tensor] : state.tensors) {
        const std::string label =
            detail::concat("tensor ", detail::quoted(std::string_view(name)), ": expected ");
        const auto it = expected.find(name);
        if (it == expected.end()) {
            fail(tensor.file, label, "only the tensors of a GPT-2 language model, found this one");
        }
        check_shape(tensor.file, name, it->second, tensor.shape);
        if (tensor.dtype != Dtype::F32 && tensor.dtype != Dtype::F16 && tensor.dtype != Dtype::BF16) {
            fail(tensor.file, label, "element type F32, F16 or BF16, found ", dtype_name(tensor.dtype));
        }
    }
    for (const ExpectedTensor& tensor : list) {
        if (!state.tensors.contains(tensor.name) &&
            (tensor.name != "lm_head.weight" || state.separate_head)) {
            fail(state.model_name, "expected tensor ", detail::quoted(std::string_view(tensor.name)),
                 " of shape ", shape_text(tensor.shape), " (from ",
                 detail::quoted(std::string_view(state.config_name), 4096), "), found no such tensor");
        }
    }
}

GPT2_COLD inline void Checkpoint::check_shape(std::string_view file, std::string_view tensor,
                                              std::span<const std::size_t> expected,
                                              std::span<const std::size_t> found) {
    if (!std::ranges::equal(expected, found)) {
        const bool transposed = expected.size() == 2 &&
                                std::equal(expected.rbegin(), expected.rend(), found.begin(), found.end());
        fail(file, "tensor ", detail::quoted(tensor), ": expected shape ", shape_text(expected), ", found ",
             shape_text(found), transposed ? " (transposed)" : "");
    }
}

GPT2_COLD inline void Checkpoint::choose_head(State& state, bool tied) {
    const auto head = state.tensors.find("lm_head.weight");
    if (!tied || head == state.tensors.end()) {
        return;
    }
    const CheckpointTensor& wte = state.tensors.at("wte.weight");
    const auto same = [](std::span<const std::byte> a, std::span<const std::byte> b) {
        return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
    };
    if (head->second.dtype != wte.dtype || !same(head->second.data, wte.data)) {
        fail(head->second.file, "tensor \"lm_head.weight\": expected a copy of \"wte.weight\", because ",
             detail::quoted(std::string_view(state.config_name), 4096),
             " ties them, found other weights (\"tie_word_embeddings\": false there makes it the output "
             "head)");
    }
    state.tensors.erase(head);
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE Checkpoint Checkpoint::open_directory<void>(const std::filesystem::path&);
GPT2_INSTANCE std::shared_ptr<const Checkpoint::State>
Checkpoint::check<void>(const ConfigJson&, std::string, const std::vector<SafetensorsFile>&, std::string);
#endif

} // namespace gpt2
