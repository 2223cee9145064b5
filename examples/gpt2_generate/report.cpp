// SPDX-License-Identifier: MIT
#include "report.hpp"

#include "../common/format.hpp"
#include "../common/terminal.hpp"
#include "result_json.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace {

std::string_view finish_reason(const Sample& sample) {
    return sample.interrupted ? std::string_view("interrupted")
                              : gpt2::to_string(sample.result.finish_reason);
}

std::string screening_text(const gpt2::Screening& s) {
    if (s.tokens == 0) {
        return "screening  none: all logits were needed, or too many were close\n";
    }
    const auto tokens = static_cast<double>(s.tokens);
    return format("screening  %zu tokens, for each %.1f of %.0f panels of the output head computed exactly\n",
                  s.tokens, static_cast<double>(s.panels) / tokens, static_cast<double>(s.all) / tokens);
}

/// Probabilities from which on a colour of the 256 of a terminal holds.
struct Colour {
    double least;
    int number;
};
constexpr Colour colours[] = {{0.5, 34}, {0.2, 70}, {0.1, 142}, {0.05, 178}, {0.01, 172}, {0.0, 160}};

std::string in_colour(int number, std::string_view text) {
    return "\x1b[38;5;" + std::to_string(number) + "m" + std::string(text) + "\x1b[0m";
}

std::string speculation_text(const gpt2::GenerationResult& r) {
    const gpt2::Speculation& s = r.speculation;
    const double share =
        s.proposed == 0 ? 0.0 : static_cast<double>(s.accepted) / static_cast<double>(s.proposed);
    return format("accepted   %zu of %zu proposed tokens (%.1f %%), %.2f tokens for each of %zu passes\n",
                  s.accepted, s.proposed, share * 100.0,
                  static_cast<double>(r.tokens.size() - 1) / static_cast<double>(s.passes), s.passes);
}

/// Tokens, each with its log-probability, if these are known, and those of the most probable in its place.
std::string table(std::span<const gpt2::TokenId> tokens, std::span<const float> logprobs,
                  std::span<const std::vector<gpt2::TokenLogprob>> top, const gpt2::Tokenizer& tokenizer) {
    const auto text_of = [&](gpt2::TokenId id) { return gpt2::detail::quoted(tokenizer.token_bytes(id)); };
    std::string out = "   id  log p  token\n";
    double sum = 0.0;
    std::size_t n = 0;
    for (std::size_t i = 0; i < logprobs.size(); ++i) {
        const auto logprob = static_cast<double>(logprobs[i]);
        const bool is_known = !std::isnan(logprob); // else nothing is before it
        sum += is_known ? logprob : 0.0;
        n += is_known ? 1 : 0;
        out += format("%5d ", tokens[i]) + (is_known ? format("%6.2f  ", logprob) : "     -  ") +
               text_of(tokens[i]);
        for (std::size_t k = 0; i < top.size() && k < top[i].size(); ++k) {
            out += (k == 0 ? "  of " : ", ") + text_of(top[i][k].id) +
                   format(" %.2f", static_cast<double>(top[i][k].logprob));
        }
        out += "\n";
    }
    if (n > 0) {
        out += format("%zu tokens, log p %.2f, perplexity %.2f\n", n, sum,
                      std::exp(-sum / static_cast<double>(n)));
    }
    return out;
}

double per_second(double seconds) {
    return seconds > 0.0 ? 1.0 / seconds : 0.0;
}

} // namespace

std::string stats_text(const Machine& machine, const Sample& sample) {
    const gpt2::GenerationResult& r = sample.result;
    const double tpot = r.tpot.count();
    std::string out = "model      " + machine.model + ", weights " + machine.weights + ", KV cache " +
                      machine.kv_dtype + ", " + machine.isa + ", " + std::to_string(machine.threads) +
                      (machine.threads == 1 ? " thread\n" : " threads\n");
    out += format("load       %.1f ms\n", machine.load_seconds * 1e3);
    out += format("prompt     %zu tokens, time to first token %.2f ms%s\n", sample.prompt_tokens,
                  r.ttft.count() * 1e3, sample.prompt_was_read ? " (prompt read before)" : "");
    out += format("text       %zu tokens in %.3f s", r.tokens.size(), r.total.count());
    if (tpot > 0.0) {
        out += format(", %.3f ms per token after the first, %.1f tokens/s", tpot * 1e3, 1.0 / tpot);
    }
    out += "\n";
    if (r.speculation.passes > 0) {
        out += speculation_text(r);
    }
    if (machine.screen_head) {
        out += screening_text(r.screening);
    } else if (tpot > 0.0 && r.speculation.passes == 0) { // a pass for each token
        out += format("bandwidth  %.2f GB/s (%.1f MB of weights per token)\n",
                      static_cast<double>(machine.weight_bytes) / tpot * 1e-9,
                      static_cast<double>(machine.weight_bytes) * 1e-6);
    }
    out += format("memory     %.1f MB at most\n", static_cast<double>(peak_memory()) * 1e-6);
    out += "finished   " + std::string(finish_reason(sample));
    if (r.seed) {
        out += format(", seed %llu, sample %llu", static_cast<unsigned long long>(*r.seed),
                      static_cast<unsigned long long>(sample.number));
    }
    if (r.score) {
        out += format(", score %.4f", *r.score);
    }
    return out + "\n";
}

std::string coloured(std::string_view text, float logprob) {
    const double p = std::exp(static_cast<double>(logprob));
    const Colour* const found =
        std::ranges::find_if(colours, [p](const Colour& colour) { return p >= colour.least; });
    return in_colour(found->number, text);
}

std::string colours_text() {
    std::string out = "probability";
    for (const Colour& colour : colours) {
        const std::string name = colour.least > 0.0 ? format("at least %g %%", colour.least * 100.0) : "less";
        out += ' ' + in_colour(colour.number, name);
    }
    return out + '\n';
}

std::string logprobs_text(const Sample& sample, const gpt2::Tokenizer& tokenizer) {
    const gpt2::GenerationResult& r = sample.result;
    std::string out;
    if (!r.prompt_logprobs.empty()) {
        out += "The prompt:\n" + table(sample.context.last(r.prompt_logprobs.size()), r.prompt_logprobs,
                                       r.prompt_top_logprobs, tokenizer);
        if (r.logprobs.empty()) {
            return out;
        }
        out += "The text:\n";
    }
    return out + table(r.tokens, r.logprobs, r.top_logprobs, tokenizer);
}

std::string json_line(const Machine& machine, const Sample& sample, bool with_stats) {
    const gpt2::GenerationResult& r = sample.result;
    nlohmann::ordered_json line;
    line["prompt"] = sample.prompt;
    add_result(line, r, finish_reason(sample), sample.prompt_tokens, sample.number);
    if (with_stats) {
        const double tpot = r.tpot.count();
        line["stats"] = {{"model", machine.model},
                         {"weights", machine.weights},
                         {"kv_dtype", machine.kv_dtype},
                         {"isa", machine.isa},
                         {"threads", machine.threads},
                         {"load_s", machine.load_seconds},
                         {"ttft_s", r.ttft.count()},
                         {"prompt_was_read", sample.prompt_was_read},
                         {"tpot_s", tpot},
                         {"total_s", r.total.count()},
                         {"tokens_per_s", per_second(tpot)},
                         {"peak_memory_bytes", peak_memory()}};
        if (const gpt2::Speculation& s = r.speculation; s.passes > 0) {
            line["stats"]["speculation"] = {
                {"proposed", s.proposed}, {"accepted", s.accepted}, {"passes", s.passes}};
        }
        if (!machine.screen_head && r.speculation.passes == 0) {
            line["stats"]["weight_bytes_per_token"] = machine.weight_bytes;
            line["stats"]["bytes_per_s"] = static_cast<double>(machine.weight_bytes) * per_second(tpot);
        }
        if (machine.screen_head) {
            line["stats"]["screening"] = {{"tokens", r.screening.tokens},
                                          {"panels", r.screening.panels},
                                          {"all_panels", r.screening.all}};
        }
    }
    return to_line(line);
}
