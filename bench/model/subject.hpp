// SPDX-License-Identifier: MIT
#pragma once

#include "../../tools/byte_vocabulary.hpp"
#include "../../tools/random_model.hpp"
#include "formats.hpp"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

/// @file
/// What is measured: a model in one format, and how much it has to read and to compute.

namespace gpt2::bench {

/// A directory that is gone with the object.
class TemporaryDirectory {
public:
    TemporaryDirectory()
        : path_(std::filesystem::temp_directory_path() /
                ("gpt2-bench-" + std::to_string(std::random_device{}()))) {
        std::filesystem::create_directories(path_);
    }
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

private:
    std::filesystem::path path_;
};

/// Writes a model of random weights in float16.
inline void write_model(const std::filesystem::path& directory, const Config& config) {
    tools::RandomModelOptions how;
    how.dtype = Dtype::F16;
    tools::write_random_model(directory, config, how);
    tools::write_byte_vocabulary(directory, config);
}

/// The same. @param size a name that config_by_name() knows
inline void write_model(const std::filesystem::path& directory, const std::string& size) {
    write_model(directory, tools::config_by_name(size).value());
}

/// The same tokens at every call.
[[nodiscard]] inline std::vector<TokenId> some_tokens(const Config& config, std::size_t n) {
    std::vector<TokenId> tokens(n);
    for (std::size_t i = 0; i < n; ++i) {
        tokens[i] = static_cast<TokenId>((i * 7919 + 17) % config.vocab_size);
    }
    return tokens;
}

/// A model in one format.
struct Subject {
    std::string size; ///< its name
    const Format* format;
    Gpt2Model model;
    std::shared_ptr<ThreadPool> pool;
    std::optional<KvDtype> kv_dtype;

    [[nodiscard]] SessionOptions session_options() const {
        SessionOptions options;
        options.pool = pool;
        if (kv_dtype) {
            options.kv_dtype = *kv_dtype;
        }
        return options;
    }
    [[nodiscard]] Session session() const { return Session(model, session_options()); }
};

/// Floating-point operations on @p n tokens of one sequence, the first with @p depth before it: two for each
/// weight of the blocks; for each position that attention looks back to, two for each of C products with
/// keys and with values; and two for each weight of the head, after the last token.
[[nodiscard]] inline double flop(const Config& config, std::size_t depth, std::size_t n) {
    const auto C = static_cast<double>(config.n_embd);
    const auto F = static_cast<double>(config.n_inner);
    const auto tokens = static_cast<double>(n);
    const double mean_context = static_cast<double>(depth) + (tokens + 1.0) / 2.0;
    const double block = 2.0 * C * (4.0 * C + 2.0 * F) + 4.0 * C * mean_context;
    return tokens * static_cast<double>(config.n_layer) * block +
           2.0 * C * static_cast<double>(config.vocab_size);
}

} // namespace gpt2::bench
