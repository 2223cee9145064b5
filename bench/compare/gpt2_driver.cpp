// SPDX-License-Identifier: MIT

// This library behind the protocol of driver.hpp, through its public interface, with the file of a converted
// model.

#include "driver.hpp"

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace {

class Gpt2 final : public compare::Engine {
public:
    explicit Gpt2(const compare::Arguments& arguments)
        : options_(session_options(arguments)), model_(load(arguments.text("--model"), options_.pool)),
          session_(model_, options_) {}

    double decode(std::size_t depth, std::size_t steps) override {
        start(depth);
        return compare::seconds([&] { step(depth, steps); });
    }

    double prefill(std::size_t n) override {
        const auto prompt = tokens(0, n);
        session_.truncate(0);
        return compare::seconds([&] { (void)session_.forward(prompt); });
    }

    double batch(std::size_t sequences, std::size_t prompt, std::size_t steps) override {
        std::vector<gpt2::Session> sessions;
        for (std::size_t s = 0; s < sequences; ++s) {
            sessions.emplace_back(model_, options_);
            (void)sessions.back().forward(tokens(s, prompt));
        }
        return compare::seconds([&] {
            for (std::size_t i = 0; i < steps; ++i) {
                std::vector<gpt2::TokenId> ids;
                for (std::size_t s = 0; s < sequences; ++s) {
                    ids.push_back(compare::token(s + prompt + i, vocab_size()));
                }
                std::vector<gpt2::BatchItem> items;
                for (std::size_t s = 0; s < sequences; ++s) {
                    items.push_back({&sessions[s], std::span(ids).subspan(s, 1)});
                }
                gpt2::forward(items);
            }
        });
    }

    double generate(std::size_t prompt, std::size_t new_tokens, int top_k, std::uint32_t seed) override {
        const auto ids = tokens(0, prompt);
        session_.truncate(0);
        gpt2::GenerationConfig config;
        config.max_new_tokens = static_cast<std::int64_t>(new_tokens);
        config.do_sample = true;
        config.top_k = top_k;
        config.seed = seed;
        config.ignore_eos = true;
        return compare::seconds([&] { (void)session_.generate(ids, config); });
    }

    std::vector<float> logits(std::size_t prompt, std::size_t steps) override {
        session_.truncate(0);
        std::vector<float> rows;
        const auto read = [&](const std::vector<gpt2::TokenId>& ids) {
            const auto row = session_.forward(ids);
            rows.insert(rows.end(), row.begin(), row.end());
        };
        read(tokens(0, prompt));
        for (std::size_t i = 0; i < steps; ++i) {
            read(tokens(prompt + i, 1));
        }
        return rows;
    }

    std::vector<float> logits_of(std::span<const compare::TokenId> ids) override {
        session_.truncate(0);
        const gpt2::BatchItem item{&session_, ids, gpt2::Logits::all};
        gpt2::forward({&item, 1});
        const auto rows = session_.logits().flat();
        return {rows.begin(), rows.end()};
    }

    [[nodiscard]] std::string description() const override {
        return std::string("gpt2 ") + gpt2::version_string + ", " +
               std::string(gpt2::to_string(model_.isa())) + ", " + std::to_string(options_.pool->size()) +
               " threads";
    }

    [[nodiscard]] int threads() const override { return static_cast<int>(options_.pool->size()); }

private:
    [[nodiscard]] static gpt2::SessionOptions session_options(const compare::Arguments& arguments) {
        gpt2::SessionOptions options;
        options.pool =
            std::make_shared<gpt2::ThreadPool>(static_cast<std::size_t>(arguments.number("--threads")));
        if (const std::string type = arguments.text("--kv-dtype", ""); !type.empty()) {
            options.kv_dtype = type == "f16" ? gpt2::KvDtype::float16 : gpt2::KvDtype::float32;
        }
        return options;
    }

    [[nodiscard]] static gpt2::Gpt2Model load(const std::string& path,
                                              const std::shared_ptr<gpt2::ThreadPool>& pool) {
        gpt2::LoadOptions options;
        options.pool = pool;
        return gpt2::Gpt2Model::load(path, options);
    }

    [[nodiscard]] std::size_t vocab_size() const { return model_.config().vocab_size; }
    [[nodiscard]] std::vector<gpt2::TokenId> tokens(std::size_t begin, std::size_t n) const {
        return compare::tokens(begin, n, vocab_size());
    }

    void start(std::size_t depth) {
        session_.truncate(0);
        if (depth > 0) {
            (void)session_.forward(tokens(0, depth));
        }
    }

    void step(std::size_t begin, std::size_t n) {
        for (std::size_t i = begin; i < begin + n; ++i) {
            const gpt2::TokenId id = compare::token(i, vocab_size());
            (void)session_.forward({&id, 1});
        }
    }

    gpt2::SessionOptions options_;
    gpt2::Gpt2Model model_;
    gpt2::Session session_;
};

} // namespace

int main(int argc, char** argv) {
    return compare::run(argc, argv, [](const compare::Arguments& arguments) {
        Gpt2 engine(arguments);
        compare::serve(engine, arguments);
    });
}
