// SPDX-License-Identifier: MIT
#include "command.hpp"
#include "data_set_run.hpp"
#include "format.hpp"

#include <memory>

namespace evaluation = gpt2::evaluation;

namespace {

nlohmann::ordered_json cloze_details(const evaluation::Example& example,
                                     std::span<const evaluation::ChoiceScore> choices) {
    nlohmann::ordered_json out{{"chosen", best_choice(choices, &evaluation::ChoiceScore::log_probability)}};
    out.update(scores_of(example, choices));
    return out;
}

int run_cloze(const DataSetOptions& options) {
    evaluation::AccuracyScore score;
    return run_data_set(options,
                        {.read = evaluation::read_cloze,
                         .add =
                             [&](const auto& example, auto choices) {
                                 score.add(choices, example.label);
                                 return cloze_details(example, choices);
                             },
                         .running_value = [&] { return "accuracy " + percent(score.accuracy()); },
                         .json =
                             [&] {
                                 return nlohmann::ordered_json{{"accuracy", to_json(score.accuracy())},
                                                               {"chance", score.chance()}};
                             },
                         .text =
                             [&] {
                                 return "accuracy     " + percent(score.accuracy()) +
                                        format("\nchance       %.2f %%\n", 100.0 * score.chance());
                             }});
}

} // namespace

Command add_cloze(CLI::App& app) {
    const auto o = std::make_shared<DataSetOptions>();
    CLI::App* const command = app.add_subcommand("cloze", "How often the right word for a blank is chosen");
    o->add_to(*command,
              "Lines of JSON: {\"text\" or \"question\", \"candidates\" or \"options\", \"answer\"}, with\n"
              "\"context\" or \"sentences\" before the question; the blank is XXXXX, [MASK] or _");
    command->footer(R"(
Each candidate is put into the blank; the most probable text wins, what follows the blank included. So the
GPT-2 paper does with the Children's Book Test, validation set: 87.65 % of common nouns and 83.4 % of named
entities for GPT-2 124M, after bringing the text into its natural form, which is left to the user here.)");
    return {command, [o] { return run_cloze(*o); }};
}
