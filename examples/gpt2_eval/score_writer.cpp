// SPDX-License-Identifier: MIT
#include "score_writer.hpp"

#include "escape.hpp"
#include "format.hpp"
#include "model_spec.hpp"

namespace evaluation = gpt2::evaluation;

namespace {

/// Seven decimals are what a log-probability is good for; the same in every output.
std::string decimals(double x) {
    return format("%.7f", x);
}

std::string quoted(const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class TsvWriter : public ScoreWriter {
public:
    explicit TsvWriter(const gpt2::Tokenizer& tokenizer) : ScoreWriter(tokenizer) {
        out_ = "index\toffset\tid\ttoken\tlog_probability\trank\tentropy\ttop_id\ttop_token\t"
               "top_log_probability\n";
    }

    void add(const TextToken& token) override {
        out_ += std::to_string(token.index) + '\t' + std::to_string(token.offset) + '\t' +
                std::to_string(token.id) + '\t' + escaped(token.bytes) + '\t';
        if (const auto& details = token.details) {
            const evaluation::TokenProbability& top = details->most_likely.front();
            out_ += decimals(details->log_probability) + '\t' + std::to_string(details->rank) + '\t' +
                    decimals(details->entropy) + '\t' + std::to_string(top.token) + '\t' +
                    escaped(bytes_of(top.token)) + '\t' + decimals(top.log_probability) + '\n';
        } else {
            out_ += "\t\t\t\t\t\n";
        }
    }

    void end(const evaluation::TextScore&) override {}
};

class JsonWriter : public ScoreWriter {
public:
    JsonWriter(const ScoreHeading& heading, const gpt2::Tokenizer& tokenizer) : ScoreWriter(tokenizer) {
        out_ = "{\"model\":" + quoted(heading.model) + ",\"text\":" + quoted(heading.text) + ",\"tokens\":[";
    }

    void add(const TextToken& token) override {
        out_ += is_first_ ? "\n" : ",\n";
        is_first_ = false;
        out_ += "{\"index\":" + std::to_string(token.index) + ",\"offset\":" + std::to_string(token.offset) +
                ",\"id\":" + std::to_string(token.id) + ',' + json_member(token.bytes);
        if (const auto& details = token.details) {
            out_ += ",\"log_probability\":" + decimals(details->log_probability) +
                    ",\"rank\":" + std::to_string(details->rank) +
                    ",\"entropy\":" + decimals(details->entropy) + ",\"most_likely\":[";
            for (const evaluation::TokenProbability& likely : details->most_likely) {
                out_ += &likely == &details->most_likely.front() ? "" : ",";
                out_ += "{\"id\":" + std::to_string(likely.token) + ',' +
                        json_member(bytes_of(likely.token)) +
                        ",\"log_probability\":" + decimals(likely.log_probability) + '}';
            }
            out_ += ']';
        } else {
            out_ += ",\"log_probability\":null";
        }
        out_ += '}';
    }

    void end(const evaluation::TextScore& score) override {
        const nlohmann::ordered_json totals{{"scored", score.nll.count},
                                            {"nll", to_json(score.nll.estimate())},
                                            {"perplexity", to_json(score.perplexity())},
                                            {"bits_per_byte", to_json(score.bits_per_byte())}};
        out_ += "\n]," + totals.dump().substr(1) + '\n';
    }

private:
    bool is_first_ = true;
};

} // namespace

std::unique_ptr<ScoreWriter> ScoreWriter::make(ScoreFormat format, const ScoreHeading& heading,
                                               const gpt2::Tokenizer& tokenizer) {
    switch (format) {
    case ScoreFormat::json:
        return std::make_unique<JsonWriter>(heading, tokenizer);
    case ScoreFormat::html:
        return make_html_writer(heading, tokenizer);
    case ScoreFormat::tsv:
        break;
    }
    return std::make_unique<TsvWriter>(tokenizer);
}
