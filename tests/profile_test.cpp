// SPDX-License-Identifier: MIT
// Where time goes: spans, their sums, and the trace file.
#include "support/models.hpp"

#include <gpt2/gpt2.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using gpt2::Profile;

std::map<std::string, Profile::Total> by_name(const Profile& profile) {
    std::map<std::string, Profile::Total> result;
    for (const Profile::Total& total : profile.totals()) {
        result[std::string(total.name)] = total;
    }
    return result;
}

TEST_CASE("spans: own time is what lies in no span inside; own times add up to the outermost") {
    Profile profile;
    {
        const Profile::Span outer(&profile, "outer");
        for (std::size_t i = 0; i < 3; ++i) {
            const Profile::Span inner(&profile, "inner", i);
            const Profile::Span innermost(&profile, "innermost");
        }
        std::thread([&] { const Profile::Span other(&profile, "other thread"); }).join();
    }
    const Profile::Span nothing(nullptr, "nothing");
    CHECK(profile.events().size() == 8);
    const auto totals = by_name(profile);
    REQUIRE(totals.size() == 4);
    CHECK(totals.at("outer").calls == 1);
    CHECK(totals.at("inner").calls == 3);
    CHECK(totals.at("outer").own_seconds ==
          doctest::Approx(totals.at("outer").seconds - totals.at("inner").seconds));
    CHECK(totals.at("inner").own_seconds ==
          doctest::Approx(totals.at("inner").seconds - totals.at("innermost").seconds));
    CHECK(totals.at("other thread").own_seconds == totals.at("other thread").seconds);
    profile.clear();
    CHECK(profile.events().empty());
    CHECK(profile.totals().empty());
}

TEST_CASE("a generation: every layer of every pass, once") {
    const auto model = gpt2::Gpt2Model::load(gpt2::test::novella());
    const std::size_t n_layer = model.config().n_layer;
    const auto profile = std::make_shared<Profile>();
    gpt2::Session session(model, {.pool = std::make_shared<gpt2::ThreadPool>(2), .profile = profile});
    const auto result = session.generate(model.encode_prompt("Once upon a time"), {.max_new_tokens = 5});
    const std::size_t passes = result.tokens.size(); // the last token is not read
    const auto totals = by_name(*profile);
    for (const char* const name :
         {"attn.c_attn", "attention", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "h"}) {
        CAPTURE(name);
        REQUIRE(totals.contains(name));
        CHECK(totals.at(name).calls == passes * n_layer);
    }
    CHECK(totals.at("layer_norm").calls == passes * (2 * n_layer + 1));
    for (const char* const name : {"forward", "embed", "lm_head", "choose"}) {
        CAPTURE(name);
        CHECK(totals.at(name).calls == passes);
    }
    const std::string table = profile->table();
    for (const auto& [name, total] : totals) {
        CHECK(table.find(name) != std::string::npos);
    }
}

TEST_CASE("the trace: JSON with one complete event per span, the first at 0") {
    Profile empty;
    std::ostringstream nothing;
    empty.write_chrome_trace(nothing);
    CHECK(nlohmann::json::parse(nothing.str()).at("traceEvents").empty());

    Profile profile;
    {
        const Profile::Span outer(&profile, "forward");
        const Profile::Span inner(&profile, "h", 11);
    }
    std::ostringstream out;
    profile.write_chrome_trace(out);
    const auto events = nlohmann::json::parse(out.str()).at("traceEvents");
    REQUIRE(events.size() == 2);
    CHECK(events[0].at("name") == "forward");
    CHECK(events[0].at("ts") == 0.0);
    CHECK(events[1].at("name") == "h.11");
    for (const auto& event : events) {
        CHECK(event.at("ph") == "X");
        CHECK(event.at("dur").get<double>() >= 0.0);
    }
    CHECK(events[1].at("ts").get<double>() + events[1].at("dur").get<double>() <=
          events[0].at("dur").get<double>() + 0.001);
}

} // namespace
