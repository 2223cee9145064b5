// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/network.hpp"
#include "gpt2/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

/// @file
/// Follows a network through bytes.
///
/// A stack is a position and what lies below it, the positions at which rules go on that were entered. A set
/// of stacks is a list of (position, set of what may lie below it), sorted, each position once. Equal sets
/// are one object, and get one number. So many stacks share what they have in common, at both ends, and a
/// state of the recognizer, everything that the text so far may be, is such a set: all it takes to follow a
/// byte is remembered by that number, and a regular expression becomes the automaton that it is. (The sharing
/// is that of Tomita's graph-structured stack, An Efficient Augmented-Context-Free Parsing Algorithm, 1987.)
///
/// Every set leads to a complete text, as every rule does: a state is dead only if it is empty. But where
/// most_depth rules are open no other is entered.

namespace gpt2::detail {

/// One caller at a time.
class Recognizer {
public:
    using State = std::uint32_t; ///< good until clear()

    static constexpr State dead = 0;
    static constexpr std::uint32_t most_depth = 1000; ///< rules inside each other
    /// For all that may follow a state; about a second, and 200 MB for what is then remembered.
    static constexpr std::size_t most_work = 8'000'000;

    explicit Recognizer(Network network)
        : network_(std::move(network)), below_(network_.size()), is_waiting_(network_.size()),
          waiting_(Later{&network_.ranks}) {
        clear();
    }
    Recognizer(const Recognizer&) = delete; // waiting_ points into network_
    Recognizer& operator=(const Recognizer&) = delete;

    /// Before any byte.
    [[nodiscard]] State start() const noexcept { return start_; }

    /// Whether the text so far is complete.
    [[nodiscard]] bool is_complete(State state) const noexcept {
        const std::span<const Entry> entries = set(state);
        return !entries.empty() && entries.front().position == Network::complete;
    }

    /// Begins to count the work of next().
    void begin_count() noexcept {
        work_ = 0;
        count_ += count_ == std::numeric_limits<std::uint32_t>::max() ? 2 : 1; // never 0
    }

    /// After one more byte. Each step is counted once from begin_count() on, at what it costs when nothing is
    /// remembered of earlier ones, so that an error does not depend on those.
    /// @throws OptionError  beyond most_work
    [[nodiscard]] State next(State state, unsigned char byte) {
        const std::size_t kind = network_.classes[byte];
        Step& known = steps_[row_of(state) + kind];
        if (known.count == count_) {
            return known.to;
        }
        if (known.count != 0) {
            known.count = count_;
            spend(known.work);
            return known.to;
        }
        const std::size_t before = work_;
        spend(8 + network_.members.size() / 4); // for a part of the row
        const State to = step(state, network_.members[kind]);
        steps_[row_of(state) + kind] = {to, static_cast<std::uint32_t>(work_ - before), count_};
        return to;
    }

    /// Roughly the memory that is used for what is remembered.
    [[nodiscard]] std::size_t bytes() const noexcept {
        constexpr std::size_t per_node = 40; // in a hash table, with its pointers
        return entries_.size() * sizeof(Entry) + sets_.size() * (sizeof(Set) + per_node) +
               unions_.size() * (sizeof(Union) + per_node) + steps_.size() * sizeof(Step);
    }

    /// Forgets all states.
    void clear() {
        entries_.clear();
        sets_.assign(2, {}); // dead and nothing
        numbers_.clear();
        unions_.clear();
        steps_.clear();
        begin_count();
        forget_reached();
        add(network_.begin, intern({Entry{Network::complete, nothing}}));
        start_ = close();
    }

    /// The same, but for one state. @returns the number that it has then
    [[nodiscard]] State forget_all_but(State state) {
        const std::vector<Entry> entries = std::exchange(entries_, {});
        const std::vector<Set> sets = std::exchange(sets_, {});
        clear();
        std::unordered_map<std::uint32_t, std::uint32_t> kept{{dead, dead}, {nothing, nothing}};
        return copy(state, entries, sets, kept);
    }

    /// Bytes that no edge tells from each other: one of each class.
    [[nodiscard]] std::span<const std::uint8_t> byte_classes() const noexcept { return network_.members; }

private:
    struct Entry {
        std::uint32_t position;
        std::uint32_t below; ///< a set

        friend bool operator==(const Entry&, const Entry&) = default;
    };

    struct Set {
        std::size_t begin = 0; ///< in entries_
        std::uint32_t size = 0;
        std::uint32_t depth = 0;
        std::size_t row = none; ///< in steps_
    };

    struct Step {
        State to = dead;
        std::uint32_t work = 0;
        std::uint32_t count = 0; ///< of begin_count() when it was taken last; 0: never
    };

    struct Union {
        std::uint32_t set;
        std::uint32_t work;
    };

    struct Later { // for the queue, whose top is the smallest rank
        const std::vector<std::uint32_t>* ranks;
        bool operator()(std::uint32_t a, std::uint32_t b) const noexcept { return (*ranks)[a] > (*ranks)[b]; }
    };

    static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
    static constexpr std::uint32_t nothing = 1; ///< what lies below Network::complete

    [[nodiscard]] std::span<const Entry> set(std::uint32_t number) const noexcept {
        return {entries_.data() + sets_[number].begin, sets_[number].size};
    }

    [[nodiscard]] std::size_t row_of(State state) {
        std::size_t& row = sets_[state].row;
        if (row == none) {
            row = steps_.size();
            steps_.resize(row + network_.members.size());
        }
        return row;
    }

    void spend(std::size_t work) {
        work_ += work;
        if (work_ > most_work) {
            throw OptionError(concat(network_.what, ": expected at most ", most_work,
                                     " steps to find what may follow a text, found more: too many ways to "
                                     "read it at once"));
        }
    }

    [[nodiscard]] State step(State state, std::uint8_t byte) {
        forget_reached(); // there may be some after an exception
        for (std::size_t i = 0; i < sets_[state].size; ++i) {
            const Entry entry = set(state)[i]; // entries_ may move
            const auto edges = network_.bytes[entry.position];
            spend(1 + edges.size());
            for (const Network::ByteEdge& edge : edges) {
                if (edge.first <= byte && byte <= edge.last) {
                    add(edge.to, entry.below);
                }
            }
        }
        return close();
    }

    /// Adds stacks to those that close() is to follow.
    void add(std::uint32_t position, std::uint32_t below) {
        const std::uint32_t known = below_[position];
        const std::uint32_t all = merge(known, below);
        if (all == known) {
            return;
        }
        if (known == dead) {
            reached_.push_back(position);
        }
        below_[position] = all;
        if (!is_waiting_[position]) {
            is_waiting_[position] = true;
            waiting_.push(position);
        }
    }

    /// Goes on from what was added along edges that read nothing, into rules and out of them. It ends because
    /// no rule calls itself on such a way. @returns the set of those that wait for a byte, or are complete
    [[nodiscard]] State close() {
        while (!waiting_.empty()) {
            const std::uint32_t position = waiting_.top();
            waiting_.pop();
            is_waiting_[position] = false;
            leave(position, below_[position]);
        }
        std::vector<Entry> entries;
        for (const std::uint32_t position : reached_) {
            if (position == Network::complete || !network_.bytes[position].empty()) {
                entries.push_back({position, below_[position]});
            }
        }
        forget_reached();
        std::ranges::sort(entries, {}, &Entry::position);
        return intern(std::move(entries));
    }

    void leave(std::uint32_t position, std::uint32_t below) {
        const auto calls = network_.calls[position];
        spend(1 + network_.free[position].size() + calls.size());
        for (const std::uint32_t to : network_.free[position]) {
            add(to, below);
        }
        for (const Network::Call& call : calls) {
            if (network_.is_end[call.to]) { // nothing to come back for
                add(call.begin, below);
            } else if (sets_[below].depth < most_depth) {
                add(call.begin, intern({Entry{call.to, below}}));
            }
        }
        if (network_.is_end[position]) {
            spend(sets_[below].size);
            for (std::size_t i = 0; i < sets_[below].size; ++i) {
                const Entry entry = set(below)[i]; // entries_ may move
                add(entry.position, entry.below);
            }
        }
    }

    /// The number of a set of an earlier time. @param kept  the numbers of those that were copied
    [[nodiscard]] std::uint32_t copy(std::uint32_t number, const std::vector<Entry>& entries,
                                     const std::vector<Set>& sets,
                                     std::unordered_map<std::uint32_t, std::uint32_t>& kept) {
        if (const auto found = kept.find(number); found != kept.end()) {
            return found->second;
        }
        std::vector<Entry> copies;
        for (std::size_t i = 0; i < sets[number].size; ++i) {
            const Entry& entry = entries[sets[number].begin + i];
            copies.push_back({entry.position, copy(entry.below, entries, sets, kept)});
        }
        begin_count(); // this is no work of a step
        return kept[number] = intern(std::move(copies));
    }

    void forget_reached() noexcept {
        for (const std::uint32_t position : reached_) {
            below_[position] = dead;
            is_waiting_[position] = false;
        }
        reached_.clear();
        while (!waiting_.empty()) {
            waiting_.pop();
        }
    }

    /// The union of two sets. Its work is that of all unions inside, counted anew for each but the last one.
    [[nodiscard]] std::uint32_t merge(std::uint32_t a, std::uint32_t b) {
        if (a == b || b == dead) {
            return a;
        }
        if (a == dead) {
            return b;
        }
        const std::uint64_t key = std::uint64_t{std::min(a, b)} << 32 | std::max(a, b);
        if (const auto found = unions_.find(key); found != unions_.end()) {
            spend(found->second.work);
            return found->second.set;
        }
        const std::size_t before = work_;
        std::vector<Entry> entries;
        std::size_t i = 0;
        std::size_t k = 0;
        Entry last[2]{};           // with the sets that were merged last, and
        std::uint32_t both = dead; // their union
        while (i < sets_[a].size || k < sets_[b].size) {
            const Entry of_a = i < sets_[a].size ? set(a)[i] : Entry{beyond, dead};
            const Entry of_b = k < sets_[b].size ? set(b)[k] : Entry{beyond, dead};
            i += of_a.position <= of_b.position ? 1 : 0;
            k += of_b.position <= of_a.position ? 1 : 0;
            if (of_a.position != of_b.position) {
                entries.push_back(of_a.position < of_b.position ? of_a : of_b);
                continue;
            }
            if (both == dead || last[0].below != of_a.below || last[1].below != of_b.below) {
                both = merge(of_a.below, of_b.below);
                last[0] = of_a;
                last[1] = of_b;
            }
            entries.push_back({of_a.position, both});
        }
        const std::uint32_t merged = intern(std::move(entries));
        unions_.emplace(key, Union{merged, static_cast<std::uint32_t>(work_ - before)});
        return merged;
    }

    /// The number of a set. @param entries  sorted
    [[nodiscard]] std::uint32_t intern(std::vector<Entry> entries) {
        spend(8 + entries.size());
        if (entries.empty()) {
            return dead;
        }
        std::uint64_t hash = entries.size();
        std::uint32_t depth = 0;
        for (const Entry& entry : entries) { // multiplier: Knuth's MMIX
            hash = (hash ^ entry.position ^ std::uint64_t{entry.below} << 32) * 6364136223846793005u;
            hash ^= hash >> 29;
            depth = std::max(depth, sets_[entry.below].depth + 1);
        }
        const auto [first, last] = numbers_.equal_range(hash);
        for (auto found = first; found != last; ++found) {
            if (std::ranges::equal(set(found->second), entries)) {
                return found->second;
            }
        }
        const auto number = static_cast<std::uint32_t>(sets_.size());
        sets_.push_back({entries_.size(), static_cast<std::uint32_t>(entries.size()), depth});
        entries_.insert(entries_.end(), entries.begin(), entries.end());
        numbers_.emplace(hash, number);
        return number;
    }

    static constexpr std::uint32_t beyond = std::numeric_limits<std::uint32_t>::max();

    Network network_;
    State start_ = dead;
    std::vector<Entry> entries_; ///< of all sets
    std::vector<Set> sets_;
    std::unordered_multimap<std::uint64_t, std::uint32_t> numbers_; ///< of sets, by hash
    std::unordered_map<std::uint64_t, Union> unions_;               ///< by the numbers of both
    std::vector<Step> steps_; ///< rows of states, one for each class of bytes
    std::size_t work_ = 0;
    std::uint32_t count_ = 0;
    // Scratch of close().
    std::vector<std::uint32_t> below_; ///< by position: what was reached; dead: it was not
    std::vector<bool> is_waiting_;
    std::vector<std::uint32_t> reached_;
    std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, Later> waiting_;
};

} // namespace gpt2::detail
