// SPDX-License-Identifier: MIT
#pragma once

#include "jobs.hpp"
#include "options.hpp"
#include "progress.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

/// @file
/// The order of things: models, formats, rounds, cases.

namespace gpt2::bench {

/// One case of one model in one format, measured.
struct Result {
    std::string size;
    std::string format;
    Case what;
    std::size_t weight_bytes = 0; ///< that a pass reads
    std::string reader;           ///< how the bandwidth was measured; empty if it was not
    std::vector<Sample> samples;  ///< one for each round
};

/// What was not measured, and why.
struct Skipped {
    std::string size, format, name, reason;
};

struct Measurements {
    std::vector<Result> results;
    std::vector<Skipped> skipped;
};

/// Models of one size that are in memory together, so that rounds go through all their cases.
class Group {
public:
    Group(const Options& options, std::vector<Case> cases, std::filesystem::path model, Progress& progress)
        : options_(options), cases_(std::move(cases)), model_(std::move(model)), progress_(progress) {}

    void add(Subject subject) { subjects_.push_back(std::move(subject)); }

    void measure(Measurements& out) {
        prepare(out);
        progress_.begin(active_.size(), options_.rounds);
        for (std::size_t round = 0; round < options_.rounds; ++round) {
            for (Active& each : active_) {
                progress_.enter(each.result.size + " " + each.result.format + " " + each.result.what.name);
                each.result.samples.push_back(each.job->round());
                progress_.leave();
            }
        }
        for (Active& each : active_) {
            out.results.push_back(std::move(each.result));
        }
        active_.clear();
    }

private:
    struct Active {
        Result result;
        std::unique_ptr<Job> job;
    };

    void prepare(Measurements& out) {
        std::size_t most = 1;
        for (const Subject& subject : subjects_) {
            for (const Case& each : cases_) {
                if (needs_bandwidth(each)) {
                    most = std::max(most, PassJob::bytes_per_pass(subject, each));
                }
            }
        }
        buffer_ = std::make_shared<ReadBuffer>(most, options_.pages);
        for (const Subject& subject : subjects_) {
            for (const Case& each : cases_) {
                progress_.say("preparing " + subject.size + " " + std::string(subject.format->name) + " " +
                              each.name);
                prepare(subject, each, out);
            }
        }
    }

    void prepare(const Subject& subject, const Case& what, Measurements& out) {
        const std::string format(subject.format->name);
        const std::size_t positions = subject.model.config().n_positions;
        try {
            if (what.positions() > positions) {
                throw ContextError("needs " + std::to_string(what.positions()) +
                                   " positions, the model has " + std::to_string(positions));
            }
            Active active{{subject.size, format, what, subject.model.bytes_read(), {}, {}}, nullptr};
            active.job = make_job(subject, what, active.result);
            active_.push_back(std::move(active));
        } catch (const std::exception& error) {
            out.skipped.push_back({subject.size, format, what.name, error.what()});
            if (noted_.insert(what.name + error.what()).second) { // once for all formats
                progress_.note(subject.size + " " + what.name + " is left out: " + error.what());
            }
        }
    }

    [[nodiscard]] static bool needs_bandwidth(const Case& what) { return what.kind == Kind::decode; }

    [[nodiscard]] std::unique_ptr<Job> make_job(const Subject& subject, const Case& what, Result& result) {
#if defined(__linux__)
        if (what.kind == Kind::cold_start || what.kind == Kind::memory) {
            auto& file = converted_[subject.format];
            if (file.empty()) {
                file = converted_file(model_, *subject.format, directory_.path(), options_.python);
            }
            return std::make_unique<ProcessJob>(file, options_, what.kind);
        }
#endif
        if (what.kind == Kind::generate) {
            return std::make_unique<GenerateJob>(subject);
        }
        std::shared_ptr<BandwidthMeter> meter;
        if (needs_bandwidth(what)) {
            meter = std::make_shared<BandwidthMeter>(buffer_, PassJob::bytes_per_pass(subject, what),
                                                     *subject.pool);
            result.reader = meter->method();
        }
        return std::make_unique<PassJob>(subject, what, options_.seconds, meter);
    }

    const Options& options_;
    std::vector<Case> cases_;
    std::filesystem::path model_;
    Progress& progress_;
    TemporaryDirectory directory_; ///< converted files
    std::map<const Format*, std::filesystem::path> converted_;
    std::vector<Subject> subjects_;
    std::shared_ptr<ReadBuffer> buffer_;
    std::vector<Active> active_;
    std::set<std::string> noted_;
};

/// Whether there is memory for another format of the model, as large as float32, and for a buffer to read.
[[nodiscard]] inline bool has_room(const Config& config) {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("MemAvailable:")) {
            const double available = std::strtod(line.c_str() + 13, nullptr) * 1024.0;
            const double weights = flop(config, 0, 1) / 2.0; // two operations each
            return available > 2e9 + 2.0 * weights * sizeof(float);
        }
    }
    return false;
}

/// All formats of one model.
inline void measure_model(const Options& options, const std::vector<Case>& cases, const std::string& size,
                          const std::filesystem::path& path, const std::shared_ptr<ThreadPool>& pool,
                          Progress& progress, Measurements& out) {
    std::deque<const Format*> waiting;
    for (const Format& format : formats()) {
        if (std::ranges::count(options.formats, format.name) != 0) {
            waiting.push_back(&format);
        }
    }
    while (!waiting.empty()) {
        Group group(options, cases, path, progress);
        bool more = true;
        while (more && !waiting.empty()) {
            const Format& format = *waiting.front();
            waiting.pop_front();
            progress.say("loading " + size + " as " + std::string(format.name));
            LoadOptions how = format.load;
            how.pool = pool;
            const auto model = Gpt2Model::load(path, how);
            group.add({size, &format, model, pool, options.kv_dtype});
            more = has_room(model.config());
        }
        group.measure(out);
    }
}

/// Everything that the options ask for.
[[nodiscard]] inline Measurements measure(const Options& options, const std::shared_ptr<ThreadPool>& pool) {
    const std::vector<Case> cases = chosen_cases(options);
    Progress progress("bench-model", !options.quiet);
    Measurements out;
    if (!options.model.empty()) {
        measure_model(options, cases, options.model.stem().string(), options.model, pool, progress, out);
        return out;
    }
    for (const std::string& size : options.sizes) {
        progress.say("writing a " + size + " model of random weights");
        const TemporaryDirectory directory;
        write_model(directory.path(), size);
        measure_model(options, cases, size, directory.path(), pool, progress, out);
    }
    return out;
}

} // namespace gpt2::bench
