// SPDX-License-Identifier: MIT
/// Every kernel and every layer at the shapes of GPT-2 124M, beside what the machine can do at best.
///
/// Names are layer/format/.../rows/threads, so `--benchmark_filter='linear/c_fc/float16.*rows:1/.*threads:2'`
/// picks one and `--benchmark_filter=machine` shows the limits. bytes/s counts what must be read once per
/// call: weights (or keys and values), not activations. Weights stay in the caches where they fit; `lm_head`
/// and the limits at 256 MiB are beyond them.
///
/// of_limit is the share of what the machine allows: the time that the same threads need to read a buffer of
/// as many bytes again and again (so it may be the speed of a cache), or to do as many float32 multiply-adds
/// in registers, whichever is longer, over the time it took. Integer formats may exceed 1 where multiply-adds
/// are the limit. Both are measured beside each benchmark.
#include "machine.hpp"

#include <gpt2/attention.hpp>
#include <gpt2/layer_norm.hpp>
#include <gpt2/mlp.hpp>
#include <gpt2/random.hpp>
#include <gpt2/sampler.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using namespace gpt2;
using kernels::Epilogue;

constexpr WeightType weight_types[] = {WeightType::float32, WeightType::float16, WeightType::bfloat16,
                                       WeightType::int8, WeightType::int4};
constexpr std::int64_t row_counts[] = {1, 2, 4, 8, 16, 32, 128, 512};

const kernels::Kernels& chosen_kernels() {
    return kernels::kernels_for(choose_isa());
}

ThreadPool& pool_of(std::int64_t n_threads) {
    static std::map<std::int64_t, std::unique_ptr<ThreadPool>> pools;
    auto& pool = pools[n_threads];
    if (!pool) {
        pool = std::make_unique<ThreadPool>(static_cast<std::size_t>(n_threads));
    }
    return *pool;
}

/// Values of a size that neither vanishes nor grows on its way through layers.
std::vector<float> values(std::size_t n) {
    std::vector<float> list(n);
    std::uint32_t state = 1;
    for (float& x : list) {
        state = state * 1664525u + 1013904223u;
        x = (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * 0.1f;
    }
    return list;
}

Linear make_linear(std::size_t K, std::size_t N, WeightType type) {
    const auto weight = values(K * N);
    CheckpointTensor tensor;
    tensor.name = "weight";
    tensor.dtype = Dtype::F32;
    tensor.shape = {K, N};
    tensor.data = std::as_bytes(std::span(weight));
    auto& pool = pool_of(1);
    return Linear(PackedMatrix::pack(tensor, MatrixLayout::inputs_by_outputs, type, pool),
                  Linear::padded_bias(N, values(N)));
}

/// Made when first used, as most runs filter; only the last is kept, as some are large.
const Linear& cached_linear(std::size_t K, std::size_t N, WeightType type) {
    static std::tuple<std::size_t, std::size_t, WeightType> key;
    static std::unique_ptr<Linear> linear;
    if (!linear || key != std::tuple(K, N, type)) {
        linear.reset();
        linear = std::make_unique<Linear>(make_linear(K, N, type));
        key = {K, N, type};
    }
    return *linear;
}

/// The bandwidth at which @p bytes are read again and again; what the last call needed is kept.
double bandwidth(std::size_t bytes, ThreadPool& pool) {
    static std::pair<std::size_t, ThreadPool*> key;
    static std::unique_ptr<bench::BandwidthMeter> meter;
    if (!meter || key != std::pair(bytes, &pool)) {
        meter.reset();
        meter =
            std::make_unique<bench::BandwidthMeter>(std::make_shared<bench::ReadBuffer>(bytes), bytes, pool);
        key = {bytes, &pool};
    }
    return meter->measure(0.03).rate();
}

/// Seconds that the machine needs at least for reading so many bytes and doing so many operations.
double least_seconds(ThreadPool& pool, double bytes, double flop) {
    double least = 0.0;
    if (bytes > 0.0) {
        least = bytes / bandwidth(static_cast<std::size_t>(bytes), pool);
    }
    if (flop > 0.0) {
        least = std::max(least, flop / bench::measure_fma(pool, 0.01).rate());
    }
    return least;
}

/// Runs @p body, which reads @p bytes and does @p flop operations on the threads of @p pool. A value of 0
/// means that it does not matter.
template <class Body>
void measure(benchmark::State& state, ThreadPool& pool, double bytes, double flop, Body&& body) {
    const auto begin = bench::Clock::now();
    for (auto _ : state) {
        body();
        benchmark::ClobberMemory();
    }
    const double seconds = bench::seconds_since(begin) / static_cast<double>(state.iterations());
    constexpr auto rate = benchmark::Counter::kIsIterationInvariantRate;
    if (bytes > 0.0) {
        state.counters["bytes/s"] = benchmark::Counter(bytes, rate);
    }
    if (flop > 0.0) {
        state.counters["FLOP/s"] = benchmark::Counter(flop, rate);
    }
    if (state.max_iterations > 1) { // the first call, of one iteration, only finds out how many it takes
        state.counters["of_limit"] = least_seconds(pool, bytes, flop) / seconds;
    }
}

double product_flop(std::size_t rows, const PackedMatrix& weight) {
    return 2.0 * static_cast<double>(rows * weight.n_inputs() * weight.n_outputs());
}

void linear(benchmark::State& state, std::size_t K, std::size_t N, WeightType type, Epilogue epilogue) {
    const auto rows = static_cast<std::size_t>(state.range(0));
    ThreadPool& pool = pool_of(state.range(1));
    const Linear& layer = cached_linear(K, N, type);
    const auto x = values(rows * K);
    std::vector<float> y(rows * N);
    PackedRows packed;
    const auto turn = pool.take_turn();
    const Compute compute{chosen_kernels(), pool};
    measure(state, pool, static_cast<double>(layer.weight().bytes()), product_flop(rows, layer.weight()),
            [&] { layer.forward(compute, x.data(), rows, y.data(), epilogue, packed); });
}

void mlp(benchmark::State& state, WeightType type) {
    constexpr std::size_t C = 768;
    constexpr std::size_t F = 3072;
    const auto rows = static_cast<std::size_t>(state.range(0));
    ThreadPool& pool = pool_of(state.range(1));
    const Mlp layer{make_linear(C, F, type), make_linear(F, C, type)};
    const auto x = values(rows * C);
    auto residual = x;
    std::vector<float> inner(rows * F);
    PackedRows packed;
    const auto turn = pool.take_turn();
    const Compute compute{chosen_kernels(), pool};
    const PackedMatrix& fc = layer.c_fc.weight();
    const PackedMatrix& proj = layer.c_proj.weight();
    measure(state, pool, static_cast<double>(fc.bytes() + proj.bytes()),
            product_flop(rows, fc) + product_flop(rows, proj), [&] {
                // Or it would grow without end.
                std::memcpy(residual.data(), x.data(), x.size() * sizeof(float));
                layer.forward(compute, x.data(), rows, residual.data(), inner.data(), packed);
            });
}

Config one_layer() {
    Config config;
    config.n_layer = 1;
    return config;
}

void fill(KvCache& cache, std::size_t n_positions) {
    const auto numbers = values(768);
    for (std::size_t head = 0; head < 12; ++head) {
        const float* const row = numbers.data() + head * 64;
        cache.write(chosen_kernels(), 0, head, {.keys = row, .values = row, .n_rows = n_positions});
    }
}

/// The last rows of a sequence of range(2) positions.
void attention(benchmark::State& state, WeightType type, KvDtype kv_dtype) {
    const Config config = one_layer();
    const auto rows = static_cast<std::size_t>(state.range(0));
    const auto depth = static_cast<std::size_t>(state.range(2));
    ThreadPool& pool = pool_of(state.range(1));
    const Attention layer{make_linear(768, 3 * 768, type), make_linear(768, 768, type), config.n_head,
                          Attention::score_scale(config, 0)};
    KvCache cache(config, kv_dtype);
    fill(cache, depth);
    std::vector<Row> list(rows);
    double positions = 0.0;
    for (std::size_t i = 0; i < rows; ++i) {
        list[i] = {.position = depth - rows + i, .cache = &cache};
        positions += static_cast<double>(depth - rows + i + 1);
    }
    const auto x = values(rows * 768);
    auto residual = x;
    Workspace work(config, rows);
    const auto turn = pool.take_turn();
    const Compute compute{chosen_kernels(), pool};
    const PackedMatrix& attn = layer.c_attn.weight();
    const PackedMatrix& proj = layer.c_proj.weight();
    measure(state, pool, static_cast<double>(attn.bytes() + proj.bytes() + cache.bytes_read(depth)),
            product_flop(rows, attn) + product_flop(rows, proj) + 4.0 * 768.0 * positions, [&] {
                std::memcpy(residual.data(), x.data(), x.size() * sizeof(float));
                layer.forward(compute, 0, list, x.data(), residual.data(), work);
            });
}

void layer_norm(benchmark::State& state) {
    constexpr std::size_t C = 768;
    const auto rows = static_cast<std::size_t>(state.range(0));
    ThreadPool& pool = pool_of(state.range(1));
    Tensor<float, 1> gain({C});
    std::fill_n(gain.data(), C, 1.0f);
    const LayerNorm layer(std::move(gain), Tensor<float, 1>({C}), 1e-5f);
    const auto x = values(rows * C);
    std::vector<float> y(rows * C);
    const auto turn = pool.take_turn();
    const Compute compute{chosen_kernels(), pool};
    measure(state, pool, static_cast<double>(rows * C * sizeof(float)), static_cast<double>(rows * C * 8),
            [&] { layer.forward(compute, x.data(), rows, y.data()); });
}

/// The attention kernel alone: 12 heads after each other, one query each.
void attend_kernel(benchmark::State& state, KvDtype kv_dtype) {
    const Config config = one_layer();
    const auto depth = static_cast<std::size_t>(state.range(0));
    KvCache cache(config, kv_dtype);
    fill(cache, depth);
    const auto query = values(768);
    std::vector<float> out(768);
    std::vector<float> scratch(2 * 64);
    measure(state, pool_of(1), static_cast<double>(cache.bytes_read(depth)),
            static_cast<double>(4 * 768 * depth), [&] {
                for (std::size_t head = 0; head < 12; ++head) {
                    cache.attend(chosen_kernels(), 0, head,
                                 {.queries = query.data() + head * 64,
                                  .n_queries = 1,
                                  .n_positions = depth,
                                  .out = out.data() + head * 64,
                                  .scratch = scratch.data()});
                }
            });
}

/// @param function  takes the kernels, x, out and n
template <class Function> void elementwise_kernel(benchmark::State& state, Function function) {
    const auto n = static_cast<std::size_t>(state.range(0));
    const auto x = values(n);
    std::vector<float> y(n);
    const kernels::Kernels& kernels = chosen_kernels();
    measure(state, pool_of(1), static_cast<double>(n * sizeof(float)), 0.0,
            [&] { function(kernels, x.data(), y.data(), n); });
    state.SetItemsProcessed(state.iterations() * state.range(0));
}

/// Activations in the form that the kernels of a weight type read; the integer ones quantise them.
void pack_rows(benchmark::State& state, WeightType type) {
    constexpr std::size_t C = 768;
    const auto rows = static_cast<std::size_t>(state.range(0));
    ThreadPool& pool = pool_of(1);
    const auto x = values(rows * C);
    PackedRows packed;
    const Compute compute{chosen_kernels(), pool};
    measure(state, pool, static_cast<double>(rows * C * sizeof(float)), 0.0,
            [&] { packed.pack(compute, type, x.data(), rows, C); });
}

/// Lookup of token embeddings in the packed output head.
void read_output(benchmark::State& state, WeightType type) {
    const Linear& head = cached_linear(768, 50257, type);
    std::vector<float> out(768);
    std::size_t token = 0;
    for (auto _ : state) {
        head.weight().read_output(token, out.data());
        benchmark::ClobberMemory();
        token = (token + 7919) % 50257;
    }
    state.SetItemsProcessed(state.iterations());
}

/// One token out of 50257 logits.
void sampling(benchmark::State& state, const SamplerOptions& options) {
    constexpr std::size_t V = 50257;
    auto logits = values(V);
    for (float& x : logits) {
        x *= 100.0f; // -5 to 5
    }
    Sampler sampler(options, V, chosen_kernels().exp_shifted);
    std::vector<TokenId> before(100);
    std::iota(before.begin(), before.end(), TokenId{0});
    sampler.note(before);
    std::uint64_t n = 0;
    measure(state, pool_of(1), static_cast<double>(V * sizeof(float)), 0.0,
            [&] { benchmark::DoNotOptimize(sampler.next(logits, uniform(1, 0, n++))); });
}

void read_bandwidth(benchmark::State& state) {
    const auto bytes = static_cast<std::size_t>(state.range(0)) << 20;
    ThreadPool& pool = pool_of(state.range(1));
    const bench::BandwidthMeter meter(std::make_shared<bench::ReadBuffer>(bytes), bytes, pool);
    bench::Amount amount;
    for (auto _ : state) {
        amount += meter.measure(0.5);
    }
    state.counters["bytes/s"] = amount.rate();
    state.SetLabel(meter.method());
}

void fma_peak(benchmark::State& state) {
    bench::Amount amount;
    for (auto _ : state) {
        amount += bench::measure_fma(pool_of(state.range(0)), 0.5);
    }
    state.counters["FLOP/s"] = amount.rate();
}

/// 1, 2 and the default number of threads.
std::vector<std::int64_t> thread_counts() {
    std::vector<std::int64_t> counts{1, 2};
    const auto all = static_cast<std::int64_t>(default_thread_count());
    if (all > 2) {
        counts.push_back(all);
    }
    return counts;
}

template <class Function> auto* add(const std::string& name, Function&& function) {
    return benchmark::RegisterBenchmark(name.c_str(), std::forward<Function>(function))->UseRealTime();
}

/// A layer for every number of rows and threads.
template <class Function> void add_layer(const std::string& name, Function&& function) {
    add(name, std::forward<Function>(function))
        ->ArgNames({"rows", "threads"})
        ->ArgsProduct({{std::begin(row_counts), std::end(row_counts)}, thread_counts()});
}

void add_machine() {
    add("machine/read_bandwidth", read_bandwidth)
        ->ArgNames({"MiB", "threads"})
        ->ArgsProduct({{1, 16, 256}, thread_counts()})
        ->Iterations(1);
    add("machine/fma_peak", fma_peak)->ArgName("threads")->ArgsProduct({thread_counts()})->Iterations(1);
}

void add_linears() {
    struct Shape {
        const char* name;
        std::size_t n_inputs, n_outputs;
        Epilogue epilogue;
    };
    constexpr Shape shapes[] = {{"c_attn", 768, 2304, Epilogue::store},
                                {"c_proj", 768, 768, Epilogue::add},
                                {"c_fc", 768, 3072, Epilogue::gelu_tanh},
                                {"mlp_c_proj", 3072, 768, Epilogue::add},
                                {"lm_head", 768, 50257, Epilogue::store}};
    for (const Shape& shape : shapes) {
        for (const WeightType type : weight_types) {
            add_layer("linear/" + std::string(shape.name) + "/" + std::string(to_string(type)),
                      [shape, type](benchmark::State& state) {
                          linear(state, shape.n_inputs, shape.n_outputs, type, shape.epilogue);
                      });
        }
    }
}

void add_attention(WeightType type, KvDtype kv_dtype) {
    auto* const layer =
        add("attention/" + std::string(to_string(type)) + "/kv_" + std::string(to_string(kv_dtype)),
            [=](benchmark::State& state) { attention(state, type, kv_dtype); });
    layer->ArgNames({"rows", "threads", "positions"});
    for (const std::int64_t rows : row_counts) {
        for (const std::int64_t threads : thread_counts()) {
            for (const std::int64_t positions : {128, 512, 1024}) {
                if (rows <= positions) {
                    layer->Args({rows, threads, positions});
                }
            }
        }
    }
}

void add_layers() {
    for (const WeightType type : weight_types) {
        add_layer("mlp/" + std::string(to_string(type)),
                  [type](benchmark::State& state) { mlp(state, type); });
        for (const KvDtype kv_dtype : {KvDtype::float32, KvDtype::float16}) {
            add_attention(type, kv_dtype);
        }
    }
    add_layer("layer_norm", layer_norm);
}

void add_sampling() {
    const auto add_sampler = [](const std::string& name, const SamplerOptions& options) {
        add("sampling/" + name, [options](benchmark::State& state) { sampling(state, options); });
    };
    add_sampler("greedy", {});
    add_sampler("all", {.do_sample = true});
    add_sampler("temperature_0.8", {.do_sample = true, .temperature = 0.8f});
    add_sampler("top_k_40", {.do_sample = true, .top_k = 40});
    add_sampler("top_p_0.9", {.do_sample = true, .top_p = 0.9f});
    add_sampler("min_p_0.05", {.do_sample = true, .min_p = 0.05f});
    add_sampler("repetition_penalty_1.2", {.repetition_penalty = 1.2f});
}

void add_kernels() {
    for (const KvDtype kv_dtype : {KvDtype::float32, KvDtype::float16}) {
        add("kernel/attend/kv_" + std::string(to_string(kv_dtype)),
            [=](benchmark::State& state) { attend_kernel(state, kv_dtype); })
            ->ArgName("positions")
            ->Arg(64)
            ->Arg(256)
            ->Arg(512)
            ->Arg(1024);
    }
    using kernels::Kernels;
    const auto add_elementwise = [](const std::string& name, auto function) {
        return add("kernel/" + name,
                   [function](benchmark::State& state) { elementwise_kernel(state, function); })
            ->ArgName("n");
    };
    add_elementwise("exp_shifted", [](const Kernels& k, const float* x, float* out,
                                      std::size_t n) { k.exp_shifted(x, 0.5f, out, n); })
        ->Arg(1024)
        ->Arg(50257);
    add_elementwise("gelu_tanh", [](const Kernels& k, const float* x, float* out, std::size_t n) {
        k.gelu_tanh(x, out, n);
    })->Arg(3072);
    add_elementwise("gelu_erf", [](const Kernels& k, const float* x, float* out, std::size_t n) {
        k.gelu_erf(x, out, n);
    })->Arg(3072);
    for (const WeightType type : weight_types) {
        add("kernel/pack_rows/" + std::string(to_string(type)),
            [type](benchmark::State& state) { pack_rows(state, type); })
            ->ArgName("rows")
            ->Arg(1)
            ->Arg(4)
            ->Arg(16)
            ->Arg(512);
        add("kernel/read_output/" + std::string(to_string(type)),
            [type](benchmark::State& state) { read_output(state, type); });
    }
}

} // namespace

int main(int argc, char** argv) {
    add_machine();
    add_kernels();
    add_sampling();
    add_linears();
    add_layers();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 1;
    }
    try {
        benchmark::AddCustomContext("isa", std::string(to_string(choose_isa())));
        benchmark::RunSpecifiedBenchmarks();
    } catch (const Error& error) {
        std::fprintf(stderr, "bench-layers: %s\n", error.what());
        return 1;
    }
    benchmark::Shutdown();
    return 0;
}
