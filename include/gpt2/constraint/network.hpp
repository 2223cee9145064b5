// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/constraint/syntax.hpp"
#include "gpt2/constraint/syntax_checks.hpp"
#include "gpt2/error.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Patterns as networks of bytes.
///
/// Each rule is a graph of positions, from its begin to its end. An edge reads a byte of a range, or nothing,
/// or what another rule reads (a recursive transition network: Woods, Transition Network Grammars for Natural
/// Language Analysis, 1970). Characters are their bytes in UTF-8, so that a text may be cut anywhere.

namespace gpt2::detail {

/// The edges out of each position, in one array.
template <class Edge> class EdgeList {
public:
    void add(std::uint32_t from, Edge edge) { unsorted_.push_back({from, edge}); }
    [[nodiscard]] std::size_t size() const noexcept { return unsorted_.size() + sorted_.size(); }

    /// Once, when all are there; those of a position stay in their order.
    void finish(std::size_t n_positions) {
        begins_.assign(n_positions + 1, 0);
        for (const auto& [from, edge] : unsorted_) {
            ++begins_[from + 1];
        }
        for (std::size_t i = 0; i < n_positions; ++i) {
            begins_[i + 1] += begins_[i];
        }
        std::vector<std::uint32_t> next(begins_.begin(), begins_.end() - 1);
        sorted_.resize(unsorted_.size());
        for (const auto& [from, edge] : unsorted_) {
            sorted_[next[from]++] = edge;
        }
        unsorted_ = {};
    }

    [[nodiscard]] std::span<const Edge> operator[](std::uint32_t from) const noexcept {
        return {sorted_.data() + begins_[from], sorted_.data() + begins_[from + 1]};
    }
    [[nodiscard]] const std::vector<Edge>& all() const noexcept { return sorted_; }

private:
    std::vector<std::pair<std::uint32_t, Edge>> unsorted_;
    std::vector<Edge> sorted_;
    std::vector<std::uint32_t> begins_;
};

/// The networks of all rules. Immutable once it is built.
struct Network {
    struct ByteEdge {
        std::uint8_t first;
        std::uint8_t last;
        std::uint32_t to;
    };
    /// Goes through a rule, from its begin to its end, and on to a position.
    struct Call {
        std::uint32_t begin;
        std::uint32_t to;
    };

    static constexpr std::uint32_t complete = 0; ///< the position behind the whole text; nothing leads on

    const char* what = "grammar";
    EdgeList<ByteEdge> bytes;
    EdgeList<std::uint32_t> free; ///< read nothing
    EdgeList<Call> calls;
    std::vector<bool> is_end;         ///< of a rule, by position
    std::vector<std::uint32_t> ranks; ///< of positions: those that lead to others without a byte come first
    std::uint32_t begin = 0;          ///< of the rule that is the whole text
    /// Bytes between which no edge tells a difference have the same class.
    std::array<std::uint8_t, 256> classes{};
    std::vector<std::uint8_t> members; ///< one byte of each class

    [[nodiscard]] std::size_t size() const noexcept { return is_end.size(); }
};

/// Builds networks.
class NetworkBuilder {
public:
    static constexpr std::size_t most_positions = 65'536;
    static constexpr std::size_t most_edges = 4 * most_positions;

    explicit NetworkBuilder(const Syntax& syntax) : syntax_(syntax) { network_.what = syntax.what; }

    [[nodiscard]] Network build() && {
        (void)position(); // Network::complete
        for (std::size_t i = 0; i < syntax_.rules.size(); ++i) {
            begins_.push_back(position());
            ends_.push_back(position());
            network_.is_end[ends_[i]] = true;
        }
        for (std::size_t i = 0; i < syntax_.rules.size(); ++i) {
            add(syntax_.rules[i].body, begins_[i], ends_[i]);
        }
        network_.begin = begins_[syntax_.root];
        const std::size_t n = network_.size();
        network_.bytes.finish(n);
        network_.free.finish(n);
        network_.calls.finish(n);
        rank();
        classify();
        return std::move(network_);
    }

private:
    using Kind = Expression::Kind;

    [[nodiscard]] std::uint32_t position() {
        if (network_.size() == most_positions) {
            throw OptionError(concat(syntax_.what, ": expected at most ", most_positions,
                                     " positions when repetitions and classes are written out, found more"));
        }
        network_.is_end.push_back(false);
        return static_cast<std::uint32_t>(network_.size() - 1);
    }

    template <class Edge> void edge(EdgeList<Edge>& list, std::uint32_t from, const Edge& edge) {
        if (network_.bytes.size() + network_.free.size() + network_.calls.size() == most_edges) {
            throw OptionError(concat(syntax_.what, ": expected at most ", most_edges,
                                     " edges when repetitions and classes are written out, found more"));
        }
        list.add(from, edge);
    }

    void add(const Expression& e, std::uint32_t from, std::uint32_t to) {
        switch (e.kind) {
        case Kind::bytes:
            add_bytes(e, from, to);
            break;
        case Kind::characters:
            add_characters(e.characters, from, to);
            break;
        case Kind::rule:
            edge(network_.calls, from, {begins_[e.rule], to});
            calls_of_end_.emplace_back(ends_[e.rule], to);
            break;
        case Kind::sequence:
            for (std::size_t i = 0; i < e.parts.size(); ++i) {
                const std::uint32_t next = i + 1 == e.parts.size() ? to : position();
                add(e.parts[i], from, next);
                from = next;
            }
            break;
        case Kind::choice:
            for (const Expression& part : e.parts) {
                add(part, from, to);
            }
            break;
        case Kind::repeat:
            add_repeat(e, from, to);
            break;
        }
    }

    void add_bytes(const Expression& e, std::uint32_t from, std::uint32_t to) {
        if (e.bytes.empty()) {
            edge(network_.free, from, to);
        }
        for (std::size_t i = 0; i < e.bytes.size(); ++i) {
            const std::uint32_t next = i + 1 == e.bytes.size() ? to : position();
            const auto byte = static_cast<std::uint8_t>(e.bytes[i]);
            edge(network_.bytes, from, {byte, byte, next});
            from = next;
        }
    }

    void add_repeat(const Expression& e, std::uint32_t from, std::uint32_t to) {
        const Expression& part = e.parts.front();
        for (std::uint32_t i = 0; i < e.min; ++i) {
            const std::uint32_t next = i + 1 == e.max ? to : position();
            add(part, from, next);
            from = next;
        }
        if (e.max == Expression::no_limit) {
            const std::uint32_t loop = position();
            edge(network_.free, from, loop);
            add(part, loop, loop);
            edge(network_.free, loop, to);
            return;
        }
        for (std::uint32_t i = e.min; i < e.max; ++i) {
            edge(network_.free, from, to);
            const std::uint32_t next = i + 1 == e.max ? to : position();
            add(part, from, next);
            from = next;
        }
        if (e.max == 0) {
            edge(network_.free, from, to);
        }
    }

    void add_characters(const CodePointSet& set, std::uint32_t from, std::uint32_t to) {
        // The largest number and the lead bits of each length of UTF-8 (RFC 3629, section 3).
        static constexpr std::array<std::uint32_t, 4> largest{0x7f, 0x7ff, 0xffff, 0x10ffff};
        static constexpr std::array<std::uint32_t, 4> lead{0, 0xc0, 0xe0, 0xf0};
        tails_.fill(none);
        for (const CodePointSet::Range& range : set.ranges()) {
            std::uint32_t least = 0;
            for (std::size_t n = 0; n < largest.size(); ++n) {
                const std::uint32_t first = std::max(range.first, least);
                const std::uint32_t last = std::min(range.last, largest[n]);
                if (first <= last) {
                    add_range(first, last, n, lead[n], from, to);
                }
                least = largest[n] + 1;
            }
        }
    }

    /// The bytes of the numbers from @p first to @p last, which have @p n times 6 bits below their first
    /// byte.
    /// @param lead  the bits of the first byte that are not the number's
    void add_range(std::uint32_t first, std::uint32_t last, std::size_t n, std::uint32_t lead,
                   std::uint32_t from, std::uint32_t to) {
        const std::uint32_t low = (1u << 6 * n) - 1;
        const std::uint32_t a = first >> 6 * n;
        const std::uint32_t b = last >> 6 * n;
        const auto byte_edge = [&](std::uint32_t i, std::uint32_t k, std::uint32_t next) {
            edge(network_.bytes, from,
                 {static_cast<std::uint8_t>(lead | i), static_cast<std::uint8_t>(lead | k), next});
        };
        if ((first & low) == 0 && (last & low) == low) {
            byte_edge(a, b, n == 0 ? to : tail(n, to));
        } else if (a == b) {
            const std::uint32_t next = position();
            byte_edge(a, a, next);
            add_range(first & low, last & low, n - 1, 0x80, next, to);
        } else if ((first & low) != 0) {
            add_range(first, first | low, n, lead, from, to);
            add_range((first | low) + 1, last, n, lead, from, to);
        } else {
            add_range(first, (last & ~low) - 1, n, lead, from, to);
            add_range(last & ~low, last, n, lead, from, to);
        }
    }

    /// A position from which any @p n bytes 80 to BF lead to @p to.
    [[nodiscard]] std::uint32_t tail(std::size_t n, std::uint32_t to) {
        if (n == 0) {
            return to;
        }
        if (tails_[n] == none) {
            const std::uint32_t next = tail(n - 1, to);
            tails_[n] = position();
            edge(network_.bytes, tails_[n], {0x80, 0xbf, next});
        }
        return tails_[n];
    }

    /// Numbers the positions so that most edges without a byte lead to larger ranks.
    void rank() {
        EdgeList<std::uint32_t> next;
        for (std::uint32_t from = 0; from < network_.size(); ++from) {
            for (const std::uint32_t to : network_.free[from]) {
                next.add(from, to);
            }
            for (const Network::Call& call : network_.calls[from]) {
                next.add(from, call.begin);
            }
        }
        for (const auto& [end, to] : calls_of_end_) {
            next.add(end, to);
        }
        next.finish(network_.size());
        const auto order = depth_first(
            network_.size(), [&](std::uint32_t from) { return next[from]; }, [](const auto&, auto) {});
        network_.ranks.resize(order.size());
        for (std::size_t i = 0; i < order.size(); ++i) {
            network_.ranks[order[order.size() - 1 - i]] = static_cast<std::uint32_t>(i);
        }
    }

    void classify() {
        std::array<bool, 257> begins{};
        begins[0] = true;
        for (const Network::ByteEdge& e : network_.bytes.all()) {
            begins[e.first] = true;
            begins[e.last + std::size_t{1}] = true;
        }
        for (std::size_t byte = 0; byte < 256; ++byte) {
            if (begins[byte]) {
                network_.members.push_back(static_cast<std::uint8_t>(byte));
            }
            network_.classes[byte] = static_cast<std::uint8_t>(network_.members.size() - 1);
        }
    }

    static constexpr std::uint32_t none = 0; // no tail is Network::complete

    const Syntax& syntax_;
    Network network_;
    std::vector<std::uint32_t> begins_;
    std::vector<std::uint32_t> ends_;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> calls_of_end_; ///< where the end of a rule leads
    std::array<std::uint32_t, 4> tails_{};                              ///< of one set of characters
};

/// @throws OptionError  naming the rules that cannot be followed, or the limit that is exceeded
GPT2_HEAVY [[nodiscard]] Network build_network(const Syntax& syntax) {
    SyntaxChecks(syntax).run();
    return NetworkBuilder(syntax).build();
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE Network build_network<void>(const Syntax&);
#endif

} // namespace gpt2::detail
