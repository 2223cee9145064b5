// SPDX-License-Identifier: MIT
#include "command.hpp"
#include "data_set_run.hpp"
#include "format.hpp"

#include <memory>

namespace evaluation = gpt2::evaluation;

namespace {

struct ChoiceOptions : DataSetOptions {
    bool harness = false;
};

nlohmann::ordered_json choice_details(const evaluation::Example& example,
                                      std::span<const evaluation::ChoiceScore> choices) {
    using evaluation::ChoiceScore;
    nlohmann::ordered_json out{{"chosen", best_choice(choices, &ChoiceScore::log_probability)},
                               {"chosen_per_character", best_choice(choices, &ChoiceScore::per_character)},
                               {"chosen_per_token", best_choice(choices, &ChoiceScore::per_token)}};
    out.update(scores_of(example, choices));
    return out;
}

nlohmann::ordered_json json_of(const evaluation::AccuracyScore& score) {
    return {{"acc", to_json(score.accuracy())},
            {"acc_norm_per_character", to_json(score.accuracy_per_character())},
            {"acc_norm_per_token", to_json(score.accuracy_per_token())},
            {"chance", score.chance()}};
}

std::string text_of(const evaluation::AccuracyScore& score) {
    std::string out = "acc          " + percent(score.accuracy()) + "\n";
    out += "acc_norm     " + percent(score.accuracy_per_character()) +
           " per character (lm-evaluation-harness)\n";
    out += "             " + percent(score.accuracy_per_token()) + " per token (llm.c)\n";
    out += format("chance       %.2f %%\n", 100.0 * score.chance());
    return out;
}

int run_choice(const ChoiceOptions& options) {
    evaluation::AccuracyScore score;
    return run_data_set(
        options,
        {.read = options.harness ? evaluation::read_harness_choice : evaluation::read_choice,
         .add =
             [&](const auto& example, auto choices) {
                 score.add(choices, example.label);
                 return choice_details(example, choices);
             },
         .running_value = [&] { return "acc_norm per token " + percent(score.accuracy_per_token()); },
         .json = [&] { return json_of(score); },
         .text = [&] { return text_of(score); }});
}

} // namespace

Command add_choice(CLI::App& app) {
    const auto o = std::make_shared<ChoiceOptions>();
    CLI::App* const command = app.add_subcommand("choice", "How often the right ending of several is chosen");
    o->add_to(*command, "Lines of JSON: HellaSwag's {\"ctx\", \"endings\", \"label\"} or\n"
                        "{\"context\" or \"question\", \"choices\", \"label\"}");
    command->add_flag("--harness", o->harness,
                      "Take HellaSwag as lm-evaluation-harness does: \"activity_label: ctx_a Ctx_b\",\n"
                      "brackets removed");
    command->footer(R"(
`acc` compares log-probabilities of endings, `acc_norm` their means: per character as lm-evaluation-harness,
per token as llm.c. To compare with published figures for GPT-2 124M on hellaswag_val.jsonl:
  without --harness   llm.c: acc 28.59 %, acc_norm per token 29.55 %
  with --harness      lm-evaluation-harness: acc 28.92 %, acc_norm per character 31.14 %)");
    return {command, [o] { return run_choice(*o); }};
}
