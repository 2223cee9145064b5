// SPDX-License-Identifier: MIT
// The layers: the same bits for any number of threads and rows, and close to float64.
#include "support/compare.hpp"
#include "support/layer_fixture.hpp"

#include <gpt2/attention.hpp>
#include <gpt2/layer_norm.hpp>
#include <gpt2/mlp.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <span>
#include <vector>

namespace {

using namespace gpt2;
using kernels::Epilogue;
using test::Bounded;
using test::LinearReference;
using test::mismatch;

constexpr WeightType weight_types[] = {WeightType::float32, WeightType::float16, WeightType::bfloat16};
constexpr std::size_t thread_counts[] = {1, 2, 3, 5};

std::span<const float> row_of(const std::vector<float>& rows, std::size_t row, std::size_t width) {
    return std::span(rows).subspan(row * width, width);
}

void check_linear(ThreadPool& pool, Isa isa, const LinearReference& linear,
                  std::span<const std::size_t> counts) {
    const std::size_t K = linear.n_inputs;
    const std::size_t N = linear.n_outputs;
    const Compute compute{kernels::kernels_for(isa), pool};
    const std::size_t most = *std::max_element(counts.begin(), counts.end());
    const auto x = test::Numbers(K + N).numbers(most * K);
    PackedRows packed;
    std::vector<float> alone(most * N);
    for (std::size_t row = 0; row < most; ++row) {
        linear.layer.forward(compute, x.data() + row * K, 1, alone.data() + row * N, Epilogue::store, packed);
    }
    CHECK(mismatch(row_of(alone, 0, N), linear(test::exactly(row_of(x, 0, K)))) == "");
    CHECK(mismatch(row_of(alone, most - 1, N), linear(test::exactly(row_of(x, most - 1, K)))) == "");
    for (const std::size_t rows : counts) {
        CAPTURE(to_string(isa));
        CAPTURE(rows);
        CAPTURE(pool.size());
        std::vector<float> y(rows * N, std::nanf(""));
        linear.layer.forward(compute, x.data(), rows, y.data(), Epilogue::store, packed);
        CHECK(mismatch(y, std::span(alone).first(rows * N)) == "");
    }
}

TEST_CASE("Linear: rows together are what each is alone, on any number of threads") {
    std::vector<std::size_t> counts;
    for (std::size_t rows = 1; rows <= 40; ++rows) {
        counts.push_back(rows);
    }
    counts.insert(counts.end(), {95, 96, 97, 200});
    for (const WeightType type : weight_types) {
        const LinearReference linear(70, 300, type, 1);
        for (const std::size_t n_threads : thread_counts) {
            ThreadPool pool(n_threads);
            for (const Isa isa : test::levels()) {
                check_linear(pool, isa, linear, counts);
            }
        }
    }
}

TEST_CASE("Linear: real sizes, K = 3072 and 6400") {
    ThreadPool pool(3);
    const std::size_t counts[] = {1, 2, 13};
    for (const std::size_t K : {3072u, 6400u}) {
        const LinearReference linear(K, 100, WeightType::float16, K);
        for (const Isa isa : test::levels()) {
            check_linear(pool, isa, linear, counts);
        }
    }
}

TEST_CASE("Linear: no bias is a bias of zeros") {
    ThreadPool pool(1);
    const LinearReference with_bias(3, 40, WeightType::float32, 4);
    const Linear without(with_bias.layer.weight(), {});
    const float x[] = {0.0f, 0.0f, 0.0f};
    std::vector<float> y(40, 1.0f);
    PackedRows packed;
    without.forward({kernels::kernels_for(supported_isa()), pool}, x, 1, y.data(), Epilogue::store, packed);
    CHECK(mismatch(y, std::vector<float>(40, 0.0f)) == "");
}

TEST_CASE("LayerNorm: each row by itself, in place or not") {
    constexpr std::size_t C = 50;
    test::Numbers numbers(3);
    Tensor<float, 1> gain({C});
    Tensor<float, 1> bias({C});
    for (std::size_t i = 0; i < C; ++i) {
        gain[i] = numbers.number();
        bias[i] = numbers.number();
    }
    const LayerNorm norm(gain.clone(), bias.clone(), 1e-3f);
    const auto x = numbers.numbers(37 * C);
    for (const Isa isa : test::levels()) {
        const kernels::Kernels& kernels = kernels::kernels_for(isa);
        std::vector<float> expected(x.size());
        for (std::size_t row = 0; row < 37; ++row) {
            kernels.layer_norm(x.data() + row * C, gain.data(), bias.data(), 1e-3f, C,
                               expected.data() + row * C);
        }
        for (const std::size_t n_threads : thread_counts) {
            ThreadPool pool(n_threads);
            std::vector<float> y(x.size(), std::nanf(""));
            norm.forward({kernels, pool}, x.data(), 37, y.data());
            CHECK(mismatch(y, expected) == "");
            y = x;
            norm.forward({kernels, pool}, y.data(), 37, y.data());
            CHECK(mismatch(y, expected) == "");
        }
    }
}

TEST_CASE("Mlp: against float64, residual included, the same on any number of threads") {
    constexpr std::size_t C = 33;
    constexpr std::size_t F = 130;
    constexpr std::size_t rows = 14;
    for (const WeightType type : weight_types) {
        for (const Activation activation : {Activation::gelu_tanh, Activation::gelu_erf, Activation::relu}) {
            const LinearReference c_fc(C, F, type, 5);
            const LinearReference c_proj(F, C, type, 6);
            const Mlp mlp{c_fc.layer, c_proj.layer, activation};
            const auto x = test::Numbers(7).numbers(rows * C);
            const auto residual = test::Numbers(8).numbers(rows * C);
            std::vector<Bounded> expected;
            for (std::size_t row = 0; row < rows; ++row) {
                auto inner = c_fc(test::exactly(row_of(x, row, C)));
                for (Bounded& value : inner) {
                    value = activation == Activation::relu       ? test::relu(value)
                            : activation == Activation::gelu_erf ? test::gelu_erf(value)
                                                                 : test::gelu_tanh(value);
                }
                const auto out = c_proj(inner);
                for (std::size_t i = 0; i < C; ++i) {
                    expected.push_back(Bounded(static_cast<double>(residual[row * C + i])) + out[i]);
                    CHECK(expected.back().error < 2e-4);
                }
            }
            for (const Isa isa : test::levels()) {
                std::vector<float> first;
                for (const std::size_t n_threads : thread_counts) {
                    ThreadPool pool(n_threads);
                    auto y = residual;
                    std::vector<float> inner(rows * F, std::nanf(""));
                    PackedRows packed;
                    mlp.forward({kernels::kernels_for(isa), pool}, x.data(), rows, y.data(), inner.data(),
                                packed);
                    CHECK(mismatch(y, expected) == "");
                    if (!first.empty()) {
                        CHECK(mismatch(y, first) == "");
                    }
                    first = y;
                }
            }
        }
    }
}

/// Attention over sequences whose inputs are known from the start, so that any cut into passes has one
/// answer.
class AttentionFixture {
public:
    static constexpr std::size_t n_head = 3;
    static constexpr std::size_t D = 20;
    static constexpr std::size_t C = n_head * D;
    static constexpr std::size_t layer = 1;

    AttentionFixture(std::vector<std::size_t> lengths, KvDtype dtype)
        : lengths_(std::move(lengths)), dtype_(dtype), c_attn_(C, 3 * C, WeightType::float16, 21, 0.25f),
          c_proj_(C, C, WeightType::bfloat16, 22) {
        config_.n_layer = 2;
        config_.n_head = n_head;
        config_.n_embd = C;
        config_.n_inner = C;
        config_.n_positions = 100;
        attention_ = {c_attn_.layer, c_proj_.layer, n_head, Attention::score_scale(config_, layer)};
        for (std::size_t s = 0; s < lengths_.size(); ++s) {
            x_.push_back(test::Numbers(30 + s).numbers(lengths_[s] * C));
            expected_.push_back(reference(x_.back()));
        }
    }

    /// Runs all sequences: in each pass every sequence gives as many rows as @p rows_per_pass says for it, in
    /// turn. @returns the outputs per sequence
    std::vector<std::vector<float>> run(const Compute& compute,
                                        const std::vector<std::vector<std::size_t>>& rows_per_pass) const {
        std::deque<KvCache> caches;
        std::vector<std::size_t> done(lengths_.size(), 0);
        std::vector<std::vector<float>> out(lengths_.size());
        for (std::size_t s = 0; s < lengths_.size(); ++s) {
            caches.emplace_back(config_, dtype_);
        }
        for (std::size_t pass = 0; done != lengths_; ++pass) {
            std::vector<Row> rows;
            std::vector<std::size_t> owner;
            std::vector<float> x;
            for (std::size_t s = 0; s < lengths_.size(); ++s) {
                const auto& plan = rows_per_pass[s];
                const std::size_t n = std::min(plan[pass % plan.size()], lengths_[s] - done[s]);
                for (std::size_t i = 0; i < n; ++i) {
                    rows.push_back({.position = done[s] + i, .cache = &caches[s]});
                    owner.push_back(s);
                }
                const auto part = std::span(x_[s]).subspan(done[s] * C, n * C);
                x.insert(x.end(), part.begin(), part.end());
                done[s] += n;
            }
            std::vector<float> residual(rows.size() * C, 1.0f);
            Workspace work(config_, rows.size());
            attention_.forward(compute, layer, rows, x.data(), residual.data(), work);
            for (std::size_t i = 0; i < rows.size(); ++i) {
                const auto row = row_of(residual, i, C);
                out[owner[i]].insert(out[owner[i]].end(), row.begin(), row.end());
            }
        }
        return out;
    }

    [[nodiscard]] const std::vector<std::vector<Bounded>>& expected() const { return expected_; }

private:
    [[nodiscard]] Bounded stored(Bounded x) const {
        if (dtype_ == KvDtype::float16) {
            x.error += 0x1p-11 * x.magnitude() + 0x1p-25;
        }
        return x;
    }

    [[nodiscard]] std::vector<Bounded> reference(const std::vector<float>& x) const {
        const std::size_t n = x.size() / C;
        const double scale = 1.0 / std::sqrt(static_cast<double>(D));
        std::vector<std::vector<Bounded>> qkv;
        std::vector<Bounded> out;
        for (std::size_t t = 0; t < n; ++t) {
            qkv.push_back(c_attn_(test::exactly(row_of(x, t, C))));
            std::vector<Bounded> heads(C);
            for (std::size_t head = 0; head < n_head; ++head) {
                attend(qkv, head * D, test::rounded(scale, 2.0), heads);
            }
            for (const Bounded& value : c_proj_(heads)) {
                out.push_back(Bounded(1.0) + value);
            }
        }
        return out;
    }

    /// The last row's query against all keys and values so far, dimensions @p first to first + D.
    void attend(const std::vector<std::vector<Bounded>>& qkv, std::size_t first, Bounded scale,
                std::vector<Bounded>& heads) const {
        std::vector<Bounded> scores;
        Bounded highest(-1e300);
        for (const auto& row : qkv) {
            Bounded score;
            for (std::size_t d = first; d < first + D; ++d) {
                score = test::multiply_add(qkv.back()[d] * scale, stored(row[C + d]), score);
            }
            scores.push_back(score);
            if (score.value > highest.value) {
                highest = score;
            }
        }
        Bounded total;
        for (Bounded& score : scores) {
            score = test::exp(score - highest);
            total = total + score;
        }
        for (std::size_t d = first; d < first + D; ++d) {
            Bounded sum;
            double magnitude = 0.0;
            for (std::size_t t = 0; t < scores.size(); ++t) {
                const Bounded value = stored(qkv[t][2 * C + d]);
                sum = test::multiply_add(scores[t], value, sum);
                magnitude += scores[t].magnitude() * value.magnitude();
            }
            // Two blocks of 64 at most: each corrects what went before, by an exponential of up to 88.
            sum.error += 200.0 * test::unit_roundoff * magnitude;
            heads[d] = sum / test::rounded(total, 200.0);
        }
    }

    std::vector<std::size_t> lengths_;
    KvDtype dtype_;
    Config config_;
    LinearReference c_attn_;
    LinearReference c_proj_;
    Attention attention_;
    std::vector<std::vector<float>> x_;
    std::vector<std::vector<Bounded>> expected_;
};

TEST_CASE("Attention: sequences mixed in one pass, in any cut, against float64") {
    const std::vector<std::vector<std::size_t>> plans[] = {
        {{100}, {100}, {100}},          // each prompt in one piece
        {{1}, {1}, {1}},                // token by token, all sequences in each pass
        {{100}, {1}, {0, 5}},           // a prompt beside decoding
        {{7, 0, 13}, {0, 1, 64}, {3}},  // anything
        {{0, 16}, {63, 1, 1}, {0, 17}}, // around the borders of blocks
        {{7}, {64}, {1}},               // pieces of each kind of length
        {{3, 2}, {15, 2}, {1, 30}},     // parts of tiles of queries
    };
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::float16}) {
        const AttentionFixture fixture({80, 100, 31}, dtype);
        for (const Isa isa : test::levels()) {
            std::vector<std::vector<float>> first;
            for (const std::size_t n_threads : {1u, 2u, 3u}) {
                ThreadPool pool(n_threads);
                for (const auto& plan : plans) {
                    const auto out = fixture.run({kernels::kernels_for(isa), pool}, plan);
                    for (std::size_t s = 0; s < out.size(); ++s) {
                        CHECK(mismatch(out[s], fixture.expected()[s]) == "");
                        if (!first.empty()) {
                            CHECK(mismatch(out[s], first[s]) == "");
                        }
                    }
                    first = out;
                }
            }
        }
        for (const Bounded& x : fixture.expected()[1]) { // the bounds mean something
            CHECK(x.error < (dtype == KvDtype::float32 ? 2e-3 : 0.1));
        }
    }
}

TEST_CASE("Attention: the scale of the scores") {
    Config config;
    config.n_embd = 64;
    config.n_head = 4;
    CHECK(Attention::score_scale(config, 2) == 0.25f);
    config.scale_attn_by_inverse_layer_idx = true;
    CHECK(Attention::score_scale(config, 0) == 0.25f);
    CHECK(Attention::score_scale(config, 1) == 0.125f);
    config.scale_attn_weights = false;
    CHECK(Attention::score_scale(config, 3) == 0.25f);
    config.scale_attn_by_inverse_layer_idx = false;
    CHECK(Attention::score_scale(config, 3) == 1.0f);
}

TEST_CASE("avx2 and avx512 give the same bits in every layer") {
    if (!supports(Isa::avx512)) {
        return;
    }
    ThreadPool pool(2);
    const std::vector<std::vector<std::size_t>> plan{{9}, {1}, {3}};
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::float16}) {
        const AttentionFixture fixture({80, 20, 31}, dtype);
        const auto narrow = fixture.run({kernels::kernels_for(Isa::avx2), pool}, plan);
        const auto wide = fixture.run({kernels::kernels_for(Isa::avx512), pool}, plan);
        for (std::size_t s = 0; s < 3; ++s) {
            CHECK(mismatch(wide[s], narrow[s]) == "");
        }
    }
    for (const WeightType type : test::all_types) {
        const LinearReference c_fc(40, 130, type, 51);
        const LinearReference c_proj(130, 40, type, 52);
        const auto x = test::Numbers(53).numbers(15 * 40);
        for (const Activation activation : {Activation::gelu_tanh, Activation::gelu_erf}) {
            const Mlp mlp{c_fc.layer, c_proj.layer, activation};
            std::vector<float> results[2];
            for (const Isa isa : {Isa::avx2, Isa::avx512}) {
                auto& y = results[isa == Isa::avx2 ? 0 : 1];
                y.assign(15 * 40, 0.5f);
                std::vector<float> inner(15 * 130);
                PackedRows packed;
                mlp.forward({kernels::kernels_for(isa), pool}, x.data(), 15, y.data(), inner.data(), packed);
            }
            CHECK(mismatch(results[0], results[1]) == "");
        }
    }
}

} // namespace
