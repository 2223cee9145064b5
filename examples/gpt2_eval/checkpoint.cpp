// SPDX-License-Identifier: MIT
#include "checkpoint.hpp"

#include "model_spec.hpp"
#include "output.hpp"

#include <gpt2/error.hpp>

#include <fstream>
#include <utility>

namespace {

nlohmann::ordered_json json_of(const gpt2::evaluation::TextScore& score) {
    return {{"tokens", score.nll.count}, {"mean_nll", score.nll.mean}, {"squares", score.nll.squares},
            {"bytes", score.bytes},      {"words", score.words},       {"inside_word", score.inside_word},
            {"windows", score.windows}};
}

gpt2::evaluation::TextScore score_of(const nlohmann::json& json) {
    gpt2::evaluation::TextScore score;
    json.at("tokens").get_to(score.nll.count);
    json.at("mean_nll").get_to(score.nll.mean);
    json.at("squares").get_to(score.nll.squares);
    json.at("bytes").get_to(score.bytes);
    json.at("words").get_to(score.words);
    json.at("inside_word").get_to(score.inside_word);
    json.at("windows").get_to(score.windows);
    return score;
}

} // namespace

Checkpoint::Checkpoint(std::filesystem::path path, nlohmann::ordered_json identity)
    : path_(std::move(path)), identity_(std::move(identity)) {}

gpt2::evaluation::TextScore Checkpoint::load() const {
    if (!std::filesystem::exists(path_)) {
        return {};
    }
    std::ifstream in(path_, std::ios::binary);
    try {
        const auto json = nlohmann::json::parse(in);
        require_same(path_, json.at("of"), identity_);
        return score_of(json.at("score"));
    } catch (const nlohmann::json::exception& e) {
        throw gpt2::FormatError(gpt2::detail::quoted(path_.string(), 4096) +
                                ": expected a checkpoint of gpt2-eval, found " + e.what());
    }
}

void Checkpoint::save(const gpt2::evaluation::TextScore& score) const {
    const nlohmann::ordered_json json{{"of", identity_}, {"score", json_of(score)}};
    replace_file(path_, json.dump(2) + "\n");
}
