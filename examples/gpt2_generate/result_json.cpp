// SPDX-License-Identifier: MIT
#include "result_json.hpp"

#include <vector>

namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson json_of(const std::vector<std::vector<gpt2::TokenLogprob>>& places) {
    OrderedJson list = OrderedJson::array();
    for (const auto& place : places) {
        OrderedJson& tokens = list.emplace_back(OrderedJson::array());
        for (const gpt2::TokenLogprob& token : place) {
            tokens.push_back({{"id", token.id}, {"logprob", token.logprob}});
        }
    }
    return list;
}

} // namespace

void add_result(OrderedJson& line, const gpt2::GenerationResult& result, std::string_view finish_reason,
                std::size_t prompt_tokens, std::uint64_t sample) {
    line["text"] = result.text;
    line["finish_reason"] = finish_reason;
    if (!result.stop_string.empty()) {
        line["stop_string"] = result.stop_string;
    }
    line["prompt_tokens"] = prompt_tokens;
    line["tokens"] = result.tokens;
    if (!result.logprobs.empty()) {
        line["logprobs"] = result.logprobs;
    }
    if (!result.top_logprobs.empty()) {
        line["top_logprobs"] = json_of(result.top_logprobs);
    }
    if (!result.prompt_logprobs.empty()) {
        line["prompt_logprobs"] = result.prompt_logprobs; // NaN, where nothing is before, is null
    }
    if (!result.prompt_top_logprobs.empty()) {
        line["prompt_top_logprobs"] = json_of(result.prompt_top_logprobs);
    }
    if (result.seed) {
        line["seed"] = *result.seed;
        line["sample"] = sample;
    }
    if (result.score) {
        line["score"] = *result.score;
    }
}

std::string to_line(const OrderedJson& line) {
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}
