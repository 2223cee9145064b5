// SPDX-License-Identifier: MIT

// When speculative decoding pays; see --help. Not built on Google Benchmark, because plain runs that take
// turns with the others are the point.

#include "model/program.hpp"
#include "model/progress.hpp"
#include "model/system.hpp"
#include "model/table.hpp"
#include "speculation/groups.hpp"
#include "speculation/options.hpp"
#include "speculation/report.hpp"

#include <gpt2/gpt2.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace gpt2::bench;

/// @throws gpt2::Error if speculation changed a text, which it must not
void add(Result& result, Writing writing, const Writing& plain) {
    if (writing.texts != plain.texts) {
        throw gpt2::Error(result.what.name + ": expected the text of the plain run, found another");
    }
    result.rates.push_back(writing.rate());
    result.factors.push_back(writing.rate() / plain.rate());
    result.writing = std::move(writing);
}

std::vector<GroupResult> measure(const std::vector<Group>& groups, const Options& options,
                                 const std::shared_ptr<gpt2::ThreadPool>& pool, Progress& progress) {
    std::vector<GroupResult> out;
    std::size_t n_cases = 0;
    for (const Group& group : groups) {
        out.push_back({group.kind, group.model, group.name});
        for (const Case& each : group.cases) {
            out.back().results.push_back({each});
        }
        n_cases += group.cases.size();
        (void)write_texts(group, group.plain, pool); // warms up
    }
    progress.begin(n_cases, options.rounds);
    for (std::size_t round = 0; round < options.rounds; ++round) {
        for (std::size_t i = 0; i < groups.size(); ++i) {
            const Writing plain = write_texts(groups[i], groups[i].plain, pool);
            out[i].plain.push_back(plain.rate());
            for (Result& result : out[i].results) {
                progress.enter(groups[i].model + " " + groups[i].name + " " + result.what.name);
                add(result, write_texts(groups[i], result.what.config, pool), plain);
                progress.leave();
            }
        }
    }
    return out;
}

bool wants(const Options& options, const std::string& name) {
    return std::find(options.cases.begin(), options.cases.end(), name) != options.cases.end();
}

int run(const Options& options, const std::string& command) {
    auto json = open(options.json);
    const auto pool = options.threads == 0 ? gpt2::ThreadPool::process_wide()
                                           : std::make_shared<gpt2::ThreadPool>(options.threads);
    const Machine machine = describe_machine(*pool, Pages::as_tensors);
    std::cout << to_text(machine) << std::endl;
    Progress progress("bench-speculation", !options.quiet);
    nlohmann::ordered_json all = {{"program", "bench-speculation"}, {"command", command}};
    all["machine"] = to_json(machine);
    all["groups"] = nlohmann::ordered_json::array();
    const auto report = [&](const std::vector<GroupResult>& groups, const Table& table, std::size_t n_left) {
        std::cout << aligned(table, n_left) << std::endl;
        for (const GroupResult& group : groups) {
            all["groups"].push_back(detail::to_json(group));
        }
    };
    if (wants(options, "text")) {
        const auto groups = measure(text_groups(options, pool), options, pool, progress);
        report(groups, text_table(groups), 3);
    }
    if (wants(options, "imposed")) {
        progress.say("writing models of random weights");
        const auto groups = measure(imposed_groups(options, pool), options, pool, progress);
        std::cout << "How many times as fast, by the probability that a proposed token is right:\n";
        report(groups, imposed_table(groups), 2);
    }
    if (json) {
        *json << all.dump(1) << '\n';
        close(*json, options.json);
    }
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        int status = 0;
        const std::optional<Options> options = parse(argc, argv, status);
        return options ? run(*options, command_line("bench-speculation", argc, argv)) : status;
    } catch (const gpt2::OptionError& error) {
        std::cerr << "bench-speculation: error: " << error.what() << '\n';
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "bench-speculation: error: " << error.what() << '\n';
        return 1;
    }
}
