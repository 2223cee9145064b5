// SPDX-License-Identifier: MIT

// What observers are told, against the float64 reference; and that they change nothing.

#include "support/compare.hpp"
#include "support/models.hpp"
#include "support/reference.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

using gpt2::BatchItem;
using gpt2::Gpt2Model;
using gpt2::KvDtype;
using gpt2::Logits;
using gpt2::OptionError;
using gpt2::Pooling;
using gpt2::Recorder;
using gpt2::Session;
using gpt2::TokenId;
using gpt2::test::check_throws;
using gpt2::test::mismatch;
namespace test = gpt2::test;

namespace {

constexpr std::size_t n_vocab = test::byte_vocabulary_size;
constexpr Recorder::What everything{
    .hidden_states = true, .last_hidden_states = true, .attention = true, .logits = true};

struct Fixture {
    test::TemporaryDirectory directory;
    gpt2::Config config = test::odd_config();

    Fixture() { test::write_model(directory.path(), config); }
    [[nodiscard]] Gpt2Model load() const { return Gpt2Model::load(directory.path()); }
};

std::vector<TokenId> tokens(std::size_t n, std::uint32_t seed = 1) {
    return test::some_tokens(n, n_vocab, seed);
}

std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
}

/// The largest error of a row in standard deviations.
double distance(const test::Estimate& expected, std::size_t t, std::span<const float> found) {
    return test::deviations(expected, static_cast<Eigen::Index>(t), found);
}

/// Row t of the weights of a head, [t + 1].
test::Estimate row_of_weights(const test::Estimate& weights, std::size_t t) {
    const auto n = static_cast<Eigen::Index>(t + 1);
    test::Estimate row(1, n);
    row.value = weights.value.row(n - 1).head(n);
    row.variance = weights.variance.row(n - 1).head(n);
    return row;
}

void check_recorded(const Recorder& recorder, const test::Inside& inside, const gpt2::Config& config,
                    std::size_t n) {
    double most = 0.0;
    double most_weights = 0.0;
    for (std::size_t t = 0; t < n; ++t) {
        for (std::size_t layer = 0; layer <= config.n_layer; ++layer) {
            most =
                std::max(most, distance(inside.hidden_states[layer], t, recorder.hidden_state_at(layer, t)));
        }
        most = std::max(most, distance(inside.last_hidden_states[0], t, recorder.last_hidden_state_at(t)));
        for (std::size_t i = 0; i < config.n_layer * config.n_head; ++i) {
            const auto found = recorder.attention_at(i / config.n_head, i % config.n_head, t);
            REQUIRE(found.size() == t + 1);
            most_weights = std::max(most_weights, distance(row_of_weights(inside.attention[i], t), 0, found));
        }
    }
    MESSAGE("hidden states: ", most, ", weights: ", most_weights, " standard deviations");
    CHECK(most < test::tolerance);
    CHECK(most_weights < test::tolerance);
}

/// Throws at one of its calls.
class Thrower : public gpt2::Observer {
public:
    void hidden_state(std::size_t layer, std::size_t position, std::span<const float> /*x*/) override {
        if (layer == 2 && position == at) {
            throw std::runtime_error("seen enough");
        }
    }
    std::size_t at = 0;
};

} // namespace

TEST_CASE("hidden states, attention and logits against the reference, in one pass and token by token") {
    const Fixture fixture;
    const Gpt2Model model = fixture.load();
    const test::Reference reference(gpt2::Checkpoint::open(fixture.directory.path()));
    constexpr std::size_t n = 90; // beyond a block of keys
    const auto all = tokens(n);
    for (const KvDtype cache : {KvDtype::float32, KvDtype::float16}) {
        CAPTURE(to_string(cache));
        test::Inside inside;
        const test::Estimate expected = reference.logits(all, 0, cache, &inside);
        const auto whole = std::make_shared<Recorder>(everything);
        Session session(model, {.pool = nullptr, .kv_dtype = cache, .profile = nullptr, .observer = whole});
        const BatchItem item{&session, all, Logits::all};
        gpt2::forward({&item, 1});
        check_recorded(*whole, inside, fixture.config, n);
        for (std::size_t t = 0; t < n; ++t) {
            CHECK(mismatch(whole->logits_at(t), session.logits()[t].flat()) == "");
        }
        CHECK(distance(expected, n - 1, whole->logits_at(n - 1)) < test::tolerance);

        const auto step = std::make_shared<Recorder>(everything);
        Session stepwise(model, {.pool = nullptr, .kv_dtype = cache, .profile = nullptr, .observer = step});
        for (const TokenId token : all) {
            stepwise.forward({&token, 1});
        }
        for (std::size_t t = 0; t < n; ++t) {
            CHECK(mismatch(step->last_hidden_state_at(t), whole->last_hidden_state_at(t)) == "");
            CHECK(mismatch(step->attention_at(2, 4, t), whole->attention_at(2, 4, t)) == "");
            CHECK(mismatch(step->hidden_state_at(1, t), whole->hidden_state_at(1, t)) == "");
        }
    }
}

TEST_CASE("observed or not, the same bits; and each observer sees its own session alone") {
    const Fixture fixture;
    const Gpt2Model model = fixture.load();
    const auto left = tokens(70);
    const auto right = tokens(20, 2);
    Session plain_left(model);
    Session plain_right(model);
    const std::vector<float> expected_left = copy(plain_left.forward(left));
    const std::vector<float> expected_right = copy(plain_right.forward(right));

    const auto recorder = std::make_shared<Recorder>(everything);
    Session observed(model, {.pool = nullptr, .kv_dtype = {}, .profile = nullptr, .observer = recorder});
    Session other(model);
    const std::array items{BatchItem{&other, right}, BatchItem{&observed, left}};
    gpt2::forward(items);
    CHECK(mismatch(observed.logits().flat(), expected_left) == "");
    CHECK(mismatch(other.logits().flat(), expected_right) == "");
    CHECK(mismatch(recorder->logits_at(69), expected_left) == "");
    check_throws<OptionError>([&] { static_cast<void>(recorder->logits_at(68)); }, {"logits", "68"});
    check_throws<OptionError>([&] { static_cast<void>(recorder->hidden_state_at(4, 0)); },
                              {"hidden state", "4"});
    check_throws<OptionError>([&] { static_cast<void>(recorder->attention_at(3, 0, 0)); },
                              {"attention", "3"});
    check_throws<OptionError>([&] { static_cast<void>(recorder->last_hidden_state_at(70)); },
                              {"last hidden state", "70"});

    SUBCASE("a fork has no observer") {
        Session fork = observed.fork();
        fork.forward(right);
        check_throws<OptionError>([&] { static_cast<void>(recorder->logits_at(89)); }, {"89"});
    }
    SUBCASE("while a text is written, with the head that screens when nobody looks") {
        const auto screened = Gpt2Model::load(fixture.directory.path(), {.screen_head = true});
        const auto seen = std::make_shared<Recorder>(Recorder::What{.logits = true});
        Session session(screened, {.pool = nullptr, .kv_dtype = {}, .profile = nullptr, .observer = seen});
        const gpt2::GenerationConfig config{.max_new_tokens = 5, .ignore_eos = true};
        const auto result = session.generate(left, config);
        CHECK(result.tokens == Session(model).generate(left, config).tokens);
        for (std::size_t i = 0; i < 5; ++i) {
            const auto logits = seen->logits_at(69 + i);
            CHECK(std::ranges::max_element(logits) - logits.begin() == result.tokens[i]);
        }
    }
}

TEST_CASE("what an observer throws reaches the caller, and no session moves") {
    const Fixture fixture;
    const Gpt2Model model = fixture.load();
    const auto all = tokens(30);
    const auto thrower = std::make_shared<Thrower>();
    Session session(model, {.pool = nullptr, .kv_dtype = {}, .profile = nullptr, .observer = thrower});
    thrower->at = 25;
    session.forward(std::span(all).first(20));
    CHECK_THROWS_WITH_AS(session.forward(std::span(all).subspan(20)), "seen enough", std::runtime_error);
    CHECK(session.position() == 20);
    thrower->at = 1000;
    Session plain(model);
    CHECK(mismatch(session.forward(std::span(all).subspan(20)), plain.forward(all)) == "");
}

TEST_CASE("a text as one vector") {
    const Fixture fixture;
    const Gpt2Model model = fixture.load();
    const test::Reference reference(gpt2::Checkpoint::open(fixture.directory.path()));
    const auto all = tokens(40);
    test::Inside inside;
    static_cast<void>(reference.logits(all, 39, KvDtype::float32, &inside));
    const test::Estimate& states = inside.last_hidden_states[0];
    const gpt2::SessionOptions options{.pool = nullptr, .kv_dtype = KvDtype::float32};
    const std::span<const TokenId> ids(all);

    CHECK(distance(states, 39, gpt2::embed(model, ids, Pooling::last, options)) < test::tolerance);
    test::Estimate mean(1, states.value.cols());
    mean.value.row(0) = states.value.colwise().mean();
    // (Errors of different positions need not be independent: their largest, not their mean.)
    mean.variance.row(0) = states.variance.colwise().maxCoeff();
    CHECK(distance(mean, 0, gpt2::embed(model, ids, Pooling::mean, options)) < test::tolerance);

    const std::string_view text = "a text";
    CHECK(mismatch(gpt2::embed(model, text), gpt2::embed(model, model.tokenizer().encode(text))) == "");
    check_throws<OptionError>([&] { static_cast<void>(gpt2::embed(model, "")); }, {"at least one token"});
}
