// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/byte_pair_encoding.hpp"
#include "gpt2/tokenizer_tables.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// @file
/// Which tokens does byte-pair encoding make of their own bytes? A piece of text with the bytes of such a
/// token is that token, and the encoder need not carry out the merges. It is not true of every token of
/// every vocabulary: another merge may be faster.
///
/// Encoding each token once would answer the question, but takes a third of the loading time. In an
/// *orderly* vocabulary, where each product has one merge and each merge comes after those that make its
/// parts (every trained vocabulary is like that), there is a shorter way. There the rounds go through the
/// ranks in ascending order, and a token t has one derivation: the merge of A and B with rank r, and so on
/// within A and B. So its bytes become t exactly if the bytes of A become A, those of B become B, and no
/// merge before r crosses the seam between them. At the seam stand the tokens on the right edge of A's
/// derivation, one after the other, each until the merge that makes the next, and those on the left edge
/// of B's: a merge crosses if its turn comes while both of its parts stand there. If it is the same merge
/// as the one that ends its left part's time, the leftmost occurrence wins, which does not cross; if it is
/// the one that ends its right part's time, the leftmost is the one that crosses.

namespace gpt2::detail {

class WholeTokens {
public:
    /// @param tables  with pairs, products, is_special and bytes of tokens
    /// @param merges  in the order of their ranks
    WholeTokens(const TokenizerTables& tables, std::span<const MergePair> merges)
        : tables_(tables), merges_(merges), origins_(tables.token_ends.size()) {}

    /// For every token, 1 or 0; of special tokens 0.
    [[nodiscard]] std::vector<std::uint8_t> find() { return is_orderly() ? by_seams() : by_encoding(); }

    /// The same by encoding every token.
    [[nodiscard]] std::vector<std::uint8_t> by_encoding() const {
        std::vector<std::uint8_t> whole(origins_.size(), 0);
        PairMerger merger(tables_);
        std::vector<TokenId> tokens;
        for (std::size_t id = 0; id < whole.size(); ++id) {
            if (tables_.is_special[id] == 0) {
                tokens.clear();
                merger.merge(tables_.token(id), tokens);
                whole[id] = tokens.size() == 1 && tokens[0] == static_cast<TokenId>(id);
            }
        }
        return whole;
    }

private:
    struct EdgeToken {
        std::uint32_t token;
        std::uint32_t made_by; ///< the rank of its merge; no_rank of a byte
    };

    [[nodiscard]] bool is_orderly() {
        std::vector<std::uint8_t> made(origins_.size(), 0);
        for (const std::uint32_t id : tables_.byte_tokens) {
            made[id] = 1;
        }
        for (const MergePair& merge : merges_) {
            const std::uint32_t product = tables_.products[merge.rank];
            if (made[merge.left] == 0 || made[merge.right] == 0 || made[product] != 0) {
                return false;
            }
            made[product] = 1;
            origins_[product] = merge;
        }
        return true;
    }

    [[nodiscard]] std::vector<std::uint8_t> by_seams() {
        std::vector<std::uint8_t> whole(origins_.size(), 0);
        for (const std::uint32_t id : tables_.byte_tokens) {
            whole[id] = 1;
        }
        for (const MergePair& merge : merges_) {
            whole[tables_.products[merge.rank]] =
                whole[merge.left] != 0 && whole[merge.right] != 0 && !is_crossed(merge);
        }
        return whole;
    }

    [[nodiscard]] bool is_crossed(const MergePair& merge) {
        left_edge_.clear();
        for (std::uint32_t id = merge.left;; id = origins_[id].right) {
            left_edge_.push_back({id, origins_[id].rank});
            if (left_edge_.back().made_by == no_rank) {
                break;
            }
        }
        right_edge_.clear();
        for (std::uint32_t id = merge.right;; id = origins_[id].left) {
            right_edge_.push_back({id, origins_[id].rank});
            if (right_edge_.back().made_by == no_rank) {
                break;
            }
        }
        // From the bytes at the seam up to the parts, in the order of the merges on either side.
        std::size_t i = left_edge_.size() - 1;
        std::size_t j = right_edge_.size() - 1;
        while (i != 0 || j != 0) {
            const std::uint32_t left_ends = i == 0 ? merge.rank : left_edge_[i - 1].made_by;
            const std::uint32_t right_ends = j == 0 ? merge.rank : right_edge_[j - 1].made_by;
            const std::uint32_t rank = tables_.rank(left_edge_[i].token, right_edge_[j].token);
            if (rank < left_ends && rank <= right_ends) {
                return true;
            }
            i -= left_ends <= right_ends ? 1 : 0;
            j -= right_ends <= left_ends ? 1 : 0;
        }
        return false;
    }

    const TokenizerTables& tables_;
    std::span<const MergePair> merges_;
    std::vector<MergePair> origins_; ///< [V]: the merge that makes each token; no_rank if none does
    // Tokens on either side of the seam, the last one made first.
    std::vector<EdgeToken> left_edge_;
    std::vector<EdgeToken> right_edge_;
};

} // namespace gpt2::detail
