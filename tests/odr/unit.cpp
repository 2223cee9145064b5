// SPDX-License-Identifier: MIT
// GPT2_ODR_UNIT: the name of the function that this copy defines.

#include "unit.hpp"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <cstdint>

namespace {

std::vector<float> numbers(std::size_t n) {
    std::vector<float> list(n);
    std::uint32_t state = 1;
    for (float& x : list) {
        state = state * 1664525u + 1013904223u;
        x = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
    }
    return list;
}

void add_linear(const gpt2::kernels::Kernels& kernels, gpt2::WeightType type, std::vector<float>& results) {
    constexpr std::size_t rows = 5;
    constexpr std::size_t n_inputs = 67;
    constexpr std::size_t n_outputs = 70;
    const auto x = numbers(rows * n_inputs);
    const std::size_t panel_bytes = gpt2::kernels::panel_bytes(type, n_inputs);
    std::vector<std::byte> panels(3 * panel_bytes);
    const auto weights = numbers(3 * 32 * n_inputs);
    for (std::size_t i = 0; i < 3; ++i) {
        gpt2::detail::encode_panel(type, weights.data() + i * 32 * n_inputs, n_inputs,
                                   panels.data() + i * panel_bytes);
    }
    const auto bias = numbers(3 * 32);
    const gpt2::kernels::LinearTile tile = kernels.tile_for(type, rows);
    const std::size_t padded = (rows + tile.rows - 1) / tile.rows * tile.rows;
    std::vector<std::byte> packed(padded * gpt2::kernels::unit_count(type, n_inputs) *
                                  gpt2::kernels::unit_of(type).x_bytes);
    if (gpt2::kernels::is_integer(type)) {
        kernels.quantize_rows({.type = type,
                               .x = x.data(),
                               .stride = n_inputs,
                               .rows = rows,
                               .n_inputs = n_inputs,
                               .tile = tile.rows,
                               .out = packed.data()});
    } else {
        gpt2::kernels::pack_rows(x.data(), n_inputs, rows, n_inputs, tile.rows,
                                 reinterpret_cast<float*>(packed.data()));
    }
    for (const auto epilogue : {gpt2::kernels::Epilogue::add, gpt2::kernels::Epilogue::gelu_tanh,
                                gpt2::kernels::Epilogue::gelu_erf}) {
        auto y = numbers(rows * n_outputs);
        kernels.linear({.type = type,
                        .tile = tile,
                        .x = packed.data(),
                        .rows = rows,
                        .n_inputs = n_inputs,
                        .n_outputs = n_outputs,
                        .panels = panels.data(),
                        .bias = bias.data(),
                        .y = y.data(),
                        .y_stride = n_outputs,
                        .epilogue = epilogue},
                       0, 3);
        results.insert(results.end(), y.begin(), y.end());
    }
}

void add_attention(const gpt2::kernels::Kernels& kernels, gpt2::KvDtype dtype, std::vector<float>& results) {
    gpt2::Config config;
    config.n_layer = 1;
    config.n_head = 2;
    config.n_embd = 144; // D = 72: one wide step and a narrow one
    config.n_positions = 150;
    gpt2::KvCache cache(config, dtype);
    const auto rows = numbers(150 * 144);
    cache.write(kernels, 0, 1,
                {.keys = rows.data() + 72, .values = rows.data() + 72, .row_stride = 144, .n_rows = 150});
    constexpr std::size_t n_queries = 6;
    const auto queries = numbers(n_queries * 72);
    std::vector<float> out(n_queries * 72);
    std::vector<float> scratch(n_queries * 2 * 80);
    for (const std::size_t n_positions : {1u, 40u, 145u}) {
        cache.attend(kernels, 0, 1,
                     {.queries = queries.data(),
                      .query_stride = 72,
                      .n_queries = n_queries,
                      .n_positions = n_positions,
                      .scale = 0.3f,
                      .out = out.data(),
                      .out_stride = 72,
                      .scratch = scratch.data()});
        results.insert(results.end(), out.begin(), out.end());
    }
}

/// What the kernels of one level make of numbers that are the same everywhere.
std::vector<float> kernel_results(gpt2::Isa isa) {
    const gpt2::kernels::Kernels& kernels = gpt2::kernels::kernels_for(isa);
    std::vector<float> results;
    for (std::size_t type = 0; type < gpt2::n_weight_types; ++type) {
        add_linear(kernels, static_cast<gpt2::WeightType>(type), results);
    }
    add_attention(kernels, gpt2::KvDtype::float32, results);
    add_attention(kernels, gpt2::KvDtype::float16, results);
    const auto x = numbers(300);
    std::vector<float> y(300);
    kernels.layer_norm(x.data(), x.data(), x.data(), 1e-5f, 300, y.data());
    results.insert(results.end(), y.begin(), y.end());
    kernels.exp_shifted(x.data(), 0.5f, y.data(), 300);
    results.insert(results.end(), y.begin(), y.end());
    kernels.gelu_tanh(x.data(), y.data(), 300);
    results.insert(results.end(), y.begin(), y.end());
    kernels.gelu_erf(x.data(), y.data(), 300);
    results.insert(results.end(), y.begin(), y.end());
    return results;
}

} // namespace

UnitResult GPT2_ODR_UNIT(const char* path) {
    UnitResult result;
    for (const gpt2::Isa isa : gpt2::all_isas) {
        if (gpt2::supports(isa)) {
            result.numbers.push_back(kernel_results(isa));
        }
    }
    const auto model = gpt2::Gpt2Model::load(path);
    const auto prompt = model.tokenizer().encode("There was once a poor woodcutter who");
    gpt2::Session session(model);
    const auto logits = session.forward(prompt);
    result.numbers.emplace_back(logits.begin(), logits.end());
    const auto generated = model.generate(
        "It was a dark and stormy night, and",
        {.max_new_tokens = 16, .do_sample = true, .temperature = 0.8f, .top_k = 40, .seed = 42});
    result.tokens = generated.tokens;
    result.text = generated.text;
    return result;
}
