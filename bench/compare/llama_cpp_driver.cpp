// SPDX-License-Identifier: MIT

// llama.cpp behind the protocol of driver.hpp, through its C interface (llama.h). With --quantize TYPE it
// makes a quantised file instead, with llama.cpp's own quantiser; with --tensors 1 it prints what is in one.

#include "driver.hpp"

#include <ggml-backend.h>
#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
    void operator()(gguf_context* file) const { gguf_free(file); }
};
using Model = std::unique_ptr<llama_model, Free>;
using Context = std::unique_ptr<llama_context, Free>;
using Sampler = std::unique_ptr<llama_sampler, Free>;
using GgufFile = std::unique_ptr<gguf_context, Free>;

[[nodiscard]] Model load(const std::string& path) {
    llama_model_params how = llama_model_default_params();
    how.n_gpu_layers = 0;
    Model model(llama_model_load_from_file(path.c_str(), how));
    if (!model) {
        throw std::runtime_error("llama.cpp cannot load " + path);
    }
    return model;
}

[[nodiscard]] Context make_context(const Model& model, const llama_context_params& how) {
    Context context(llama_init_from_model(model.get(), how));
    if (!context) {
        throw std::runtime_error("llama.cpp cannot make a context");
    }
    return context;
}

/// By llama.cpp's own names: "f16", "q6_K".
[[nodiscard]] ggml_type type_of(const std::string& name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = static_cast<ggml_type>(i);
        if (const char* const found = ggml_type_name(type); found != nullptr && name == found) {
            return type;
        }
    }
    throw std::runtime_error("expected a type of llama.cpp, found " + name);
}

/// A batch of llama.cpp with room for @p capacity tokens of one sequence each.
class Batch {
public:
    explicit Batch(std::size_t capacity) : batch_(llama_batch_init(static_cast<int32_t>(capacity), 0, 1)) {}
    ~Batch() { llama_batch_free(batch_); }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    void clear() { batch_.n_tokens = 0; }
    void add(compare::TokenId token, std::size_t position, std::size_t sequence, bool logits) {
        const int32_t i = batch_.n_tokens++;
        batch_.token[i] = token;
        batch_.pos[i] = static_cast<llama_pos>(position);
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = static_cast<llama_seq_id>(sequence);
        batch_.logits[i] = logits ? 1 : 0;
    }
    void add_all(std::span<const compare::TokenId> tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            add(tokens[i], i, 0, true);
        }
    }
    [[nodiscard]] const llama_batch& get() const { return batch_; }

private:
    llama_batch batch_;
};

void decode_batch(const Context& context, const Batch& batch) {
    if (llama_decode(context.get(), batch.get()) != 0) {
        throw std::runtime_error("llama_decode failed");
    }
    llama_synchronize(context.get());
}

void clear(const Context& context) {
    llama_memory_clear(llama_get_memory(context.get()), false);
}

class LlamaCpp final : public compare::Engine {
public:
    explicit LlamaCpp(const compare::Arguments& arguments)
        : threads_(arguments.number("--threads")), positions_(arguments.number("--positions")),
          flash_(arguments.text("--flash-attention", "auto")), unified_(arguments.number("--unified", 0)),
          kv_type_(type_of(arguments.text("--kv-type", "f16"))), model_(load(arguments.text("--model"))) {
        vocab_size_ = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
        context_ = make_context(static_cast<std::size_t>(positions_), 1);
    }

    double decode(std::size_t depth, std::size_t steps) override {
        clear(context_);
        read_prompt(context_, 0, depth, false);
        Batch batch(1);
        return compare::seconds([&] {
            for (std::size_t i = 0; i < steps; ++i) {
                step(batch, compare::token(depth + i, vocab_size_), depth + i);
            }
        });
    }

    double prefill(std::size_t n) override {
        clear(context_);
        return compare::seconds([&] { read_prompt(context_, 0, n, true); });
    }

    double batch(std::size_t sequences, std::size_t prompt, std::size_t steps) override {
        if (!batch_context_ || batch_sequences_ != sequences || batch_length_ < prompt + steps) {
            batch_sequences_ = sequences;
            batch_length_ = prompt + steps;
            batch_context_ = make_context(sequences * batch_length_, sequences);
        }
        clear(batch_context_);
        for (std::size_t s = 0; s < sequences; ++s) {
            read_prompt(batch_context_, s, prompt, false);
        }
        Batch batch(sequences);
        return compare::seconds([&] {
            for (std::size_t i = 0; i < steps; ++i) {
                batch.clear();
                for (std::size_t s = 0; s < sequences; ++s) {
                    batch.add(compare::token(s + prompt + i, vocab_size_), prompt + i, s, true);
                }
                decode_batch(batch_context_, batch);
                sink_ = llama_get_logits_ith(batch_context_.get(), 0)[0];
            }
        });
    }

    double generate(std::size_t prompt, std::size_t new_tokens, int top_k, std::uint32_t seed) override {
        clear(context_);
        const Sampler sampler(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(sampler.get(), llama_sampler_init_top_k(top_k));
        llama_sampler_chain_add(sampler.get(), llama_sampler_init_dist(seed));
        Batch batch(1);
        return compare::seconds([&] {
            read_prompt(context_, 0, prompt, true);
            for (std::size_t i = 0; i < new_tokens; ++i) {
                const llama_token id = llama_sampler_sample(sampler.get(), context_.get(), -1);
                if (i + 1 < new_tokens) {
                    step(batch, id, prompt + i);
                }
            }
        });
    }

    std::vector<float> logits(std::size_t prompt, std::size_t steps) override {
        clear(context_);
        std::vector<float> rows;
        const auto keep = [&] {
            const float* const row = llama_get_logits_ith(context_.get(), -1);
            rows.insert(rows.end(), row, row + vocab_size_);
        };
        read_prompt(context_, 0, prompt, true);
        keep();
        Batch batch(1);
        for (std::size_t i = 0; i < steps; ++i) {
            step(batch, compare::token(prompt + i, vocab_size_), prompt + i);
            keep();
        }
        return rows;
    }

    std::vector<float> logits_of(std::span<const compare::TokenId> ids) override {
        clear(context_);
        Batch batch(ids.size());
        batch.add_all(ids);
        decode_batch(context_, batch);
        const float* const rows = llama_get_logits(context_.get());
        return {rows, rows + ids.size() * vocab_size_};
    }

    [[nodiscard]] int threads() const override { return threads_; }

    [[nodiscard]] std::string description() const override {
        // "CPU : SSE3 = 1 | AVX = 1 | ..."
        std::string text = std::string("llama.cpp ") + llama_version() + ",";
        std::istringstream words(llama_print_system_info());
        for (std::string word; words >> word;) {
            if (std::ranges::none_of(word, [](char c) { return c == '=' || c == '|' || c == ':'; }) &&
                word != "1") {
                text += ' ' + word;
            }
        }
        return text;
    }

private:
    [[nodiscard]] Context make_context(std::size_t length, std::size_t sequences) const {
        llama_context_params how = llama_context_default_params();
        how.n_ctx = static_cast<std::uint32_t>(length);
        how.n_batch = static_cast<std::uint32_t>(std::max(length, sequences));
        how.n_seq_max = static_cast<std::uint32_t>(sequences);
        how.n_threads = threads_;
        how.n_threads_batch = threads_;
        how.kv_unified = unified_ != 0;
        how.no_perf = true;
        how.flash_attn_type = flash_ == "on"    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                              : flash_ == "off" ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                : LLAMA_FLASH_ATTN_TYPE_AUTO;
        how.type_k = kv_type_;
        how.type_v = kv_type_;
        return ::make_context(model_, how);
    }

    void read_prompt(const Context& context, std::size_t sequence, std::size_t n, bool logits) {
        if (n == 0) {
            return;
        }
        Batch batch(n);
        for (std::size_t i = 0; i < n; ++i) {
            batch.add(compare::token(sequence + i, vocab_size_), i, sequence, logits && i + 1 == n);
        }
        decode_batch(context, batch);
    }

    void step(Batch& batch, compare::TokenId token, std::size_t position) {
        batch.clear();
        batch.add(token, position, 0, true);
        decode_batch(context_, batch);
        sink_ = llama_get_logits_ith(context_.get(), 0)[0];
    }

    int threads_;
    int positions_;
    std::string flash_;
    int unified_;
    ggml_type kv_type_;
    std::size_t vocab_size_ = 0;
    Model model_;
    Context context_;
    Context batch_context_;
    std::size_t batch_sequences_ = 0;
    std::size_t batch_length_ = 0;
    volatile float sink_ = 0; ///< keeps the logits wanted
};

/// Mean squares of what each matrix of the layers is given by a text: the importance matrix of llama.cpp's
/// quantiser, collected as its own llama-imatrix does. (gpt2 has no experts, and the backend is the
/// processor.)
class Importance {
public:
    Importance(const std::string& model_path, int threads, std::span<const compare::TokenId> tokens,
               std::size_t window) {
        const Model model = load(model_path);
        llama_context_params how = llama_context_default_params();
        how.n_ctx = static_cast<std::uint32_t>(window);
        how.n_batch = how.n_ctx;
        how.n_ubatch = how.n_ctx;
        how.n_threads_batch = threads;
        how.cb_eval = collect;
        how.cb_eval_user_data = this;
        const Context context = make_context(model, how);
        for (std::size_t begin = 0; begin < tokens.size(); begin += window) {
            clear(context);
            const auto part = tokens.subspan(begin, std::min(window, tokens.size() - begin));
            Batch batch(part.size());
            batch.add_all(part);
            decode_batch(context, batch);
        }
        for (auto& [name, input] : inputs_) {
            for (float& value : input.squares) {
                value /= static_cast<float>(input.rows);
            }
            data_.push_back({name.c_str(), input.squares.data(), input.squares.size()});
        }
        data_.push_back({nullptr, nullptr, 0});
    }
    Importance(const Importance&) = delete;
    Importance& operator=(const Importance&) = delete;

    /// Ends with a null name.
    [[nodiscard]] const llama_model_imatrix_data* data() const { return data_.data(); }

private:
    struct Input {
        std::vector<float> squares;
        std::int64_t rows = 0;

        void add(const ggml_tensor& x) {
            squares.resize(static_cast<std::size_t>(x.ne[0]));
            for (std::int64_t row = 0; row < x.ne[1]; ++row) {
                const auto* const values = reinterpret_cast<const float*>(
                    static_cast<const char*>(x.data) + static_cast<std::size_t>(row) * x.nb[1]);
                for (std::size_t i = 0; i < squares.size(); ++i) {
                    squares[i] += values[i] * values[i];
                }
            }
            rows += x.ne[1];
        }
    };

    /// Called before a tensor is computed (@p ask: whether it is wanted), and after if it was.
    static bool collect(ggml_tensor* tensor, bool ask, void* self) {
        if (ask) {
            return tensor->op == GGML_OP_MUL_MAT && std::string(tensor->src[0]->name).starts_with("blk.") &&
                   tensor->src[1]->type == GGML_TYPE_F32;
        }
        static_cast<Importance*>(self)->inputs_[tensor->src[0]->name].add(*tensor->src[1]);
        return true;
    }

    std::map<std::string, Input> inputs_;
    std::vector<llama_model_imatrix_data> data_;
};

void quantize(const compare::Arguments& arguments) {
    static const std::map<std::string, llama_ftype> types = {
        {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},
        {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M}, {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},
        {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S},
        {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
        {"iq4_nl", LLAMA_FTYPE_MOSTLY_IQ4_NL}, {"iq4_xs", LLAMA_FTYPE_MOSTLY_IQ4_XS}};
    const std::string source = arguments.text("--model");
    llama_model_quantize_params how = llama_model_quantize_default_params();
    how.ftype = types.at(arguments.text("--quantize"));
    how.nthread = arguments.number("--threads");
    how.pure = arguments.number("--pure", 0) != 0;
    if (const std::string head = arguments.text("--head", ""); !head.empty()) {
        how.output_tensor_type = type_of(head);
        how.token_embedding_type = how.output_tensor_type;
    }
    std::unique_ptr<Importance> importance;
    if (const std::string text = arguments.text("--importance", ""); !text.empty()) {
        importance =
            std::make_unique<Importance>(source, how.nthread, compare::read_numbers<compare::TokenId>(text),
                                         static_cast<std::size_t>(arguments.number("--window")));
        how.imatrix = importance->data();
    }
    if (llama_model_quantize(source.c_str(), arguments.text("--out").c_str(), &how) != 0) {
        throw std::runtime_error("llama.cpp cannot quantise " + source);
    }
}

/// One line of JSON: by name the type, the bytes and the numbers of each tensor of a file.
void print_tensors(const std::string& path) {
    const GgufFile file(gguf_init_from_file(path.c_str(), {true, nullptr}));
    if (!file) {
        throw std::runtime_error("llama.cpp cannot read " + path);
    }
    nlohmann::json tensors = nlohmann::json::object();
    for (std::int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
        const ggml_type type = gguf_get_tensor_type(file.get(), i);
        const std::size_t bytes = gguf_get_tensor_size(file.get(), i);
        const std::size_t count =
            bytes / ggml_type_size(type) * static_cast<std::size_t>(ggml_blck_size(type));
        tensors[gguf_get_tensor_name(file.get(), i)] = {
            {"type", ggml_type_name(type)}, {"bytes", bytes}, {"count", count}};
    }
    std::cout << tensors.dump() << std::endl;
}

void quiet(ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::cerr << text;
    }
}

} // namespace

int main(int argc, char** argv) {
    return compare::run(argc, argv, [](const compare::Arguments& arguments) {
        llama_log_set(quiet, nullptr);
        ggml_backend_load_all_from_path(arguments.text("--backends").c_str());
        llama_backend_init();
        if (!arguments.text("--quantize", "").empty()) {
            quantize(arguments);
            return;
        }
        if (arguments.number("--tensors", 0) != 0) {
            print_tensors(arguments.text("--model"));
            return;
        }
        LlamaCpp engine(arguments);
        compare::serve(engine, arguments);
    });
}
