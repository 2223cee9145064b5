// SPDX-License-Identifier: MIT
#include "job.hpp"

#include "../common/usage_error.hpp"
#include "words.hpp"

#include <gpt2/error.hpp>
#include <gpt2/generation_checks.hpp>
#include <gpt2/io/json.hpp>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

using gpt2::detail::Json;
using gpt2::detail::JsonObject;

namespace {

/// The members that are no options.
constexpr std::array<std::string_view, 3> own_members{"prompt", "prompt_tokens", "id"};

/// A value as on the command line.
std::string text_of(const JsonObject& object, std::string_view key, const Json& value) {
    if (value.is_string()) {
        return value.get<std::string>();
    }
    if (!value.is_number() && !value.is_boolean()) {
        object.fail(key, "a string or a number", value);
    }
    return value.dump();
}

/// What a member sets. @param option  the one that it names
WrittenOption written(const JsonObject& object, const std::string& key, const Json& value,
                      const CLI::Option& option) {
    WrittenOption out{option.get_lnames().front(), {}};
    if (is_flag(option)) {
        if (!value.is_boolean()) {
            object.fail(key, "true or false", value);
        }
        out.is_off = !value.get<bool>();
    } else if (value.is_array() && takes_several(option)) {
        for (const Json& element : value) {
            out.values.push_back(text_of(object, key, element));
        }
        out.is_off = value.empty();
    } else {
        out.values.push_back(text_of(object, key, value));
    }
    return out;
}

} // namespace

std::vector<JobLine> job_lines(std::string_view text) {
    std::vector<JobLine> lines;
    std::size_t number = 0;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = text.substr(begin, end - begin);
        ++number;
        if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
            lines.push_back({number, line});
        }
        begin = end + 1;
    }
    return lines;
}

JobReader::JobReader(const gpt2::Gpt2Model& model, std::vector<WrittenOption> defaults, std::string name)
    : model_(model), defaults_(std::move(defaults)), name_(std::move(name)) {}

Job JobReader::read(const JobLine& line) const {
    Job job{.where = gpt2::detail::concat(gpt2::detail::quoted(name_, 4096), ": line ", line.number)};
    try {
        const Json json = gpt2::detail::parse_json_at(line.text, job.where);
        read(JsonObject(json, job.where), job);
    } catch (const gpt2::FormatError& e) { // which names the line
        job.error = e.what();
    } catch (const std::exception& e) {
        job.error = job.where + ": " + e.what();
    }
    return job;
}

void JobReader::read(const JsonObject& object, Job& job) const {
    if (const Json* const id = object.find("id")) {
        if (!id->is_string() && !id->is_number()) {
            object.fail("id", "a string or a number", *id);
        }
        job.id = *id;
    }
    GenerationOptions read = GenerationApp().parse(options(object));
    gpt2::GenerationConfig& config = read.generation;
    if (config.num_return_sequences != 1) {
        throw UsageError(gpt2::detail::concat("num_return_sequences is ", config.num_return_sequences,
                                              ", expected 1: a line has one text"));
    }
    resolve(read.words, model_.tokenizer(), config);
    gpt2::validate(config, model_.config());
    job.request.config = std::move(config);
    read_prompt(object, job);
    gpt2::require_room(job.request.prompt.size(), job.request.config, model_.config());
}

void JobReader::read_prompt(const JsonObject& object, Job& job) const {
    const Json* const tokens = object.find("prompt_tokens");
    const std::optional<std::string> prompt = object.string("prompt");
    if (prompt.has_value() == (tokens != nullptr)) {
        throw UsageError(std::string("expected one of \"prompt\" and \"prompt_tokens\", found ") +
                         (prompt ? "both" : "none"));
    }
    if (prompt) {
        job.request.prompt = model_.encode_prompt(*prompt);
        return;
    }
    if (!tokens->is_array() || tokens->empty()) {
        object.fail("prompt_tokens", "a list of at least one token", *tokens);
    }
    const std::size_t vocab_size = model_.config().vocab_size;
    for (const Json& token : *tokens) {
        const std::optional<std::size_t> id = JsonObject::to_size(token);
        if (!id || *id >= vocab_size) {
            object.fail("prompt_tokens", gpt2::detail::concat("token ids below ", vocab_size), token);
        }
        job.request.prompt.push_back(static_cast<gpt2::TokenId>(*id));
    }
}

std::vector<WrittenOption> JobReader::options(const JsonObject& object) const {
    std::vector<WrittenOption> own;
    for (const auto& [key, value] : object.json().items()) {
        if (std::ranges::find(own_members, key) != own_members.end()) {
            continue;
        }
        const CLI::Option* const option = known_.find(key);
        if (option == nullptr) {
            object.fail(
                key, "\"prompt\", \"prompt_tokens\", \"id\" or the name of an option of generation as a key",
                std::string_view("none of them"));
        }
        own.push_back(written(object, key, value, *option));
    }
    return known_.overridden(defaults_, std::move(own));
}
