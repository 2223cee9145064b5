// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/kernels/kernels.hpp"
#include "gpt2/model.hpp"
#include "gpt2/session.hpp"
#include "gpt2/tensor.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <list>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>

/// @file
/// Keys and values of earlier texts, kept for later ones that begin alike.
///
/// A position's keys and values follow from the tokens up to it alone, not from how they were cut into passes
/// or what else was computed with them (docs/architecture.md, promise 2), so a session that begins with a
/// copy goes on with the bits that it would have computed.

namespace gpt2 {

/// How much a PrefixCache keeps.
struct PrefixCacheOptions {
    std::size_t max_bytes = std::size_t{256} << 20; ///< of keys, values and what is needed to find them
    SessionOptions session{};                       ///< of the sessions that it makes; without an observer
};

/// What a PrefixCache has done so far, and what it holds now.
struct PrefixCacheStatistics {
    std::uint64_t sessions = 0;       ///< that it made
    std::uint64_t hits = 0;           ///< of them: that began with tokens
    std::uint64_t tokens_asked = 0;   ///< tokens of all their prompts
    std::uint64_t tokens_reused = 0;  ///< of them: that need not be read
    std::uint64_t evicted_blocks = 0; ///< that made room for others
    std::size_t blocks = 0;           ///< of up to 64 positions
    std::size_t bytes = 0; ///< of them all, at most max_bytes; as they were asked for of the system
};

/// Remembers what sessions have read, and gives it to new sessions whose prompts begin with it. Results are
/// those without it, to the bit.
///
///     gpt2::PrefixCache cache(model, {.max_bytes = 512 << 20});
///     cache.generate(instructions + question, config); // the second call reads only what is new in it
///
/// It is a tree whose nodes hold 64 positions each, the blocks of KvCache, so that texts share what they
/// begin with. What was not used for longest goes first: of the blocks that nothing follows. A block costs
/// its 64 positions even where a text ends within it.
///
/// Thread-safe. Threads wait for one another while blocks are copied, not while a model computes.
class PrefixCache {
public:
    /// @throws OptionError if there is no room for one block, or for an observer, which would not be told of
    ///                     what is not computed
    explicit PrefixCache(Gpt2Model model, PrefixCacheOptions options = {})
        : model_(std::move(model)), options_(std::move(options)) {
        if (options_.session.observer) {
            throw OptionError("PrefixCacheOptions::session: expected no observer, which would not be told of "
                              "tokens that are not read again, found one");
        }
        const Session session(model_, options_.session);
        options_.session.kv_dtype = session.kv_dtype();
        row_bytes_ = session.cache_.row_bytes();
        capacity_ = options_.max_bytes / block_bytes();
        if (capacity_ == 0) {
            throw OptionError(detail::concat("max_bytes is ", options_.max_bytes, ", expected ",
                                             block_bytes(), " or more, of one block of ", kernels::kv_block,
                                             " positions"));
        }
    }

    PrefixCache(const PrefixCache&) = delete;
    PrefixCache& operator=(const PrefixCache&) = delete;

    /// A session that holds the longest begin of @p tokens that is known, but not the last of them, whose
    /// logits are still to be computed: continue with `tokens.subspan(session.position())`.
    [[nodiscard]] Session session(std::span<const TokenId> tokens) {
        Session out(model_, options_.session);
        const std::lock_guard lock(mutex_);
        ++statistics_.sessions;
        statistics_.tokens_asked += tokens.size();
        if (tokens.empty()) {
            return out;
        }
        const auto wanted = tokens.first(std::min(tokens.size() - 1, model_.config().n_positions));
        Block* last = &root_;
        for (std::size_t n = 0; n < wanted.size() && n % kernels::kv_block == 0;) {
            const Match match = best_child(*last, wanted.subspan(n));
            if (match.length == 0) {
                break;
            }
            last = match.block;
            copy(last->memory.flat(), out.cache_.row(n / kernels::kv_block));
            n += match.length;
            out.tokens_.assign(wanted.begin(), wanted.begin() + static_cast<std::ptrdiff_t>(n));
        }
        use(last);
        statistics_.hits += out.position() == 0 ? 0 : 1;
        statistics_.tokens_reused += out.position();
        return out;
    }

    /// Remembers what a session holds; if that is more than there is room for, the begin of it.
    /// @throws OptionError for a session of another model, or with keys and values of another type
    void store(const Session& session) {
        if (session.model_ != model_.state_ || session.kv_dtype() != *options_.session.kv_dtype) {
            throw OptionError("PrefixCache::store: expected a session of the cache's model and type of keys "
                              "and values, found another");
        }
        const std::lock_guard lock(mutex_);
        const std::span<const TokenId> tokens = session.tokens();
        const std::size_t n_blocks = (tokens.size() + kernels::kv_block - 1) / kernels::kv_block;
        Block* last = &root_;
        for (std::size_t i = 0; i < std::min(n_blocks, capacity_); ++i) {
            const std::size_t begin = i * kernels::kv_block;
            const auto part = tokens.subspan(begin, std::min(kernels::kv_block, tokens.size() - begin));
            const Match match = best_child(*last, part);
            Block* block = match.block;
            if (match.length < part.size()) {
                if (block == nullptr || match.length < block->tokens().size()) {
                    block = add(*last);
                } // else it ends where this goes on, so nothing follows it
                copy(session.cache_.row(i), block->memory.flat());
                std::ranges::copy(part, block->ids.begin());
                block->n_tokens = part.size();
            }
            last = block;
            use(last);
        }
    }

    /// As Gpt2Model::generate, but reads of the prompt only what is not known, and remembers prompt and text.
    /// With prompt_logprobs, which keys and values do not tell, all of the prompt is read.
    /// @throws as Session::generate
    GenerationResult generate(std::string_view prompt, const GenerationConfig& config = {},
                              const StreamCallback& callback = {}) {
        return generate(std::span<const TokenId>(model_.encode_prompt(prompt)), config, callback);
    }

    /// The same for a prompt of tokens.
    GenerationResult generate(std::span<const TokenId> prompt, const GenerationConfig& config = {},
                              const StreamCallback& callback = {}) {
        validate(config, model_.config());
        require_room(prompt.size(), config, model_.config());
        const std::span<const TokenId> context = context_of(prompt, config, model_.config().n_positions);
        Session writer = config.prompt_logprobs ? Session(model_, options_.session) : session(context);
        GenerationResult result = writer.generate(context.subspan(writer.position()), config, callback);
        result.prompt_tokens = context.size();
        store(writer);
        return result;
    }

    [[nodiscard]] PrefixCacheStatistics statistics() const {
        const std::lock_guard lock(mutex_);
        PrefixCacheStatistics out = statistics_;
        out.blocks = blocks_.size();
        out.bytes = blocks_.size() * block_bytes();
        return out;
    }

    /// Forgets everything, but for the numbers of statistics().
    void clear() noexcept {
        const std::lock_guard lock(mutex_);
        blocks_.clear();
        root_.child = nullptr;
    }

private:
    /// Up to 64 positions after those of the parent. No block's tokens begin with those of a sibling.
    struct Block {
        std::array<TokenId, kernels::kv_block> ids{};
        std::size_t n_tokens = 0; ///< less than 64 only where nothing follows
        Tensor<std::byte, 1> memory{};
        Block* parent = nullptr;
        Block* child = nullptr; ///< the first
        Block* next = nullptr;  ///< sibling
        std::list<Block>::iterator place{};

        [[nodiscard]] std::span<const TokenId> tokens() const noexcept {
            return std::span(ids).first(n_tokens);
        }
    };

    struct Match {
        Block* block = nullptr;
        std::size_t length = 0; ///< tokens that are the same
    };

    static void copy(std::span<const std::byte> from, std::span<std::byte> to) noexcept {
        std::memcpy(to.data(), from.data(), to.size());
    }

    /// The child that has most in common with the begin of @p tokens.
    [[nodiscard]] static Match best_child(const Block& parent, std::span<const TokenId> tokens) noexcept {
        Match best;
        for (Block* child = parent.child; child != nullptr; child = child->next) {
            const auto differ = std::ranges::mismatch(child->tokens(), tokens).in2;
            const auto length = static_cast<std::size_t>(differ - tokens.begin());
            if (length > best.length) {
                best = {child, length};
            }
        }
        return best;
    }

    /// Memory of a block: its positions, itself, and its place in the list.
    [[nodiscard]] std::size_t block_bytes() const noexcept {
        return row_bytes_ + detail::tensor_alignment + sizeof(Block) + 2 * sizeof(void*);
    }

    /// Puts a block and those before it in front. Whatever precedes a block was so used no earlier than it,
    /// and the last of the list has no children.
    void use(Block* block) noexcept {
        for (; block != &root_; block = block->parent) {
            blocks_.splice(blocks_.begin(), blocks_, block->place);
        }
    }

    /// A child without tokens; where there is no room for it, in the place of the block that was not used
    /// for longest, which is none of those that lead to @p parent: they are fewer than there is room for.
    [[nodiscard]] Block* add(Block& parent) {
        if (blocks_.size() < capacity_) {
            Tensor<std::byte, 1> memory({row_bytes_});
            blocks_.emplace_front().memory = std::move(memory);
            blocks_.front().place = blocks_.begin();
        } else {
            unlink(blocks_.back());
            blocks_.splice(blocks_.begin(), blocks_, std::prev(blocks_.end()));
            ++statistics_.evicted_blocks;
        }
        Block& block = blocks_.front();
        block.n_tokens = 0;
        block.parent = &parent;
        block.next = std::exchange(parent.child, &block);
        return &block;
    }

    static void unlink(Block& block) noexcept {
        Block** link = &block.parent->child;
        while (*link != &block) {
            link = &(*link)->next;
        }
        *link = block.next;
    }

    Gpt2Model model_;
    PrefixCacheOptions options_;
    std::size_t row_bytes_ = 0; ///< of keys and values of 64 positions
    std::size_t capacity_ = 0;  ///< blocks
    mutable std::mutex mutex_;  ///< for all below
    Block root_;                ///< no positions
    std::list<Block> blocks_;   ///< the last used first
    PrefixCacheStatistics statistics_;
};

} // namespace gpt2
