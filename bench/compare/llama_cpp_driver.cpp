// SPDX-License-Identifier: MIT

// llama.cpp behind the protocol of driver.hpp, through its C interface (llama.h). With --quantize TYPE it
// makes a quantised file instead, with llama.cpp's own quantiser.

#include "driver.hpp"

#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};
using Model = std::unique_ptr<llama_model, Free>;
using Context = std::unique_ptr<llama_context, Free>;
using Sampler = std::unique_ptr<llama_sampler, Free>;

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
    [[nodiscard]] const llama_batch& get() const { return batch_; }

private:
    llama_batch batch_;
};

class LlamaCpp final : public compare::Engine {
public:
    explicit LlamaCpp(const compare::Arguments& arguments)
        : threads_(arguments.number("--threads")), positions_(arguments.number("--positions")),
          flash_(arguments.text("--flash-attention", "auto")), unified_(arguments.number("--unified", 0)) {
        llama_model_params how = llama_model_default_params();
        how.n_gpu_layers = 0;
        model_.reset(llama_model_load_from_file(arguments.text("--model").c_str(), how));
        if (!model_) {
            throw std::runtime_error("llama.cpp cannot load " + arguments.text("--model"));
        }
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
        Context context(llama_init_from_model(model_.get(), how));
        if (!context) {
            throw std::runtime_error("llama.cpp cannot make a context");
        }
        return context;
    }

    static void clear(const Context& context) { llama_memory_clear(llama_get_memory(context.get()), false); }

    static void decode_batch(const Context& context, const Batch& batch) {
        if (llama_decode(context.get(), batch.get()) != 0) {
            throw std::runtime_error("llama_decode failed");
        }
        llama_synchronize(context.get());
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
    std::size_t vocab_size_ = 0;
    Model model_;
    Context context_;
    Context batch_context_;
    std::size_t batch_sequences_ = 0;
    std::size_t batch_length_ = 0;
    volatile float sink_ = 0; ///< keeps the logits wanted
};

void quantize(const compare::Arguments& arguments) {
    static const std::map<std::string, llama_ftype> types = {{"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},
                                                             {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
                                                             {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M}};
    llama_model_quantize_params how = llama_model_quantize_default_params();
    how.ftype = types.at(arguments.text("--quantize"));
    how.nthread = arguments.number("--threads");
    if (llama_model_quantize(arguments.text("--model").c_str(), arguments.text("--out").c_str(), &how) != 0) {
        throw std::runtime_error("llama.cpp cannot quantise " + arguments.text("--model"));
    }
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
        LlamaCpp engine(arguments);
        compare::serve(engine, arguments);
    });
}
