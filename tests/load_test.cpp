// SPDX-License-Identifier: MIT

// Gpt2Model::load: whatever a checkpoint looks like, the model is the one that the configuration and the
// tensors describe; and what cannot be a model is refused with a reason.

#include "support/compare.hpp"
#include "support/reference.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

using gpt2::Dtype;
using gpt2::FileError;
using gpt2::FormatError;
using gpt2::Gpt2Model;
using gpt2::Isa;
using gpt2::NumericError;
using gpt2::OptionError;
using gpt2::TokenId;
using gpt2::WeightType;
using gpt2::test::check_throws;
using gpt2::test::mismatch;
using gpt2::tools::RandomModelOptions;
namespace test = gpt2::test;

namespace {

RandomModelOptions stored_as(Dtype dtype) {
    RandomModelOptions options;
    options.dtype = dtype;
    return options;
}

Gpt2Model load(const std::filesystem::path& path, std::optional<WeightType> weights = {}) {
    return Gpt2Model::load(path, {.weights = weights, .isa = {}, .pool = nullptr});
}

const std::vector<TokenId>& tokens() {
    static const auto some = test::some_tokens(100, test::byte_vocabulary_size);
    return some;
}

/// After each token.
std::vector<float> logits(const Gpt2Model& model) {
    gpt2::Session session(model, {.pool = nullptr, .kv_dtype = gpt2::KvDtype::float32});
    const gpt2::BatchItem item{&session, tokens(), gpt2::Logits::all};
    gpt2::forward({&item, 1});
    const auto all = session.logits().flat();
    return {all.begin(), all.end()};
}

/// The largest error, in standard deviations, over all logits.
double deviations(const test::Reference& reference, const Gpt2Model& model) {
    const test::Estimate expected = reference.logits(tokens(), 0);
    const std::vector<float> found = logits(model);
    const std::size_t V = model.config().vocab_size;
    double most = 0.0;
    for (std::size_t t = 0; t < tokens().size(); ++t) {
        most = std::max(most, test::deviations(expected, static_cast<Eigen::Index>(t),
                                               std::span<const float>(found).subspan(t * V, V)));
    }
    return most;
}

void set_isa(const char* value) {
#if defined(_WIN32)
    _putenv_s("GPT2_ISA", value);
#else
    setenv("GPT2_ISA", value, 1);
#endif
}

/// Restores GPT2_ISA, which may be set for the whole test run.
class SavedIsa {
public:
    SavedIsa() {
        if (const char* value = std::getenv("GPT2_ISA")) {
            saved_ = value;
        }
    }
    SavedIsa(const SavedIsa&) = delete;
    SavedIsa& operator=(const SavedIsa&) = delete;
    ~SavedIsa() { set_isa(saved_.c_str()); } // empty means unset

private:
    std::string saved_;
};

} // namespace

TEST_CASE("weights of each type, as they are and in each format asked for") {
    for (const Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
        CAPTURE(dtype_name(dtype));
        const test::TemporaryDirectory directory;
        test::write_model(directory.path(), test::odd_config(), stored_as(dtype));
        const auto checkpoint = gpt2::Checkpoint::open(directory.path());
        const auto own = logits(load(directory.path()));
        const auto as = [](Dtype type) {
            return type == Dtype::F16    ? WeightType::float16
                   : type == Dtype::BF16 ? WeightType::bfloat16
                                         : WeightType::float32;
        };
        CHECK(mismatch(logits(load(directory.path(), as(dtype))), own) == "");
        // A 16-bit number is a float32 number: the arithmetic is the same.
        CHECK(mismatch(logits(load(directory.path(), WeightType::float32)), own) == "");
        for (const auto type : {WeightType::float32, WeightType::float16, WeightType::bfloat16}) {
            CAPTURE(to_string(type));
            const auto model = load(directory.path(), type);
            const test::Reference reference(checkpoint, type);
            CHECK(deviations(reference, model) < test::tolerance);
            // Numbers were rounded, and it shows. (bfloat16 numbers of this size are float16 numbers.)
            if (type == WeightType::bfloat16 ? dtype != Dtype::BF16
                                             : type == WeightType::float16 && dtype == Dtype::F32) {
                CHECK(deviations(test::Reference(checkpoint), model) > test::tolerance);
            }
        }
    }
}

TEST_CASE("the same numbers in a wider type are the same model") {
    for (const Dtype narrow : {Dtype::F16, Dtype::BF16}) {
        const test::TemporaryDirectory directory;
        const test::TemporaryDirectory wide;
        test::write_model(directory.path(), test::odd_config(), stored_as(narrow));
        test::write_checkpoint(wide.path(), gpt2::Checkpoint::open(directory.path()), Dtype::F32);
        test::write_byte_vocabulary(wide.path());
        const auto expected = logits(load(directory.path()));
        CHECK(mismatch(logits(load(wide.path())), expected) == "");
        const auto type = narrow == Dtype::F16 ? WeightType::float16 : WeightType::bfloat16;
        const auto packed = load(wide.path(), type);
        CHECK(mismatch(logits(packed), expected) == "");
        CHECK(2 * packed.bytes_read() == load(wide.path()).bytes_read());
    }
}

TEST_CASE("names with a prefix, shards, a copy of the tied head and any alignment change nothing") {
    const test::TemporaryDirectory plain;
    test::write_model(plain.path(), test::odd_config());
    const auto expected = logits(load(plain.path()));
    const auto check = [&](auto change) {
        const test::TemporaryDirectory directory;
        RandomModelOptions options;
        change(options);
        test::write_model(directory.path(), test::odd_config(), options);
        CHECK(mismatch(logits(load(directory.path())), expected) == "");
    };
    check([](RandomModelOptions& o) { o.prefix = true; });
    check([](RandomModelOptions& o) { o.shards = 5; });
    check([](RandomModelOptions& o) {
        o.shards = 3;
        o.prefix = true;
    });
    check([](RandomModelOptions& o) { o.header_padding = 2; });
}

TEST_CASE("a separate head is used, and one that equals the embeddings is like none") {
    const test::TemporaryDirectory tied;
    const test::TemporaryDirectory separate;
    const test::TemporaryDirectory equal;
    test::write_model(tied.path(), test::odd_config());
    RandomModelOptions options;
    options.tied = false;
    test::write_model(separate.path(), test::odd_config(), options);
    const auto with_head = gpt2::Checkpoint::open(separate.path());
    const auto model = load(separate.path());
    CHECK(deviations(test::Reference(with_head), model) < test::tolerance);
    CHECK(mismatch(logits(model), logits(load(tied.path()))) != "");

    const std::vector<float> wte = test::widened(with_head.tensor("wte.weight"));
    test::write_checkpoint(equal.path(), with_head, Dtype::F32,
                           [&](std::string_view name, std::span<float> values) {
                               if (name == "lm_head.weight") {
                                   std::copy(wte.begin(), wte.end(), values.begin());
                               }
                           });
    test::write_byte_vocabulary(equal.path());
    CHECK(mismatch(logits(load(equal.path())), logits(load(tied.path()))) == "");
}

TEST_CASE("every option of the configuration means what it says") {
    const auto check = [](const gpt2::Config& config, double weight_scale = 1.0) {
        const test::TemporaryDirectory directory;
        test::write_model(directory.path(), config, {}, [=](std::string_view name, std::span<float> values) {
            // Scores that differ, so that the softmax is one.
            const bool grows = name.find("c_attn.weight") != std::string_view::npos;
            for (float& value : values) {
                value *= grows ? static_cast<float>(weight_scale) : 1.0f;
            }
        });
        const auto model = load(directory.path());
        CHECK(model.config() == config);
        const double found = deviations(test::Reference(gpt2::Checkpoint::open(directory.path())), model);
        CHECK(found < test::tolerance);
        return logits(model);
    };
    const auto base = check(test::odd_config(), 20.0);
    const auto changed = [&](auto change) {
        gpt2::Config config = test::odd_config();
        change(config);
        const auto found = check(config, 20.0);
        CHECK(mismatch(found, base) != "");
    };
    changed([](gpt2::Config& c) { c.activation = gpt2::Activation::gelu_erf; });
    changed([](gpt2::Config& c) { c.activation = gpt2::Activation::relu; });
    changed([](gpt2::Config& c) { c.scale_attn_weights = false; });
    changed([](gpt2::Config& c) { c.scale_attn_by_inverse_layer_idx = true; });
    changed([](gpt2::Config& c) { c.layer_norm_epsilon = 1e-3f; });
    changed([](gpt2::Config& c) { c.n_head = 1; });
    changed([](gpt2::Config& c) { c.n_head = 45; });
    changed([](gpt2::Config& c) { c.n_head = 3; });
    changed([](gpt2::Config& c) { c.n_inner = 1; });
    changed([](gpt2::Config& c) { c.n_layer = 1; });
}

TEST_CASE("each form of GELU is computed, and is told from the other") {
    using gpt2::Activation;
    constexpr Activation forms[] = {Activation::gelu_tanh, Activation::gelu_erf};
    for (const Activation form : forms) {
        const test::TemporaryDirectory directory;
        gpt2::Config config = test::odd_config();
        config.activation = form;
        test::write_model(directory.path(), config, {}, test::enlarge_matrices);
        const auto model = load(directory.path());
        CHECK(model.config() == config);
        for (const Activation other : forms) {
            config.activation = other;
            test::write_file(directory / "config.json", gpt2::tools::config_json_text(config));
            const double found = deviations(test::Reference(gpt2::Checkpoint::open(directory.path())), model);
            CHECK((found < test::tolerance) == (form == other));
            MESSAGE(std::string(form == other ? "its own" : "the other"), " form: ", found,
                    " standard deviations");
        }
    }
}

TEST_CASE("files are not needed after loading, and a vocabulary may be padded") {
    std::optional<Gpt2Model> model;
    std::vector<float> before;
    {
        const test::TemporaryDirectory directory;
        gpt2::Config config = test::odd_config();
        config.vocab_size = 320; // 61 more than the tokenizer knows
        test::write_model(directory.path(), config);
        model = load(directory.path());
        before = logits(*model);
    }
    CHECK(mismatch(logits(*model), before) == "");
    const auto result =
        model->generate("a", {.max_new_tokens = 100, .do_sample = true, .seed = 3, .ignore_eos = true});
    CHECK(std::ranges::all_of(result.tokens, [](TokenId id) { return id < 259; }));
}

TEST_CASE("what is missing or does not fit is named") {
    const test::TemporaryDirectory directory;
    const auto remove = [&](const char* file) { std::filesystem::remove(directory / file); };
    test::write_model(directory.path(), test::odd_config());
    SUBCASE("vocab.json") {
        remove("vocab.json");
        check_throws<FileError>([&] { load(directory.path()); }, {"vocab.json"});
    }
    SUBCASE("merges.txt") {
        remove("merges.txt");
        check_throws<FileError>([&] { load(directory.path()); }, {"merges.txt"});
    }
    SUBCASE("config.json") {
        remove("config.json");
        check_throws<FileError>([&] { load(directory.path()); }, {"config.json"});
    }
    SUBCASE("model.safetensors") {
        remove("model.safetensors");
        check_throws<FileError>([&] { load(directory.path()); }, {"model.safetensors"});
    }
    SUBCASE("a directory") {
        check_throws<FileError>([&] { load(directory / "none"); }, {"none", "directory"});
        check_throws<FormatError>([&] { load(directory / "config.json"); }, {"config.json", "directory"});
    }
    SUBCASE("a vocabulary that the embeddings have no room for") {
        gpt2::Config config = test::odd_config();
        config.vocab_size = 258;
        test::write_model(directory.path(), config);
        check_throws<FormatError>([&] { load(directory.path()); }, {"vocab", "258", "259"});
    }
    SUBCASE("an embedding with fewer tokens than the configuration says") {
        test::write_file(directory / "config.json",
                         test::replaced(test::read_file(directory / "config.json"), "\"vocab_size\": 259",
                                        "\"vocab_size\": 260"));
        check_throws<FormatError>([&] { load(directory.path()); }, {"wte.weight", "260", "259"});
    }
    SUBCASE("a weight that is not finite") {
        test::write_model(directory.path(), test::odd_config(), {},
                          [](std::string_view name, std::span<float> values) {
                              if (name == "h.1.mlp.c_fc.bias") {
                                  values[17] = std::numeric_limits<float>::quiet_NaN();
                              }
                          });
        check_throws<FormatError>([&] { load(directory.path()); }, {"h.1.mlp.c_fc.bias", "NaN", "17"});
    }
    SUBCASE("a weight that the format asked for cannot hold") {
        test::write_model(directory.path(), test::odd_config(), {},
                          [](std::string_view name, std::span<float> values) {
                              if (name == "h.2.attn.c_proj.weight") {
                                  values[5] = 1e5f;
                              }
                          });
        CHECK(load(directory.path()).config() == test::odd_config());
        CHECK(load(directory.path(), WeightType::bfloat16).config() == test::odd_config());
        check_throws<NumericError>([&] { load(directory.path(), WeightType::float16); },
                                   {"h.2.attn.c_proj.weight"});
    }
}

TEST_CASE("the instruction set: LoadOptions::isa, else GPT2_ISA, else the best") {
    const test::TemporaryDirectory directory;
    test::write_model(directory.path(), gpt2::tools::config_by_name("tiny").value());
    const Isa best = gpt2::supported_isa();
    const SavedIsa saved;
    set_isa("");
    CHECK(load(directory.path()).isa() == best);
    for (const Isa isa : gpt2::all_isas) {
        CAPTURE(to_string(isa));
        const std::string name(to_string(isa));
        set_isa(name.c_str());
        if (gpt2::supports(isa)) {
            CHECK(load(directory.path()).isa() == isa);
        } else {
            check_throws<OptionError>([&] { load(directory.path()); }, {"GPT2_ISA", to_string(best), name});
        }
        CHECK(Gpt2Model::load(directory.path(), {.weights = {}, .isa = best, .pool = nullptr}).isa() == best);
        set_isa("portable");
        const gpt2::LoadOptions options{.weights = {}, .isa = isa, .pool = nullptr};
        if (gpt2::supports(isa)) {
            CHECK(Gpt2Model::load(directory.path(), options).isa() == isa);
        } else {
            check_throws<OptionError>([&] { return Gpt2Model::load(directory.path(), options); },
                                      {"LoadOptions::isa", to_string(best), name});
        }
    }
    for (const char* bad : {"avx", "AVX2", "avx512 ", "3"}) {
        set_isa(bad);
        check_throws<OptionError>([&] { load(directory.path()); }, {"GPT2_ISA", bad, "portable"});
    }
}

TEST_CASE("the tokenizer of a random model has a text for every id of the model") {
    for (const std::size_t vocab_size : {256u, 257u, 300u}) {
        CAPTURE(vocab_size);
        const test::TemporaryDirectory directory;
        gpt2::Config config = gpt2::tools::config_by_name("tiny").value();
        config.vocab_size = vocab_size;
        config.bos_token_id = config.eos_token_id = static_cast<TokenId>(vocab_size - 1);
        gpt2::tools::write_random_model(directory.path(), config);
        gpt2::tools::write_byte_vocabulary(directory.path(), config);
        const Gpt2Model model = load(directory.path());
        CHECK(model.tokenizer().size() == vocab_size);
        const auto last = static_cast<TokenId>(vocab_size - 1);
        CHECK(model.tokenizer().token_bytes(last) == (vocab_size > 256 ? "<|endoftext|>" : "\xff"));
        gpt2::Session session(model);
        const std::vector<TokenId> prompt{last};
        const auto text = session.generate(prompt, {.max_new_tokens = 4, .ignore_eos = true});
        CHECK(text.tokens.size() == 4);
    }
}
