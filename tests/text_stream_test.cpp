// SPDX-License-Identifier: MIT
#include "gpt2/random.hpp"
#include "gpt2/text_stream.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

using gpt2::TextStream;

namespace {

using Strings = std::vector<std::string>;

class Numbers {
public:
    explicit Numbers(std::uint64_t seed) : seed_(seed) {}
    std::size_t below(std::size_t n) {
        return static_cast<std::size_t>(gpt2::uniform(seed_, 0, n_++) * static_cast<double>(n));
    }

private:
    std::uint64_t seed_;
    std::uint64_t n_ = 0;
};

std::string repaired(std::string_view bytes) {
    gpt2::Utf8Stream utf8;
    std::string text = utf8.push(bytes);
    return text + utf8.flush();
}

struct Stopped {
    std::string text;
    std::string stop;
};

/// By trying: the shortest beginning of the bytes that ends with a stop string, with the longest of them.
Stopped brute_force(const std::string& bytes, const Strings& stops) {
    for (std::size_t end = 1; end <= bytes.size(); ++end) {
        const std::string begun = bytes.substr(0, end);
        std::string longest;
        for (const std::string& stop : stops) {
            if (begun.size() >= stop.size() && begun.substr(end - stop.size()) == stop &&
                stop.size() > longest.size()) {
                longest = stop;
            }
        }
        if (!longest.empty()) {
            return {repaired(begun.substr(0, end - longest.size())), longest};
        }
    }
    return {repaired(bytes), ""};
}

/// How many of the last bytes could still become a stop string, by trying.
std::size_t undecided(const std::string& bytes, const Strings& stops) {
    for (std::size_t n = bytes.size(); n > 0; --n) {
        const std::string end = bytes.substr(bytes.size() - n);
        for (const std::string& stop : stops) {
            if (stop.size() > n && stop.substr(0, n) == end) {
                return n;
            }
        }
    }
    return 0;
}

std::string text_of(TextStream& stream, const Strings& pieces) {
    std::string text;
    for (const std::string& piece : pieces) {
        text += stream.push(piece);
    }
    return text + stream.flush();
}

std::string random_bytes(Numbers& random, std::size_t longest) {
    // Few letters make many partial matches; the rest are parts of characters, in and out of place.
    static constexpr std::string_view letters = "aaaabbb\n\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff";
    std::string out(random.below(longest + 1), 'a');
    std::generate(out.begin(), out.end(), [&] { return letters[random.below(letters.size())]; });
    return out;
}

} // namespace

TEST_CASE("without stop strings text is the repaired bytes, at once") {
    TextStream stream;
    CHECK(stream.push("Once ") == "Once ");
    CHECK(stream.push("caf\xc3") == "caf");
    CHECK(stream.push("\xa9 \xff!") == "\xc3\xa9 \xef\xbf\xbd!");
    CHECK(stream.push("") == "");
    CHECK(stream.push("\xe2\x82") == "");
    CHECK(stream.flush() == "\xef\xbf\xbd");
    CHECK_FALSE(stream.stopped());
}

TEST_CASE("text is held back only while it could become a stop string") {
    TextStream stream({"\n\nEnd"});
    CHECK(stream.push("One\n") == "One");
    CHECK(stream.push("two\n") == "\ntwo");
    CHECK(stream.push("\n") == "");
    CHECK(stream.push("\n") == "\n"); // the last two may still begin it
    CHECK(stream.push("En") == "");
    CHECK(stream.push("emy") == "\n\nEnemy");
    CHECK(stream.push("\n\nE") == "");
    CHECK(stream.push("nd of it") == "");
    CHECK(stream.stopped());
    CHECK(stream.stop_string() == "\n\nEnd");
    CHECK(stream.push("more") == "");
    CHECK(stream.flush() == "");
}

TEST_CASE("what is held back at the end belongs to the text") {
    TextStream stream({"stop"});
    CHECK(stream.push("a sto") == "a ");
    CHECK(stream.flush() == "sto");
}

TEST_CASE("the first stop string to be complete wins, the longer on a tie") {
    struct Case {
        Strings stops;
        std::string bytes, text, stop;
    };
    for (const Case& c : std::vector<Case>{{{"abcd", "bc"}, "xabcd", "xa", "bc"},
                                           {{"bc", "abc"}, "xabcd", "x", "abc"},
                                           {{"abc", "bc"}, "xabcd", "x", "abc"},
                                           {{"b", "ab", "aab"}, "aaab", "a", "aab"},
                                           {{"aab"}, "aaab", "a", "aab"},
                                           {{"abab"}, "aababab", "a", "abab"},
                                           {{"x", "x"}, "x", "", "x"},
                                           {{"\xc3\xa9"}, "caf\xc3\xa9!", "caf", "\xc3\xa9"},
                                           {{"\xa9"}, "caf\xc3\xa9!", "caf\xef\xbf\xbd", "\xa9"}}) {
        TextStream stream(c.stops);
        CHECK(text_of(stream, {c.bytes}) == c.text);
        CHECK(stream.stop_string() == c.stop);
    }
}

TEST_CASE("an empty stop string is an error that says which") {
    CHECK_THROWS_WITH_AS(TextStream(Strings{"a", ""}), "stop_strings[1] is empty, expected at least one byte",
                         gpt2::OptionError);
}

TEST_CASE("any bytes, any stop strings, cut anywhere: as by brute force") {
    Numbers random(1);
    std::size_t stopped = 0;
    for (int i = 0; i < 3000; ++i) {
        CAPTURE(i);
        Strings stops;
        for (std::size_t n = random.below(4); n > 0; --n) {
            stops.push_back(random_bytes(random, 4));
            stops.back() += "ab\n"[random.below(3)];
        }
        const std::string bytes = random_bytes(random, 60);
        const Stopped expected = brute_force(bytes, stops);
        stopped += expected.stop.empty() ? 0 : 1;
        for (int split = 0; split < 4; ++split) {
            TextStream stream(stops);
            std::string text;
            std::string read;
            while (read.size() < bytes.size() && !stream.stopped()) {
                const std::string piece =
                    bytes.substr(read.size(), split == 0 ? bytes.size() : random.below(5));
                read += piece;
                text += stream.push(piece);
                if (!stream.stopped()) { // exactly what cannot change any more is out
                    gpt2::Utf8Stream utf8;
                    REQUIRE(text == utf8.push(read.substr(0, read.size() - undecided(read, stops))));
                }
            }
            text += stream.flush();
            REQUIRE(text == expected.text);
            REQUIRE(stream.stop_string() == expected.stop);
        }
    }
    CHECK(stopped > 500);
    CHECK(stopped < 2500);
}

TEST_CASE("a long stop string does not make the stream slow") {
    std::string stop(20001, 'a');
    stop.back() = 'b';
    TextStream stream({stop});
    std::string text;
    for (int i = 0; i < 400; ++i) {
        text += stream.push(std::string(1000, 'a'));
    }
    CHECK(text.size() == 380000);
    text += stream.flush();
    CHECK(text == std::string(400000, 'a'));
}
