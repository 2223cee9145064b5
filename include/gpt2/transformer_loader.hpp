// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/io/checkpoint.hpp"
#include "gpt2/transformer.hpp"

#include <cstddef>
#include <optional>
#include <string>

/// @file
/// From a checkpoint's tensors to the network's packed weights.

namespace gpt2 {

/// Reads a checkpoint's tensors into the layout of the kernels.
class TransformerLoader {
public:
    /// @param type  the format of all weight matrices; by default each keeps its own
    TransformerLoader(const Checkpoint& checkpoint, std::optional<WeightType> type, ThreadPool& pool)
        : checkpoint_(checkpoint), type_(type), pool_(pool) {}

    /// @throws FormatError naming a tensor with an infinity or a NaN, NumericError if one exceeds the format
    [[nodiscard]] Transformer load() const {
        const Config& config = checkpoint_.config();
        require_finite_tensors();
        Transformer model;
        model.config = config;
        model.wte = matrix("wte.weight", MatrixLayout::outputs_by_inputs);
        model.wpe = Tensor<float, 2>({config.n_positions, config.n_embd});
        read("wpe.weight", model.wpe.data());
        for (std::size_t layer = 0; layer < config.n_layer; ++layer) {
            model.h.push_back(block(layer));
        }
        model.ln_f = layer_norm("ln_f");
        const bool separate = checkpoint_.has_separate_head();
        model.lm_head =
            Linear(separate ? matrix("lm_head.weight", MatrixLayout::outputs_by_inputs) : model.wte, {});
        return model;
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

    [[nodiscard]] Block block(std::size_t layer) const {
        const Config& config = checkpoint_.config();
        const std::string name = "h." + std::to_string(layer) + ".";
        return {.ln_1 = layer_norm(name + "ln_1"),
                .attn = {.c_attn = linear(name + "attn.c_attn"),
                         .c_proj = linear(name + "attn.c_proj"),
                         .n_head = config.n_head,
                         .scale = Attention::score_scale(config, layer)},
                .ln_2 = layer_norm(name + "ln_2"),
                .mlp = {.c_fc = linear(name + "mlp.c_fc"),
                        .c_proj = linear(name + "mlp.c_proj"),
                        .activation = config.activation}};
    }

    [[nodiscard]] LayerNorm layer_norm(const std::string& name) const {
        return {vector(name + ".weight"), vector(name + ".bias"), checkpoint_.config().layer_norm_epsilon};
    }

    [[nodiscard]] Linear linear(const std::string& name) const {
        return {matrix(name + ".weight", MatrixLayout::inputs_by_outputs), vector(name + ".bias").flat()};
    }

    [[nodiscard]] PackedMatrix matrix(const std::string& name, MatrixLayout layout) const {
        const CheckpointTensor& tensor = checkpoint_.tensor(name);
        return PackedMatrix::pack(tensor, layout, type_.value_or(detail::weight_type_of(tensor.dtype)),
                                  pool_);
    }

    [[nodiscard]] Tensor<float, 1> vector(const std::string& name) const {
        Tensor<float, 1> out({checkpoint_.tensor(name).size()});
        read(name, out.data());
        return out;
    }

    /// All elements, widened to float.
    void read(const std::string& name, float* out) const {
        const CheckpointTensor& tensor = checkpoint_.tensor(name);
        detail::with_weight_type(detail::weight_type_of(tensor.dtype), [&]<class Source>(Source value) {
            for (std::size_t i = 0; i < tensor.size(); ++i) {
                std::memcpy(&value, tensor.data.data() + i * sizeof(Source), sizeof(Source));
                out[i] = static_cast<float>(value);
            }
        });
    }

    const Checkpoint& checkpoint_;
    std::optional<WeightType> type_;
    ThreadPool& pool_;
};

} // namespace gpt2
