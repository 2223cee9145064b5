// SPDX-License-Identifier: MIT
#include "command.hpp"
#include "data_set_run.hpp"
#include "format.hpp"

#include <memory>

namespace evaluation = gpt2::evaluation;

namespace {

nlohmann::ordered_json lambada_details(const evaluation::Example& example,
                                       const evaluation::ChoiceScore& word) {
    return {{"word", example.choices[0]},
            {"correct", word.is_first},
            {"score", word.log_probability},
            {"tokens", word.tokens},
            {"last_token_correct", word.last_token.is_first},
            {"last_token_score", word.last_token.log_probability}};
}

nlohmann::ordered_json json_of(const evaluation::LastWordScore& score) {
    return {{"accuracy", to_json(score.accuracy())},
            {"perplexity", to_json(score.perplexity())},
            {"last_token_accuracy", to_json(score.last_token_accuracy())},
            {"last_token_perplexity", to_json(score.last_token_perplexity())}};
}

std::string text_of(const evaluation::LastWordScore& score) {
    std::string out = "accuracy     " + percent(score.accuracy()) + " of the last words\n";
    out += "             " + percent(score.last_token_accuracy()) + " of the last tokens\n";
    out += "perplexity   " + with_error(score.perplexity(), 4) + " per last word\n";
    out += "             " + with_error(score.last_token_perplexity(), 4) + " per last token\n";
    return out;
}

int run_lambada(const DataSetOptions& options) {
    evaluation::LastWordScore score;
    return run_data_set(options, {.read = evaluation::read_last_word,
                                  .read_plain = evaluation::read_plain_last_word,
                                  .add =
                                      [&](const auto& example, auto choices) {
                                          score.add(choices[0]);
                                          return lambada_details(example, choices[0]);
                                      },
                                  .running_value = [&] { return "accuracy " + percent(score.accuracy()); },
                                  .json = [&] { return json_of(score); },
                                  .text = [&] { return text_of(score); }});
}

} // namespace

Command add_lambada(CLI::App& app) {
    const auto o = std::make_shared<DataSetOptions>();
    CLI::App* const command =
        app.add_subcommand("lambada", "How well the last words of passages are foreseen");
    o->add_to(*command, "Passages: lines of JSON, {\"text\": \"...\"}, as OpenAI's lambada_test.jsonl,\n"
                        "or lines of text");
    command->footer(R"(
The last word is what follows the last space. `accuracy` of the last words, all tokens right, and
`perplexity` per last word are those of lm-evaluation-harness, task lambada_openai: 32.56 % and 40.06 for
GPT-2 124M. `accuracy` of the last tokens is the easier task of whoever compares tokens. The GPT-2 paper's
45.99 % are with a filter for stop words whose list was not published; there is none here.)");
    return {command, [o] { return run_lambada(*o); }};
}
