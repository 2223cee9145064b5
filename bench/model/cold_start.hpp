// SPDX-License-Identifier: MIT
#pragma once

#include "../../examples/common/process.hpp"
#include "../machine.hpp"
#include "cases.hpp"
#include "subject.hpp"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

/// @file
/// The life of a process that writes one text: this program starts itself, with a converted model.

namespace gpt2::bench {

/// The first argument of such a process, for which main() calls run_child() before anything else.
inline constexpr const char* child_argument = "--child";

/// What a child found.
struct Life {
    double first_token = 0.0; ///< seconds from before its start until its first token
    double resident = 0.0;    ///< bytes in memory at its end, pages of the model's file included
    double anonymous = 0.0;   ///< those of them that no file stands behind
    double peak = 0.0;        ///< the most there ever were
};

/// A number of /proc/self/status in bytes; 0 where there is none.
[[nodiscard]] inline double memory_status(const std::string& name) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with(name + ":")) {
            return std::strtod(line.c_str() + name.size() + 1, nullptr) * 1024.0;
        }
    }
    return 0.0;
}

/// @param arguments  path of the model, number of threads (0: the default), type of the KV cache, number of
///                   tokens to write
/// Writes a line with the first token, and one with figures at the end.
inline int run_child(const std::vector<std::string>& arguments) {
    const std::size_t threads = std::stoul(arguments.at(1));
    const auto pool = threads == 0 ? ThreadPool::process_wide() : std::make_shared<ThreadPool>(threads);
    LoadOptions how;
    how.pool = pool;
    const auto model = Gpt2Model::load(arguments.at(0), how);
    SessionOptions options;
    options.pool = pool;
    if (arguments.at(2) != "auto") {
        options.kv_dtype = arguments[2] == "f16" ? KvDtype::float16 : KvDtype::float32;
    }
    Session session(model, options);
    GenerationConfig config;
    config.max_new_tokens = std::stol(arguments.at(3));
    config.ignore_eos = true;
    session.generate(some_tokens(model.config(), founding_prompt), config, [](const GeneratedToken& token) {
        if (token.index == 0) {
            std::puts("token");
            std::fflush(stdout);
        }
        return Flow::proceed;
    });
    std::printf("%.0f %.0f %.0f\n", memory_status("VmRSS"), memory_status("RssAnon"), memory_status("VmHWM"));
    return 0;
}

#if defined(__linux__)

/// Starts this program anew on a converted model.
/// @throws Error if the child fails
[[nodiscard]] inline Life run_process(const std::filesystem::path& model, std::size_t threads,
                                      const std::string& kv_dtype, std::size_t n_tokens) {
    const auto begin = Clock::now();
    Process child({this_program, child_argument, model.string(), std::to_string(threads), kv_dtype,
                   std::to_string(n_tokens)});
    Life life;
    const std::string first = child.line();
    life.first_token = seconds_since(begin);
    const std::string last = child.line();
    const int status = child.wait();
    if (status != 0 || first != "token" ||
        std::sscanf(last.c_str(), "%lf %lf %lf", &life.resident, &life.anonymous, &life.peak) != 3) {
        throw Error("cold start: the process that was started ended with status " + std::to_string(status));
    }
    return life;
}

/// The Python that the converter runs on: one with numpy.
[[nodiscard]] inline std::optional<std::string> find_python(const std::string& wanted) {
    const std::vector<std::string> candidates =
        wanted.empty() ? std::vector<std::string>{"python3", "/usr/bin/python3"} : std::vector{wanted};
    for (const std::string& candidate : candidates) {
        try {
            Process process({candidate, "-c", "try:\n import numpy\nexcept ImportError:\n exit(1)"});
            if (process.wait() == 0) {
                return candidate;
            }
        } catch (const FileError&) { // there is no such program
            continue;
        }
    }
    return std::nullopt;
}

/// The converted file of a model in that format: the model itself if it is one, else a new file in
/// @p directory. Its pages are in memory afterwards.
/// @throws Error saying why there is none
[[nodiscard]] inline std::filesystem::path converted_file(const std::filesystem::path& model,
                                                          const Format& format,
                                                          const std::filesystem::path& directory,
                                                          const std::string& wanted_python) {
    if (format.converter.empty() && std::filesystem::is_regular_file(model)) {
        return model;
    }
    if (format.converter.empty()) {
        throw OptionError("needs a converted file, or a format that convert_weights.py writes");
    }
    const auto python = find_python(wanted_python);
    if (!python) {
        throw OptionError("needs Python with numpy for convert_weights.py (--python)");
    }
    const std::string name(format.converter);
    const auto file = directory / (name + ".safetensors");
    Process converter({*python, "-B", GPT2_SOURCE_DIR "/tools/convert_weights.py", model.string(), "-o",
                       file.string(), "--dtype", name, "--quiet"});
    if (const int status = converter.wait(); status != 0) {
        throw Error("convert_weights.py --dtype " + name + " ended with status " + std::to_string(status));
    }
    return file;
}

#endif

} // namespace gpt2::bench
