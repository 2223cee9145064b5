// SPDX-License-Identifier: MIT

// Speed of whole models: decoding at a shallow and a deep context, prefill, many sequences at once, each
// beside the limit that the machine sets. Without --model it makes a model of random weights.

#include "../tools/byte_vocabulary.hpp"
#include "../tools/random_model.hpp"
#include "machine.hpp"

#include <gpt2/gpt2.hpp>

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace {

struct Options {
    std::filesystem::path model;
    std::string size = "124M";
    std::vector<std::string> weights = {"f32", "f16", "bf16"};
    std::optional<gpt2::KvDtype> kv_dtype;
    std::size_t threads = 0;
};

/// A directory with a model of random weights, gone with the object.
class TemporaryModel {
public:
    explicit TemporaryModel(const std::string& size)
        : path_(std::filesystem::temp_directory_path() /
                ("gpt2-bench-" + std::to_string(std::random_device{}()))) {
        const gpt2::Config config = gpt2::tools::config_by_name(size).value();
        std::filesystem::create_directories(path_);
        gpt2::tools::RandomModelOptions how;
        how.dtype = gpt2::Dtype::F16;
        gpt2::tools::write_random_model(path_, config, how);
        gpt2::tools::write_byte_vocabulary(path_, config);
    }
    ~TemporaryModel() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryModel(const TemporaryModel&) = delete;
    TemporaryModel& operator=(const TemporaryModel&) = delete;

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

private:
    std::filesystem::path path_;
};

/// A model in one format, with what the machine allows it.
struct Subject {
    gpt2::Gpt2Model model;
    std::shared_ptr<gpt2::ThreadPool> pool;
    std::optional<gpt2::KvDtype> kv_dtype;
    double bandwidth; ///< bytes/s, reading as many bytes as the weights of one step
    double fma_peak;  ///< FLOP/s

    [[nodiscard]] gpt2::Session session() const { return gpt2::Session(model, {pool, kv_dtype}); }
};

std::vector<gpt2::TokenId> random_tokens(const gpt2::Config& config, std::size_t n) {
    std::mt19937 random(1);
    std::vector<gpt2::TokenId> tokens(n);
    std::generate(tokens.begin(), tokens.end(),
                  [&] { return static_cast<gpt2::TokenId>(random() % config.vocab_size); });
    return tokens;
}

/// Operations of one token through the layers: two for each weight of the blocks, and for each position
/// that attention looks back to, two for each of C products with keys and with values.
double flop(const gpt2::Config& config, double mean_context) {
    const auto C = static_cast<double>(config.n_embd);
    const auto F = static_cast<double>(config.n_inner);
    return static_cast<double>(config.n_layer) * (2.0 * C * (4.0 * C + 2.0 * F) + 4.0 * C * mean_context);
}

/// Tokens per second from @p depth on, one at a time, @p sequences side by side.
void decode(benchmark::State& state, const Subject& subject, std::size_t depth, std::size_t sequences) {
    const gpt2::Config& config = subject.model.config();
    const auto prompt = random_tokens(config, depth);
    std::vector<gpt2::Session> sessions;
    for (std::size_t i = 0; i < sequences; ++i) {
        sessions.push_back(subject.session());
        sessions.back().forward(prompt);
    }
    const std::vector<gpt2::TokenId> token = {config.eos_token_id.value_or(0)};
    std::vector<gpt2::BatchItem> batch;
    for (gpt2::Session& session : sessions) {
        batch.push_back({&session, token});
    }
    std::size_t bytes = subject.model.bytes_read();
    for (const gpt2::Session& session : sessions) {
        bytes += session.cache_bytes_read();
    }
    const std::size_t steps = std::min<std::size_t>(128, config.n_positions - depth);
    for (auto _ : state) {
        for (std::size_t step = 0; step < steps; ++step) {
            gpt2::forward(batch);
        }
        state.PauseTiming();
        for (gpt2::Session& session : sessions) {
            session.truncate(depth);
        }
        state.ResumeTiming();
    }
    const auto passes = static_cast<double>(state.iterations()) * static_cast<double>(steps);
    const auto read = static_cast<double>(bytes);
    state.counters["tok/s"] = {passes * static_cast<double>(sequences), benchmark::Counter::kIsRate};
    state.counters["bytes/s"] = {passes * read, benchmark::Counter::kIsRate};
    state.counters["of_bandwidth"] = {passes * read / subject.bandwidth, benchmark::Counter::kIsRate};
}

void prefill(benchmark::State& state, const Subject& subject, std::size_t n) {
    const auto prompt = random_tokens(subject.model.config(), n);
    gpt2::Session session = subject.session();
    for (auto _ : state) {
        session.forward(prompt);
        state.PauseTiming();
        session.truncate(0);
        state.ResumeTiming();
    }
    const gpt2::Config& config = subject.model.config();
    const double head = 2.0 * static_cast<double>(config.n_embd) * static_cast<double>(config.vocab_size);
    const double work = static_cast<double>(n) * flop(config, static_cast<double>(n + 1) / 2.0) + head;
    const auto passes = static_cast<double>(state.iterations());
    state.counters["tok/s"] = {passes * static_cast<double>(n), benchmark::Counter::kIsRate};
    state.counters["FLOP/s"] = {passes * work, benchmark::Counter::kIsRate};
    state.counters["of_fma_peak"] = {passes * work / subject.fma_peak, benchmark::Counter::kIsRate};
}

void load(benchmark::State& state, const std::filesystem::path& path, const gpt2::LoadOptions& options) {
    for (auto _ : state) {
        benchmark::DoNotOptimize(gpt2::Gpt2Model::load(path, options));
    }
}

void register_benchmarks(const std::string& format, const std::shared_ptr<const Subject>& subject) {
    const auto add = [&](const std::string& name, auto body) {
        benchmark::RegisterBenchmark((format + "/" + name).c_str(),
                                     [subject, body](benchmark::State& state) { body(state, *subject); })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
    };
    const std::size_t T = subject->model.config().n_positions;
    add("decode/depth:13", [](auto& state, const Subject& s) { decode(state, s, 13, 1); });
    const std::size_t deep = T >= 1024 ? 896 : T * 7 / 8;
    add("decode/depth:" + std::to_string(deep),
        [deep](auto& state, const Subject& s) { decode(state, s, deep, 1); });
    add("decode/sequences:16", [](auto& state, const Subject& s) { decode(state, s, 13, 16); });
    const std::size_t long_prompt = std::min<std::size_t>(512, T);
    for (const std::size_t n : {std::size_t{128}, long_prompt}) {
        add("prefill/tokens:" + std::to_string(n),
            [n](auto& state, const Subject& s) { prefill(state, s, n); });
    }
}

void run(const Options& options) {
    std::optional<TemporaryModel> temporary;
    if (options.model.empty()) {
        std::cerr << "bench-model: making a " << options.size << " model of random weights\n";
        temporary.emplace(options.size);
    }
    const auto path = options.model.empty() ? temporary->path() : options.model;
    const auto pool = options.threads == 0 ? gpt2::ThreadPool::process_wide()
                                           : std::make_shared<gpt2::ThreadPool>(options.threads);
    const double fma_peak = gpt2::bench::fma_peak(*pool);
    std::printf("%zu threads, FMA peak %.0f GFLOP/s (float32)\n", pool->size(), fma_peak * 1e-9);
    const std::map<std::string, gpt2::WeightType> types = {{"f32", gpt2::WeightType::float32},
                                                           {"f16", gpt2::WeightType::float16},
                                                           {"bf16", gpt2::WeightType::bfloat16}};
    for (const std::string& format : options.weights) {
        const gpt2::LoadOptions how{.weights = types.at(format), .isa = {}, .pool = pool};
        const auto model = gpt2::Gpt2Model::load(path, how);
        const double bandwidth = gpt2::bench::read_bandwidth(model.bytes_read(), *pool);
        std::printf("%s: a step reads %.1f MB of weights; memory reads as many at %.1f GB/s: at most %.1f "
                    "tok/s\n",
                    format.c_str(), static_cast<double>(model.bytes_read()) * 1e-6, bandwidth * 1e-9,
                    bandwidth / static_cast<double>(model.bytes_read()));
        std::fflush(stdout);
        const auto subject =
            std::make_shared<const Subject>(Subject{model, pool, options.kv_dtype, bandwidth, fma_peak});
        register_benchmarks(format, subject);
        benchmark::RegisterBenchmark((format + "/load").c_str(),
                                     [path, how](benchmark::State& state) { load(state, path, how); })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
    }
    benchmark::RunSpecifiedBenchmarks();
    benchmark::ClearRegisteredBenchmarks();
}

} // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("Speed of a model: decode, prefill, batches, load; each in every weight format.\n"
                 "Options of Google Benchmark (--benchmark_filter=...) are understood too.");
    app.add_option("--model", options.model, "directory of the model (default: random weights)");
    app.add_option("--size", options.size, "shape of the random model")
        ->check(CLI::Validator(
            [](const std::string& name) {
                return gpt2::tools::config_by_name(name) ? std::string() : "unknown size " + name;
            },
            "124M|355M|774M|1558M|novella|tiny"))
        ->capture_default_str();
    app.add_option("--weights", options.weights, "formats to measure, comma-separated")
        ->delimiter(',')
        ->check(CLI::IsMember({"f32", "f16", "bf16"}))
        ->capture_default_str();
    std::string kv_dtype = "auto";
    app.add_option("--kv-dtype", kv_dtype, "type of the KV cache; auto: f32 with f32 weights, else f16")
        ->check(CLI::IsMember({"auto", "f32", "f16"}))
        ->capture_default_str();
    app.add_option("--threads", options.threads, "threads, 0: one for each usable core")
        ->capture_default_str();
    benchmark::Initialize(&argc, argv);
    CLI11_PARSE(app, argc, argv);
    if (kv_dtype != "auto") {
        options.kv_dtype = kv_dtype == "f16" ? gpt2::KvDtype::float16 : gpt2::KvDtype::float32;
    }
    try {
        run(options);
    } catch (const std::exception& error) {
        std::cerr << "bench-model: error: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
