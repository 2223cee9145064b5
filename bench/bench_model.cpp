// SPDX-License-Identifier: MIT

// Speed of whole models beside the limits that the machine sets; see --help. Not built on Google Benchmark,
// because rounds that go through all cases, and limits that are measured in each, are the point.

#include "model/cases.hpp"
#include "model/cold_start.hpp"
#include "model/options.hpp"
#include "model/program.hpp"
#include "model/report.hpp"
#include "model/run.hpp"
#include "model/system.hpp"
#include "model/tables.hpp"

#include <gpt2/gpt2.hpp>

#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace gpt2::bench;

int run(const Options& options, const std::string& command) {
    if (options.list) {
        for (const Case& each : chosen_cases(options)) {
            std::cout << each.name << '\n';
        }
        return 0;
    }
    (void)chosen_cases(options); // complains, if it must, before the first second is spent
    auto json = open(options.json);
    auto markdown = open(options.markdown);
    const auto pool = options.threads == 0 ? gpt2::ThreadPool::process_wide()
                                           : std::make_shared<gpt2::ThreadPool>(options.threads);
    const Machine machine = describe_machine(*pool, options.pages);
    std::cout << to_text(machine) << std::endl;
    const Measurements measurements = measure(options, pool);
    const std::vector<Line> lines = summarize(measurements);
    std::cout << aligned(detailed_table(lines, machine), 3) << '\n';
    for (const std::string& size : sizes_of(lines)) {
        std::cout << aligned(overview_table(lines, size), 1) << '\n';
    }
    std::cout << caption;
    if (json) {
        *json << to_json(options, machine, measurements, command).dump(1) << '\n';
        close(*json, options.json);
    }
    if (markdown) {
        *markdown << to_markdown(lines, machine, command);
        close(*markdown, options.markdown);
    }
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        if (argc > 1 && std::string(argv[1]) == child_argument) {
            return run_child({argv + 2, argv + argc});
        }
        int status = 0;
        const std::optional<Options> options = parse(argc, argv, status);
        return options ? run(*options, command_line("bench-model", argc, argv)) : status;
    } catch (const gpt2::OptionError& error) {
        std::cerr << "bench-model: error: " << error.what() << '\n';
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "bench-model: error: " << error.what() << '\n';
        return 1;
    }
}
