// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/io/checkpoint.hpp"
#include "gpt2/io/converted_model.hpp"
#include "gpt2/transformer.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// @file
/// From named weights to the network.

namespace gpt2 {

/// The formats that somebody asks for; by default each matrix keeps its own.
struct WeightTypes {
    std::optional<WeightType> blocks{}; ///< of the matrices in the blocks
    std::optional<WeightType> head{};   ///< of the output head and the embeddings

    [[nodiscard]] std::optional<WeightType> of(std::string_view name) const noexcept {
        return matrix_layout(name) == MatrixLayout::outputs_by_inputs ? head : blocks;
    }
};

/// The network of a configuration, with weights from where @p weights has them:
///   weights.matrix(name)        -> PackedMatrix
///   weights.vector(name, size)  -> SharedTensor<float, 1>, its first elements the tensor's, then zeros
///   weights.positions()         -> SharedTensor<float, 2> [T, C or more], wpe
/// with the names of a checkpoint (expected_tensors()).
template <class Weights>
[[nodiscard]] Transformer make_transformer(const Config& config, bool separate_head, const Weights& weights) {
    const std::size_t C = config.n_embd;
    const auto layer_norm = [&](const std::string& name) {
        return LayerNorm(weights.vector(name + ".weight", C), weights.vector(name + ".bias", C),
                         config.layer_norm_epsilon);
    };
    const auto linear = [&](const std::string& name) {
        PackedMatrix weight = weights.matrix(name + ".weight");
        const std::size_t padded = kernels::padded_outputs(weight.n_outputs());
        return Linear(std::move(weight), weights.vector(name + ".bias", padded));
    };
    Transformer model;
    model.config = config;
    model.wte = weights.matrix("wte.weight");
    model.wpe = weights.positions();
    for (std::size_t layer = 0; layer < config.n_layer; ++layer) {
        const std::string h = "h." + std::to_string(layer) + ".";
        model.h.push_back({.ln_1 = layer_norm(h + "ln_1"),
                           .attn = {.c_attn = linear(h + "attn.c_attn"),
                                    .c_proj = linear(h + "attn.c_proj"),
                                    .n_head = config.n_head,
                                    .scale = Attention::score_scale(config, layer)},
                           .ln_2 = layer_norm(h + "ln_2"),
                           .mlp = {.c_fc = linear(h + "mlp.c_fc"),
                                   .c_proj = linear(h + "mlp.c_proj"),
                                   .activation = config.activation}});
    }
    model.ln_f = layer_norm("ln_f");
    model.lm_head = Linear(separate_head ? weights.matrix("lm_head.weight") : model.wte, {});
    return model;
}

/// The weights of a converted model, where they lie in its file.
class ConvertedWeights {
public:
    /// @param types  matrices that have another format are converted into memory of their own
    ConvertedWeights(const ConvertedModel& model, const WeightTypes& types, ThreadPool& pool)
        : model_(model), types_(types), pool_(pool) {}

    /// @throws NumericError if a weight exceeds the format
    [[nodiscard]] PackedMatrix matrix(const std::string& name) const {
        const PackedMatrix found = model_.matrix(name);
        const WeightType type = types_.of(name).value_or(found.type());
        return type == found.type() ? found : found.converted(type, pool_, name);
    }
    [[nodiscard]] SharedTensor<float, 1> vector(const std::string& name, std::size_t size) const {
        return model_.vector(name, size);
    }
    [[nodiscard]] SharedTensor<float, 2> positions() const { return model_.positions(); }

    /// Whether a matrix of the file has another format than is asked for.
    [[nodiscard]] bool any_converted() const {
        return std::ranges::any_of(model_.matrix_names(), [this](const std::string& name) {
            const WeightType type = model_.matrix(name).type();
            return types_.of(name).value_or(type) != type;
        });
    }

private:
    const ConvertedModel& model_;
    WeightTypes types_;
    ThreadPool& pool_;
};

/// The weights of a checkpoint, packed into memory of their own.
class CheckpointWeights {
public:
    /// @throws FormatError naming a tensor with an infinity or a NaN
    CheckpointWeights(const Checkpoint& checkpoint, const WeightTypes& types, ThreadPool& pool)
        : checkpoint_(checkpoint), types_(types), pool_(pool) {
        require_finite_tensors();
    }

    /// @throws NumericError if a weight exceeds the format
    [[nodiscard]] PackedMatrix matrix(const std::string& name) const {
        const CheckpointTensor& tensor = checkpoint_.tensor(name);
        return PackedMatrix::pack(tensor, matrix_layout(name),
                                  types_.of(name).value_or(detail::weight_type_of(tensor.dtype)), pool_);
    }

    [[nodiscard]] SharedTensor<float, 1> vector(const std::string& name, std::size_t size) const {
        Tensor<float, 1> out({size});
        read(name, out.data());
        return out;
    }

    [[nodiscard]] SharedTensor<float, 2> positions() const {
        Tensor<float, 2> out({checkpoint_.config().n_positions, checkpoint_.config().n_embd});
        read("wpe.weight", out.data());
        return out;
    }

private:
    /// One tensor a piece: the weights are read from the file here, by all threads.
    void require_finite_tensors() const {
        const auto list = expected_tensors(checkpoint_.config(), checkpoint_.has_separate_head());
        pool_.parallel_for(list.size(), 1, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                require_finite(checkpoint_.tensor(list[i].name));
            }
        });
    }

    /// All elements, widened to float.
    void read(const std::string& name, float* out) const {
        const CheckpointTensor& tensor = checkpoint_.tensor(name);
        detail::with_float_type(tensor.dtype, [&]<class Source>(Source value) {
            for (std::size_t i = 0; i < tensor.size(); ++i) {
                std::memcpy(&value, tensor.data.data() + i * sizeof(Source), sizeof(Source));
                out[i] = static_cast<float>(value);
            }
        });
    }

    const Checkpoint& checkpoint_;
    WeightTypes types_;
    ThreadPool& pool_;
};

} // namespace gpt2
