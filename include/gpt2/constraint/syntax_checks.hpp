// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/syntax.hpp"
#include "gpt2/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Which grammars are refused: those in which a rule may call itself before it has read anything, and those
/// with a rule that never ends.

namespace gpt2::detail {

/// Walks a graph depth first, without recursion: it may be deep.
/// @param successors  called with a node, answers a span of nodes
/// @param on_cycle    called for each edge that closes a cycle, with the path to it and the node on it, to
///                    which the edge leads back
/// @returns the nodes, each behind all that it leads to but for cycles
template <class Successors, class OnCycle>
[[nodiscard]] std::vector<std::uint32_t> depth_first(std::size_t n, Successors successors, OnCycle on_cycle) {
    enum class Mark : std::uint8_t { fresh, open, closed };
    std::vector<Mark> marks(n, Mark::fresh);
    std::vector<std::uint32_t> order;
    std::vector<std::uint32_t> path;
    std::vector<std::size_t> progress; // through the successors of each node of the path
    const auto open = [&](std::uint32_t node) {
        marks[node] = Mark::open;
        path.push_back(node);
        progress.push_back(0);
    };
    for (std::uint32_t root = 0; root < n; ++root) {
        if (marks[root] == Mark::fresh) {
            open(root);
        }
        while (!path.empty()) {
            const std::uint32_t node = path.back();
            const std::span<const std::uint32_t> next = successors(node);
            if (progress.back() == next.size()) {
                marks[node] = Mark::closed;
                order.push_back(node);
                path.pop_back();
                progress.pop_back();
                continue;
            }
            const std::uint32_t to = next[progress.back()++];
            if (marks[to] == Mark::fresh) {
                open(to);
            } else if (marks[to] == Mark::open) {
                on_cycle(path, to);
            }
        }
    }
    return order;
}

/// What can be said of the rules of a grammar without running it.
class SyntaxChecks {
public:
    explicit SyntaxChecks(const Syntax& syntax)
        : syntax_(syntax), is_nullable_(syntax.rules.size()), is_productive_(syntax.rules.size()) {}

    /// @throws OptionError naming the rules
    void run() {
        const std::size_t n = syntax_.rules.size();
        std::vector<std::vector<std::uint32_t>> calls(n);
        for (std::size_t i = 0; i < n; ++i) {
            collect_calls(syntax_.rules[i].body, calls[i]);
        }
        const auto order = depth_first(
            n, [&](std::uint32_t rule) { return std::span(calls[rule]); }, [](const auto&, auto) {});
        settle(order, is_nullable_, [this](const Expression& e) { return is_nullable(e); });
        settle(order, is_productive_, [this](const Expression& e) { return is_productive(e); });
        for (std::size_t i = 0; i < n; ++i) {
            if (!is_productive_[i]) {
                throw OptionError(concat(syntax_.what, ": rule ", detail::quoted(syntax_.rules[i].name),
                                         " never ends: every way through it comes to a rule that does not"));
            }
        }
        std::vector<std::vector<std::uint32_t>> corners(n);
        for (std::size_t i = 0; i < n; ++i) {
            collect_corners(syntax_.rules[i].body, corners[i]);
        }
        (void)depth_first(
            n, [&](std::uint32_t rule) { return std::span(corners[rule]); },
            [&](const auto& path, std::uint32_t to) {
                refuse_cycle({std::ranges::find(path, to), path.end()});
            });
    }

private:
    using Kind = Expression::Kind;

    static void collect_calls(const Expression& e, std::vector<std::uint32_t>& out) {
        if (e.kind == Kind::rule) {
            out.push_back(static_cast<std::uint32_t>(e.rule));
        }
        for (const Expression& part : e.parts) {
            collect_calls(part, out);
        }
    }

    /// The rules that an expression may begin with. @returns whether it may be empty
    bool collect_corners(const Expression& e, std::vector<std::uint32_t>& out) const {
        switch (e.kind) {
        case Kind::bytes:
        case Kind::characters:
            break;
        case Kind::rule:
            out.push_back(static_cast<std::uint32_t>(e.rule));
            break;
        case Kind::sequence:
            for (const Expression& part : e.parts) {
                if (!collect_corners(part, out)) {
                    return false;
                }
            }
            return true;
        case Kind::choice:
            for (const Expression& part : e.parts) {
                (void)collect_corners(part, out);
            }
            break;
        case Kind::repeat:
            if (e.max > 0) {
                (void)collect_corners(e.parts.front(), out);
            }
            break;
        }
        return is_nullable(e);
    }

    /// Makes true what is true of rules because it is of others, until nothing changes.
    template <class Property>
    void settle(std::span<const std::uint32_t> order, std::vector<bool>& known, Property property) const {
        for (bool changed = true; changed;) {
            changed = false;
            for (const std::uint32_t rule : order) {
                if (!known[rule] && property(syntax_.rules[rule].body)) {
                    known[rule] = true;
                    changed = true;
                }
            }
        }
    }

    [[nodiscard]] bool is_nullable(const Expression& e) const {
        const auto check = [this](const Expression& part) { return is_nullable(part); };
        switch (e.kind) {
        case Kind::bytes:
            return e.bytes.empty();
        case Kind::characters:
            return false;
        case Kind::rule:
            return is_nullable_[e.rule];
        case Kind::sequence:
            return std::ranges::all_of(e.parts, check);
        case Kind::choice:
            return std::ranges::any_of(e.parts, check);
        case Kind::repeat:
            return e.min == 0 || is_nullable(e.parts.front());
        }
        return false;
    }

    /// Whether there is a text that it is.
    [[nodiscard]] bool is_productive(const Expression& e) const {
        const auto check = [this](const Expression& part) { return is_productive(part); };
        switch (e.kind) {
        case Kind::bytes:
        case Kind::characters:
            return true;
        case Kind::rule:
            return is_productive_[e.rule];
        case Kind::sequence:
            return std::ranges::all_of(e.parts, check);
        case Kind::choice:
            return std::ranges::any_of(e.parts, check);
        case Kind::repeat:
            return e.min == 0 || is_productive(e.parts.front());
        }
        return false;
    }

    [[noreturn]] GPT2_COLD void refuse_cycle(std::span<const std::uint32_t> cycle) const {
        static constexpr std::size_t shown = 8;
        std::string names;
        for (std::size_t i = 0; i < std::min(cycle.size(), shown); ++i) {
            names += concat(detail::quoted(syntax_.rules[cycle[i]].name, 40), " -> ");
        }
        if (cycle.size() > shown) {
            names += "... -> ";
        }
        throw OptionError(concat(syntax_.what, ": left recursion, ", names,
                                 detail::quoted(syntax_.rules[cycle.front()].name, 40),
                                 ": expected each rule to read something before it comes again (a list is "
                                 "item (\",\" item)*)"));
    }

    const Syntax& syntax_;
    std::vector<bool> is_nullable_;
    std::vector<bool> is_productive_;
};

} // namespace gpt2::detail
