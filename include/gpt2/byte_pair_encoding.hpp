// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/tokenizer_tables.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

/// @file
/// Byte-pair encoding of one piece (Sennrich, Haddow and Birch 2016, https://aclanthology.org/P16-1162,
/// in the form of GPT-2's encoder.py): starting from single bytes, find the neighbours whose merge has
/// the lowest rank, merge all of their occurrences from left to right, and repeat until no neighbours
/// merge. One such repetition is a *round*.
///
/// The merge of a round cannot occur anew within it, for its product is longer than either of its parts.
/// But a vocabulary may list a merge before those that make its parts, and then a round brings forth
/// pairs of lower rank; they wait for the next round, as they do in the original.

namespace gpt2::detail {

/// Merges pieces; keeps its memory from one to the next. One thread at a time.
class PairMerger {
public:
    /// @param tables  must outlive the merger
    explicit PairMerger(const TokenizerTables& tables) noexcept : tables_(tables) {}

    /// Appends the tokens of @p piece to @p out. O(n^2) steps, but few, up to scan_limit bytes, and
    /// O(n log n) beyond.
    /// @throws OptionError when the piece is too long for 32-bit positions
    void merge(std::string_view piece, std::vector<TokenId>& out) {
        if (piece.size() <= scan_limit) {
            merge_by_scan(piece, out);
        } else {
            merge_by_heap(piece, out);
        }
    }

    /// Where the heap begins to win over the scan (measured; the results are the same).
    static constexpr std::size_t scan_limit = 64;

    /// For short pieces: the ranks lie in a row and are searched from left to right.
    void merge_by_scan(std::string_view piece, std::vector<TokenId>& out) const {
        std::array<std::uint32_t, scan_limit> tokens;
        std::array<std::uint32_t, scan_limit>
            ranks; // of each token with its right neighbour, the last one's is no_rank
        std::size_t n = piece.size();
        for (std::size_t i = 0; i < n; ++i) {
            tokens[i] = byte_token(piece[i]);
        }
        for (std::size_t i = 0; i < n; ++i) {
            ranks[i] = i + 1 == n ? no_rank : tables_.rank(tokens[i], tokens[i + 1]);
        }
        while (n > 1) {
            const auto* const first = std::min_element(ranks.data(), ranks.data() + n);
            const std::uint32_t rank = *first;
            if (rank == no_rank) {
                break;
            }
            const std::uint32_t product = tables_.products[rank];
            for (auto i = static_cast<std::size_t>(first - ranks.data()); i + 1 < n; ++i) {
                if (ranks[i] != rank) {
                    continue;
                }
                tokens[i] = product;
                std::copy(tokens.data() + i + 2, tokens.data() + n, tokens.data() + i + 1);
                std::copy(ranks.data() + i + 2, ranks.data() + n, ranks.data() + i + 1);
                --n;
                ranks[i] = i + 1 == n ? no_rank : tables_.rank(product, tokens[i + 1]);
                if (i > 0) {
                    ranks[i - 1] = tables_.rank(tokens[i - 1], product);
                }
            }
        }
        for (std::size_t i = 0; i < n; ++i) {
            out.push_back(static_cast<TokenId>(tokens[i]));
        }
    }

    /// For long pieces: tokens in a linked list, pairs in a heap by rank and position. An entry of the
    /// heap is out of date when the list has another rank at its position.
    void merge_by_heap(std::string_view piece, std::vector<TokenId>& out) {
        start(piece);
        std::uint32_t round = no_rank;
        for (;;) {
            if (heap_.empty() || rank_of(heap_.front()) != round) {
                for (const std::uint64_t entry : next_round_) {
                    push(entry);
                }
                next_round_.clear();
                if (heap_.empty()) {
                    break;
                }
                round = rank_of(heap_.front());
            }
            std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
            const auto at = static_cast<std::uint32_t>(heap_.back());
            heap_.pop_back();
            if (nodes_[at].rank == round) {
                merge_at(at, round);
            }
        }
        for (std::uint32_t at = 0; at != end_; at = nodes_[at].next) {
            out.push_back(static_cast<TokenId>(nodes_[at].token));
        }
    }

private:
    /// A token at the position of its first byte.
    struct Node {
        std::uint32_t token;
        std::uint32_t rank; ///< with the right neighbour; no_rank when there is none or the node is merged
        std::uint32_t previous;
        std::uint32_t next;
    };

    [[nodiscard]] std::uint32_t byte_token(char byte) const noexcept {
        return tables_.byte_tokens[static_cast<unsigned char>(byte)];
    }

    [[nodiscard]] static std::uint32_t rank_of(std::uint64_t entry) noexcept {
        return static_cast<std::uint32_t>(entry >> 32);
    }

    [[nodiscard]] static std::uint64_t heap_entry(std::uint32_t rank, std::uint32_t at) noexcept {
        return std::uint64_t{rank} << 32 | at;
    }

    void push(std::uint64_t entry) {
        heap_.push_back(entry);
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }

    void start(std::string_view piece) {
        if (piece.size() >= no_token) {
            throw OptionError(concat("text: expected no word, number or run of other characters longer than ",
                                     no_token - 1, " bytes, found one of ", piece.size()));
        }
        end_ = static_cast<std::uint32_t>(piece.size());
        nodes_.resize(piece.size());
        heap_.clear();
        for (std::uint32_t at = 0; at < end_; ++at) {
            nodes_[at] = {byte_token(piece[at]), no_rank, at - 1, at + 1};
        }
        for (std::uint32_t at = 0; at + 1 < end_; ++at) {
            nodes_[at].rank = tables_.rank(nodes_[at].token, nodes_[at + 1].token);
            if (nodes_[at].rank != no_rank) {
                heap_.push_back(heap_entry(nodes_[at].rank, at));
            }
        }
        std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    }

    void merge_at(std::uint32_t at, std::uint32_t round) {
        Node& node = nodes_[at];
        Node& swallowed = nodes_[node.next];
        swallowed.rank = no_rank;
        node.token = tables_.products[round];
        node.next = swallowed.next;
        if (node.next != end_) {
            nodes_[node.next].previous = at;
        }
        update_rank(at, round);
        if (at != 0) { // position 0 is never swallowed, so every other node has a neighbour on the left
            update_rank(node.previous, round);
        }
    }

    void update_rank(std::uint32_t at, std::uint32_t round) {
        Node& node = nodes_[at];
        node.rank = node.next == end_ ? no_rank : tables_.rank(node.token, nodes_[node.next].token);
        if (node.rank == no_rank) {
            return;
        }
        if (node.rank < round) {
            next_round_.push_back(heap_entry(node.rank, at));
        } else {
            push(heap_entry(node.rank, at));
        }
    }

    const TokenizerTables& tables_;
    std::vector<Node> nodes_;
    std::vector<std::uint64_t> heap_; ///< rank in the upper half, position in the lower; the least in front
    std::vector<std::uint64_t> next_round_;
    std::uint32_t end_ = 0;
};

} // namespace gpt2::detail
