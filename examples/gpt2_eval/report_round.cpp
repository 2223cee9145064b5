// SPDX-License-Identifier: MIT
#include "report_round.hpp"

#include "../common/command_line.hpp"
#include "../common/process.hpp"
#include "../common/terminal.hpp"
#include "command.hpp"
#include "format.hpp"

#include <gpt2/error.hpp>
#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace {

constexpr const char* round_command = "report-round";

/// Passes of @p tokens until the session holds @p length, again and again.
/// @returns tokens/s
double speed_of(gpt2::Session& session, std::span<const gpt2::TokenId> tokens, std::size_t length,
                double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto pass = [&] {
        if (session.position() + tokens.size() > length) {
            session.truncate(0);
        }
        const auto begin = Clock::now();
        (void)session.forward(tokens);
        return std::chrono::duration<double>(Clock::now() - begin).count();
    };
    session.truncate(0);
    (void)pass();
    double spent = 0.0;
    double passed = 0.0;
    while (spent < seconds || passed == 0.0) {
        spent += pass();
        passed += static_cast<double>(tokens.size());
    }
    return passed / spent;
}

/// In the process that was started.
int print_round(const ModelSpec& spec, const std::optional<std::int64_t>& threads, double seconds) {
    const auto pool = pool_of(threads);
    const gpt2::Gpt2Model model = spec.load(pool);
    gpt2::Session session(model, {.pool = pool, .kv_dtype = {}, .profile = {}});
    const std::size_t positions = model.config().n_positions;
    std::vector<gpt2::TokenId> tokens(std::min(prefill_tokens, positions));
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<gpt2::TokenId>((i * 7919 + 17) % model.config().vocab_size);
    }
    const double prefill = speed_of(session, tokens, tokens.size(), seconds);
    const double decode =
        speed_of(session, std::span(tokens).first(1), std::min(decode_tokens, positions), seconds);
    print(format("%.9g %.9g %.0f\n", prefill, decode, static_cast<double>(resident_memory())));
    return success;
}

} // namespace

Round run_round(const ModelSpec& spec, const std::optional<std::int64_t>& threads, double seconds) {
#if defined(__linux__)
    std::vector<std::string> command{this_program, round_command, spec.name(), "--seconds",
                                     format("%.9g", seconds)};
    if (threads) {
        command.insert(command.end(), {"--threads", std::to_string(*threads)});
    }
    Process process(command);
    const std::string line = process.line();
    Round round;
    if (const int status = process.wait();
        status != 0 ||
        std::sscanf(line.c_str(), "%lf %lf %lf", &round.prefill, &round.decode, &round.memory) != 3) {
        throw gpt2::Error("report: the process that measures " + gpt2::detail::quoted(spec.name(), 4096) +
                          " ended with status " + std::to_string(status));
    }
    return round;
#else
    (void)spec, (void)threads, (void)seconds;
    throw gpt2::Error("report: speed and memory are measured on Linux alone; expected --rounds 0");
#endif
}

Command add_report_round(CLI::App& app) {
    struct Options {
        std::string model;
        std::optional<std::int64_t> threads;
        double seconds = 0.0;
    };
    const auto o = std::make_shared<Options>();
    CLI::App* const command = app.add_subcommand(round_command, "One round of report")->group("");
    command->add_option("model", o->model)->required();
    command->add_option("--seconds", o->seconds)->required();
    add_threads(*command, o->threads);
    return {command, [o] { return print_round(ModelSpec::parse(o->model), o->threads, o->seconds); }};
}
