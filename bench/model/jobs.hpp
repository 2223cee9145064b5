// SPDX-License-Identifier: MIT
#pragma once

#include "../machine.hpp"
#include "busy_threads.hpp"
#include "cases.hpp"
#include "cold_start.hpp"
#include "subject.hpp"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Cases in execution: each call is one round.

namespace gpt2::bench {

/// What one round of a case gave. Numbers that a case does not have are 0.
struct Sample {
    double value = 0.0;     ///< in the unit of the case
    double bandwidth = 0.0; ///< bytes/s that memory delivered just before and after
    double fma = 0.0;       ///< FLOP/s that multiply-adds reached just before and after
    double by_memory = 0.0; ///< tokens/s that the bandwidth allows
    double by_fma = 0.0;    ///< tokens/s that the multiply-adds allow
    double quiet = 0.0;     ///< tokens/s without the busy threads, just before
    double file = 0.0;      ///< megabytes of the model's file
    double anonymous = 0.0; ///< megabytes that no file stands behind

    /// Tokens/s that the machine allows; 0 where that means nothing.
    [[nodiscard]] double limit() const {
        return by_memory == 0.0 || by_fma == 0.0 ? by_memory + by_fma : std::min(by_memory, by_fma);
    }
};

class Job {
public:
    Job() = default;
    virtual ~Job() = default;
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    virtual Sample round() = 0;
};

/// Passes of a model in a row.
struct Passes {
    double tokens = 0.0;
    double bytes = 0.0; ///< weights, keys and values, each once per pass
    double flop = 0.0;
    double seconds = 0.0;
};

/// Takes prompts, or tokens of one or many sequences, through the model.
class PassJob : public Job {
public:
    /// @param meter  for as many bytes as a pass reads; null: bandwidth does not matter here
    PassJob(const Subject& subject, const Case& what, double seconds, std::shared_ptr<BandwidthMeter> meter)
        : subject_(subject), case_(what), seconds_(seconds), meter_(std::move(meter)),
          wants_fma_(what.kind == Kind::prefill || what.sequences > 1), busy_(what.busy) {
        const Config& config = subject.model.config();
        tokens_ = some_tokens(config, std::max<std::size_t>(1, what.tokens));
        for (std::size_t i = 0; i < what.sequences; ++i) {
            sessions_.push_back(subject.session());
            if (what.depth != 0) {
                const auto before = some_tokens(config, what.depth);
                const BatchItem item{&sessions_.back(), before, Logits::none};
                forward({&item, 1});
            }
        }
        for (Session& session : sessions_) {
            batch_.push_back({&session, tokens_});
        }
        step(nullptr);
    }

    Sample round() override {
        Sample sample;
        if (case_.kind == Kind::busy) {
            const Passes quiet = slice();
            sample.quiet = quiet.tokens / quiet.seconds;
            const auto scope = busy_.work();
            const Passes passes = slice();
            sample.value = passes.tokens / passes.seconds;
            return sample;
        }
        Amount read;
        Amount multiplied;
        measure_limits(read, multiplied);
        const Passes passes = slice();
        measure_limits(read, multiplied);
        sample.value = passes.tokens / passes.seconds;
        if (meter_) {
            sample.bandwidth = read.rate();
            sample.by_memory = passes.tokens / (passes.bytes / sample.bandwidth);
        }
        if (wants_fma_) {
            sample.fma = multiplied.rate();
            sample.by_fma = passes.tokens / (passes.flop / sample.fma);
        }
        return sample;
    }

    /// Bytes that a pass in the middle reads.
    [[nodiscard]] static std::size_t bytes_per_pass(const Subject& subject, const Case& what) {
        const Session session = subject.session();
        const std::size_t one_position = session.cache_bytes_read();
        return subject.model.bytes_read() + what.sequences * one_position * (what.depth + decode_steps / 2);
    }

private:
    void measure_limits(Amount& read, Amount& multiplied) const {
        const double seconds = seconds_ * 0.15;
        if (meter_) {
            read += meter_->measure(seconds);
        }
        if (wants_fma_) {
            multiplied += measure_fma(*subject_.pool, seconds);
        }
    }

    /// Passes for the time of the case, after one that does not count where that costs little.
    Passes slice() {
        if (last_seconds_ < 0.1 * seconds_) {
            step(nullptr);
        }
        Passes passes;
        do {
            step(&passes);
        } while (passes.seconds < seconds_);
        return passes;
    }

    void step(Passes* passes) {
        const std::size_t room = case_.kind == Kind::prefill ? case_.tokens : case_.depth + decode_steps;
        if (sessions_.front().position() + tokens_.size() > room) {
            for (Session& session : sessions_) {
                session.truncate(case_.depth);
            }
        }
        const std::size_t position = sessions_.front().position();
        const std::size_t cache = sessions_.front().cache_bytes_read();
        const auto begin = Clock::now();
        forward(batch_);
        last_seconds_ = seconds_since(begin);
        if (passes != nullptr) {
            const auto n = static_cast<double>(sessions_.size());
            passes->tokens += n * static_cast<double>(tokens_.size());
            passes->bytes +=
                static_cast<double>(subject_.model.bytes_read()) + n * static_cast<double>(cache);
            passes->flop += n * flop(subject_.model.config(), position, tokens_.size());
            passes->seconds += last_seconds_;
        }
    }

    Subject subject_;
    Case case_;
    double seconds_;
    std::shared_ptr<BandwidthMeter> meter_;
    bool wants_fma_;
    BusyThreads busy_;
    std::vector<TokenId> tokens_;
    std::vector<Session> sessions_;
    std::vector<BatchItem> batch_;
    double last_seconds_ = 0.0;
};

/// A text as a user waits for it.
class GenerateJob : public Job {
public:
    explicit GenerateJob(const Subject& subject)
        : subject_(subject), prompt_(some_tokens(subject.model.config(), founding_prompt)) {
        config_.max_new_tokens = founding_new;
        config_.do_sample = true;
        config_.top_k = 40;
        config_.seed = 1;
        config_.ignore_eos = true;
        (void)round();
    }

    Sample round() override {
        const auto begin = Clock::now();
        Session session = subject_.session();
        (void)session.generate(prompt_, config_);
        return {.value = seconds_since(begin)};
    }

private:
    Subject subject_;
    std::vector<TokenId> prompt_;
    GenerationConfig config_;
};

#if defined(__linux__)
/// A process from start to end.
class ProcessJob : public Job {
public:
    ProcessJob(std::filesystem::path file, const Options& options, Kind kind)
        : file_(std::move(file)), threads_(options.threads), kind_(kind) {
        if (options.kv_dtype) {
            kv_dtype_ = *options.kv_dtype == KvDtype::float16 ? "f16" : "f32";
        }
        (void)round();
    }

    Sample round() override {
        const Life life =
            run_process(file_, threads_, kv_dtype_, kind_ == Kind::cold_start ? 1 : founding_new);
        Sample sample;
        if (kind_ == Kind::cold_start) {
            sample.value = life.first_token * 1e3;
        } else {
            sample.value = life.resident * 1e-6;
            sample.anonymous = life.anonymous * 1e-6;
            sample.file = static_cast<double>(std::filesystem::file_size(file_)) * 1e-6;
        }
        return sample;
    }

private:
    std::filesystem::path file_;
    std::size_t threads_;
    Kind kind_;
    std::string kv_dtype_ = "auto";
};
#endif

} // namespace gpt2::bench
