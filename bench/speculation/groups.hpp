// SPDX-License-Identifier: MIT
#pragma once

#include "../model/subject.hpp"
#include "imposed_drafter.hpp"
#include "options.hpp"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// What is measured, and how one text is.

namespace gpt2::bench {

/// A way to write the texts of a group.
struct Case {
    std::string name;
    std::size_t proposals;
    GenerationConfig config;
    std::optional<double> rate{}; ///< imposed
};

/// Cases that are held against one plain run, which takes turns with them.
struct Group {
    std::string kind; ///< text or imposed
    std::string model;
    std::string name;
    Gpt2Model writer;
    std::vector<std::vector<TokenId>> prompts;
    GenerationConfig plain;
    std::vector<Case> cases{};
};

/// The texts of a group, once.
struct Writing {
    double seconds = 0.0;   ///< from the first token of each to its last
    std::size_t tokens = 0; ///< in that time
    Speculation speculation{};
    std::vector<std::vector<TokenId>> texts{};

    [[nodiscard]] double rate() const { return static_cast<double>(tokens) / seconds; }
};

[[nodiscard]] inline Writing write_texts(const Group& group, GenerationConfig config,
                                         const std::shared_ptr<ThreadPool>& pool) {
    Writing writing;
    for (std::size_t i = 0; i < group.prompts.size(); ++i) {
        if (config.do_sample) {
            config.seed = i + 1;
        }
        SessionOptions options;
        options.pool = pool;
        Session session(group.writer, options);
        GenerationResult result = session.generate(group.prompts[i], config);
        const std::size_t n = result.tokens.size() - 1;
        writing.seconds += result.tpot.count() * static_cast<double>(n);
        writing.tokens += n;
        writing.speculation.proposed += result.speculation.proposed;
        writing.speculation.accepted += result.speculation.accepted;
        writing.speculation.passes += result.speculation.passes;
        writing.texts.push_back(std::move(result.tokens));
    }
    return writing;
}

/// A trained model, greedy and sampled.
[[nodiscard]] inline std::vector<Group> text_groups(const Options& options,
                                                    const std::shared_ptr<ThreadPool>& pool) {
    LoadOptions how;
    how.pool = pool;
    const auto model = Gpt2Model::load(options.model, how);
    how.weights = WeightType::int4;
    const auto draft = std::make_shared<DraftModel>(Gpt2Model::load(options.model, how));
    std::vector<std::vector<TokenId>> prompts;
    for (const std::string_view prompt :
         {"There was once a poor woodcutter who", "It was a dark and stormy night, and",
          "\"Who goes there?\" said the king. \"It is I,\" said the fool. \"Who goes there?\" said the "
          "queen.",
          "The old house stood at the end of the lane,"}) {
        prompts.push_back(model.encode_prompt(prompt));
    }
    std::vector<Group> groups;
    for (const bool drawn : {false, true}) {
        GenerationConfig plain;
        plain.max_new_tokens = static_cast<std::int64_t>(options.new_tokens);
        plain.ignore_eos = true;
        if (drawn) {
            plain.do_sample = true;
            plain.temperature = 0.8f;
            plain.top_k = 40;
        }
        Group group{"text", options.model.stem().string(), drawn ? "sampled" : "greedy", model, prompts,
                    plain};
        for (const std::size_t n : options.proposals) {
            Case lookup{"prompt lookup", n, plain};
            lookup.config.prompt_lookup_num_tokens = static_cast<std::int64_t>(n);
            group.cases.push_back(std::move(lookup));
            Case assisted{"itself in int4", n, plain};
            assisted.config.assistant_model = draft;
            assisted.config.num_assistant_tokens = static_cast<std::int64_t>(n);
            group.cases.push_back(std::move(assisted));
        }
        groups.push_back(std::move(group));
    }
    return groups;
}

/// A model of random weights, with imposed rates.
[[nodiscard]] inline std::vector<Group> imposed_groups(const Options& options,
                                                       const std::shared_ptr<ThreadPool>& pool) {
    LoadOptions how;
    how.pool = pool;
    const auto load = [&](const Config& config) { // the weights are in memory, so the files may go
        const TemporaryDirectory directory;
        write_model(directory.path(), config);
        return Gpt2Model::load(directory.path(), how);
    };
    const Config shape = tools::config_by_name(options.size).value();
    Config draft_shape = tools::config_by_name(options.draft).value();
    draft_shape.vocab_size = shape.vocab_size;
    draft_shape.n_positions = shape.n_positions;
    draft_shape.bos_token_id = draft_shape.eos_token_id = shape.eos_token_id;
    const Gpt2Model model = load(shape);
    const Gpt2Model draft = load(draft_shape);
    GenerationConfig plain;
    plain.max_new_tokens = static_cast<std::int64_t>(options.new_tokens);
    plain.ignore_eos = true;
    const std::vector<TokenId> prompt = some_tokens(shape, 13);
    std::vector<Group> groups;
    std::vector<TokenId> whole;
    for (const bool runs : {false, true}) {
        for (const std::size_t n : options.proposals) {
            Group group{"imposed", options.size, runs ? options.draft : "no cost", model, {prompt}, plain};
            if (whole.empty()) {
                whole = prompt;
                const auto text = write_texts(group, plain, pool).texts.front();
                whole.insert(whole.end(), text.begin(), text.end());
            }
            for (const double rate : options.rates) {
                Case imposed{"imposed", n, plain, rate};
                imposed.config.assistant_model =
                    std::make_shared<ImposedDrafter>(whole, rate, runs ? std::optional(draft) : std::nullopt);
                imposed.config.num_assistant_tokens = static_cast<std::int64_t>(n);
                group.cases.push_back(std::move(imposed));
            }
            groups.push_back(std::move(group));
        }
    }
    return groups;
}

} // namespace gpt2::bench
