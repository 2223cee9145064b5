// SPDX-License-Identifier: MIT
#include "model_spec.hpp"

#include "../common/command_line.hpp"
#include "../common/usage_error.hpp"
#include "command.hpp"

#include <gpt2/error.hpp>
#include <gpt2/io/crc32.hpp>
#include <gpt2/io/mapped_file.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <span>
#include <system_error>
#include <vector>

namespace evaluation = gpt2::evaluation;

ModelSpec ModelSpec::parse(const std::string& text) {
    std::error_code ignored;
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos || std::filesystem::exists(text, ignored)) {
        return {.path = text, .weights = {}, .head = {}};
    }
    const std::string formats = text.substr(colon + 1);
    const std::string weights = formats.substr(0, formats.find('/'));
    const std::string head = formats.substr(std::min(weights.size() + 1, formats.size()));
    const ModelSpec spec{
        .path = text.substr(0, colon), .weights = weight_type(weights), .head = weight_type(head)};
    if ((weights.empty() && head.empty()) || spec.weights.has_value() == weights.empty() ||
        spec.head.has_value() == head.empty()) {
        throw UsageError("model " + gpt2::detail::quoted(text, 4096) +
                         ": there is no such file, and what follows the colon is no format; expected "
                         "WEIGHTS, WEIGHTS/HEAD or /HEAD of float32, float16, bfloat16, int8 and int4");
    }
    return spec;
}

std::string ModelSpec::name() const {
    const auto text = [](const auto& type) { return type ? std::string(to_string(*type)) : std::string(); };
    return path.string() + (weights || head ? ":" : "") + text(weights) + (head ? "/" : "") + text(head);
}

gpt2::Gpt2Model ModelSpec::load(const std::shared_ptr<gpt2::ThreadPool>& pool) const {
    gpt2::LoadOptions options;
    options.weights = weights;
    options.head = head;
    options.pool = pool;
    return gpt2::Gpt2Model::load(path, options);
}

void ModelOptions::add_to(CLI::App& app) {
    app.add_option("model", model,
                   "The model: a converted file or a Hugging Face directory; with :WEIGHTS or\n"
                   ":WEIGHTS/HEAD behind it rounded to these formats while loading")
        ->type_name("MODEL")
        ->required();
    app.add_option("--weights", weights,
                   "Format of the weights in memory: float32 (f32), float16 (f16), bfloat16 (bf16),\n"
                   "int8 or int4, rounded to nearest (default: that of the file)")
        ->transform(weight_type_name())
        ->type_name("FORMAT");
    app.add_option("--head-weights", head_weights,
                   "Format of the output head and the embeddings tied to it\n"
                   "(default: as --weights, but int8 where that is int4)")
        ->transform(weight_type_name())
        ->type_name("FORMAT");
    add_threads(app, threads);
}

ModelSpec ModelOptions::spec() const {
    ModelSpec spec = ModelSpec::parse(model);
    if ((spec.weights || spec.head) && !(weights.empty() && head_weights.empty())) {
        throw UsageError("model " + gpt2::detail::quoted(model, 4096) +
                         " names formats, and so do --weights or --head-weights; expected one of both");
    }
    spec.weights = spec.weights ? spec.weights : weight_type(weights);
    spec.head = spec.head ? spec.head : weight_type(head_weights);
    return spec;
}

void add_threads(CLI::App& app, std::optional<std::int64_t>& threads) {
    app.add_option("--threads", threads, "Threads to compute with (default: one for each core)")
        ->type_name("N")
        ->transform(integer<std::int64_t>());
}

std::shared_ptr<gpt2::ThreadPool> pool_of(const std::optional<std::int64_t>& threads) {
    if (!threads) {
        return gpt2::ThreadPool::process_wide();
    }
    if (*threads < 1) {
        throw UsageError("--threads is " + std::to_string(*threads) + ", expected 1 or more");
    }
    return std::make_shared<gpt2::ThreadPool>(static_cast<std::size_t>(*threads));
}

void TextOptions::add_to(CLI::App& app) {
    const auto add = [&](const char* option, std::int64_t& target, const char* help) {
        app.add_option(option, target, help)->type_name("N")->transform(integer<std::int64_t>());
    };
    add("--window", window, "Tokens that the model reads at once (default: its positions)");
    add("--stride", stride,
        "From the beginning of a window to that of the next, at most the window\n(default: the window). Each "
        "token is scored once, after the first window with at\nleast window - stride + 1 tokens before it");
    add("--limit", limit, "Score at most so many tokens, from the beginning");
    app.add_flag("--no-start-token", no_start_token,
                 "Do not put <|endoftext|> before the text; its first token is then not scored");
}

evaluation::WindowOptions TextOptions::windows() const {
    const auto size = [](const char* option, std::int64_t value) {
        if (value < 0) {
            throw UsageError(std::string(option) + " is " + std::to_string(value) + ", expected 1 or more");
        }
        return static_cast<std::size_t>(value);
    };
    return {.window = size("--window", window),
            .stride = size("--stride", stride),
            .start_token = !no_start_token,
            .limit = size("--limit", limit)};
}

std::string checksum(std::string_view bytes) {
    char digits[16];
    std::snprintf(digits, sizeof digits, "%08x", gpt2::detail::crc32(std::as_bytes(std::span(bytes))));
    return digits;
}

std::string checksum_of(const std::filesystem::path& path) {
    if (!std::filesystem::is_directory(path)) {
        return checksum(gpt2::MappedFile::open(path).text());
    }
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
        if (entry.is_regular_file()) {
            files.push_back(entry.path());
        }
    }
    std::ranges::sort(files);
    std::string all;
    for (const auto& file : files) {
        all += file.filename().string() + " " + checksum_of(file) + "\n";
    }
    return checksum(all);
}

nlohmann::ordered_json identity_of(const ModelSpec& spec, const gpt2::Gpt2Model& model, std::string_view text,
                                   const evaluation::WindowOptions& windows) {
    const auto format = [](const std::optional<gpt2::WeightType>& type) {
        return type ? std::string(to_string(*type)) : std::string("default");
    };
    return {{"model", checksum_of(spec.path)},
            {"weights", format(spec.weights)},
            {"head_weights", format(spec.head)},
            {"text", checksum(text)},
            {"window", windows.window},
            {"stride", windows.stride},
            {"start_token", windows.start_token},
            {"limit", windows.limit},
            {"arithmetic", model.isa() == gpt2::Isa::portable ? "portable" : "fused"}};
}

void require_same(const std::filesystem::path& file, const nlohmann::json& found,
                  const nlohmann::json& expected) {
    for (const auto& [key, value] : expected.items()) {
        const nlohmann::json other =
            found.is_object() ? found.value(key, nlohmann::json()) : nlohmann::json();
        if (other != value) {
            throw gpt2::FormatError(gpt2::detail::quoted(file.string(), 4096) + ": made with another " + key +
                                    ": expected " + value.dump() + ", found " + other.dump());
        }
    }
}

nlohmann::ordered_json to_json(const evaluation::Estimate& estimate) {
    return {{"value", estimate.value}, {"standard_error", estimate.standard_error}};
}
