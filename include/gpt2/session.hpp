// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/attention.hpp"
#include "gpt2/compiled.hpp"
#include "gpt2/floating_point.hpp"
#include "gpt2/generation.hpp"
#include "gpt2/interrupt.hpp"
#include "gpt2/io/safetensors.hpp"
#include "gpt2/kv_cache.hpp"
#include "gpt2/logits.hpp"
#include "gpt2/model_state.hpp"
#include "gpt2/observer.hpp"
#include "gpt2/profile.hpp"
#include "gpt2/speculation/speculator.hpp"
#include "gpt2/thread_pool.hpp"
#include "gpt2/token_logprobs.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Conversations: what changes while a model runs, and the forward pass over any number of them. How a
/// session scores tokens is in session_score.hpp, how it writes a text in session_generate.hpp, how it goes
/// to a file in session_file.hpp.

namespace gpt2 {

class Gpt2Model;
class PrefixCache;
class Session;
namespace detail {
class BatchGeneration;
class HiddenStates;
} // namespace detail

/// Which rows of logits a forward pass shall leave in a session.
enum class Logits {
    none, ///< none: the tokens are only read
    last, ///< one row, after the last token
    all,  ///< one row after each token
};

/// Some tokens to append to one session.
struct BatchItem {
    Session* session = nullptr;
    std::span<const TokenId> tokens;
    Logits logits = Logits::last;
};

/// One forward pass that appends tokens to each session: prompts, single tokens and any mixture. The
/// weights are read once for all of them, and each session gets the bits that it would get alone.
/// Runs on the thread pool of the first session.
/// @throws OptionError   for a session that is null, appears twice or belongs to another model, no tokens,
///                       or an id outside the vocabulary
/// @throws ContextError  if a session would exceed n_positions
/// @throws NumericError  if a number leaves the finite ones
/// @throws Interrupted   if @p interrupt says so before the pass is complete
/// After an exception every session is as before.
void forward(std::span<const BatchItem> items, const Interrupt& interrupt = {});

/// How a session keeps its state.
struct SessionOptions {
    std::shared_ptr<ThreadPool> pool{}; ///< null: the process-wide one
    /// Of keys and values. None: float32 if all matrices of the model are float32, float16 otherwise, whose
    /// rounding is no coarser than theirs (docs/attention.md).
    std::optional<KvDtype> kv_dtype{};
    std::shared_ptr<Profile> profile{}; ///< gets the times of all passes that this session begins; null: none
    std::shared_ptr<Observer> observer{}; ///< is told of this session's rows in every pass; null: none
};

/// One sequence of tokens with its KV cache. One caller at a time; different sessions of a model may run
/// in different threads. Movable; after a move the source may only be assigned or destroyed.
class Session {
public:
    explicit Session(const Gpt2Model& model, const SessionOptions& options = {});

    Session(Session&&) = default;
    Session& operator=(Session&&) = default;

    /// Appends tokens. @returns the logits [V] after the last; good until the next non-const call
    /// @throws as gpt2::forward
    std::span<const float> forward(std::span<const TokenId> tokens, const Interrupt& interrupt = {}) & {
        const BatchItem item{this, tokens, Logits::last};
        gpt2::forward({&item, 1}, interrupt);
        return logits()[0].flat();
    }

    /// Appends tokens. @returns the natural logarithm of the probability of each, given those before; NaN
    /// for a token at position 0, which nothing is before.
    /// @throws as gpt2::forward; the session is then as before
    std::vector<float> score(std::span<const TokenId> given) { return score_tokens(given); }

    /// Appends @p prompt and continues it; see GenerationConfig. The prompt may be empty if the session is
    /// not. Afterwards the session holds the prompt and the new tokens but for the last, which no forward
    /// pass has read.
    /// @throws ContextError  if the prompt and max_new_tokens exceed n_positions, before any work, unless
    ///                       GenerationConfig::overflow says to slide or to truncate the prompt
    /// @throws OptionError   as validate(const GenerationConfig&, const Config&); NumericError as forward
    /// What was read before an exception, or before GenerationConfig::max_time or cancellation ended the
    /// text, stays in the session; of a pass that was not completed it holds nothing. Only what ends while
    /// the window slides, or a truncated context is read, leaves it empty, as the old keys are gone by then.
    GenerationResult generate(std::span<const TokenId> prompt, const GenerationConfig& config = {},
                              const StreamCallback& callback = {}) {
        return continue_prompt(prompt, config, callback);
    }

    /// The logits that the last forward pass left here: [0, V], [1, V] or [n, V], by Logits. Good until the
    /// next non-const call. While generate() runs, for its callback, there are none where the output head is
    /// screened (LoadOptions::screen_head); when it returns they are there, and complete.
    [[nodiscard]] TensorView<const float, 2> logits() const noexcept {
        const std::size_t V = model_->transformer.config.vocab_size;
        const float* const first = logit_rows_ == 0 ? nullptr : logits_->data() + first_logit_row_ * V;
        return {first, {logit_rows_, V}};
    }

    /// Tokens in the session.
    [[nodiscard]] std::size_t position() const noexcept { return tokens_.size(); }
    [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return tokens_; }

    /// Forgets all but the first @p length tokens, and the logits.
    /// @throws OptionError if there are fewer
    void truncate(std::size_t length) {
        if (length > tokens_.size()) {
            throw OptionError(detail::concat("Session::truncate: expected a length of at most ",
                                             tokens_.size(), ", the number of tokens, found ", length));
        }
        tokens_.resize(length);
        logit_rows_ = 0;
    }

    /// A second session that holds the same tokens and logits, on the same pool; from here on each goes its
    /// own way, the new one without an observer. Copies the keys and values of the tokens, which is far less
    /// work than computing them.
    [[nodiscard]] Session fork() const {
        Session copy(model_, pool_, profile_, nullptr, cache_.dtype());
        copy.follow(*this);
        return copy;
    }

    /// Makes of this session what fork() would make of @p other, but copies keys and values only from the
    /// first token on in which the two differ.
    /// @throws OptionError for a session of another model, or with keys and values of another type
    void follow(const Session& other) {
        if (model_ != other.model_ || kv_dtype() != other.kv_dtype()) {
            throw OptionError(
                "Session::follow: expected a session of the same model and the same type of keys "
                "and values, found another");
        }
        if (&other == this) {
            return;
        }
        const auto differs = std::ranges::mismatch(tokens_, other.tokens_).in2;
        const auto n_same = static_cast<std::size_t>(differs - other.tokens_.begin());
        cache_.copy(other.cache_, n_same, other.position());
        tokens_.resize(n_same);
        tokens_.insert(tokens_.end(), other.tokens_.begin() + static_cast<std::ptrdiff_t>(n_same),
                       other.tokens_.end());
        logits_ = other.logits_;
        first_logit_row_ = other.first_logit_row_;
        logit_rows_ = other.logit_rows_;
    }

    /// Writes tokens, keys and values, and the last row of logits to a file from which restore() goes on. The
    /// file appears when it is complete, in the place of what was there. Defined in session_file.hpp.
    /// @throws FileError naming the file
    void save(const std::filesystem::path& path) const;

    /// A session that goes on where save() left one, with the same bits. It has the file's type of keys and
    /// values; another in @p options is an error.
    /// @param model  the one that the session was of: the same weights in the same formats
    /// @throws FileError, FormatError  naming the file, what was expected and what was found: if it is no
    ///                                 session, damaged, or of another model
    /// @throws OptionError             if SessionOptions::kv_dtype is another than the file's
    [[nodiscard]] static Session restore(const Gpt2Model& model, const std::filesystem::path& path,
                                         const SessionOptions& options = {});

    /// The same, from the bytes of a file; messages call it "memory".
    [[nodiscard]] static Session restore(const Gpt2Model& model, std::span<const std::byte> file,
                                         const SessionOptions& options = {});

    [[nodiscard]] KvDtype kv_dtype() const noexcept { return cache_.dtype(); }

    /// Bytes of keys and values that the next single token will read.
    [[nodiscard]] std::size_t cache_bytes_read() const noexcept { return cache_.bytes_read(position() + 1); }

private:
    friend class PrefixCache;
    friend void forward(std::span<const BatchItem>, const Interrupt&);
    friend class detail::BatchGeneration;

    Session(std::shared_ptr<const detail::ModelState> model, std::shared_ptr<ThreadPool> pool,
            std::shared_ptr<Profile> profile, std::shared_ptr<Observer> observer, KvDtype kv_dtype)
        : model_(std::move(model)), pool_(std::move(pool)), profile_(std::move(profile)),
          observer_(std::move(observer)), cache_(model_->transformer.config, kv_dtype) {
        tokens_.reserve(model_->transformer.config.n_positions);
    }

    [[nodiscard]] static Session restore(const Gpt2Model& model, const SafetensorsFile& from,
                                         const SessionOptions& options);

    /// Checks what forward() was given and lays out its rows.
    [[nodiscard]] static std::vector<Row> rows_of(std::span<const BatchItem> items);

    /// Takes rows of any sessions of the model through it; see Transformer::forward.
    void pass(std::span<const Row> rows, float* logits, const ScreeningRequest* screening,
              const Interrupt& interrupt);

    /// The same. @returns the logits [n, V] that were asked for
    GPT2_HEAVY [[nodiscard]] std::shared_ptr<const Tensor<float, 2>> run(std::span<const Row> rows,
                                                                         const Interrupt& interrupt);

    GPT2_HEAVY std::vector<float> score_tokens(std::span<const TokenId> given);

    /// Appends tokens, all of which there is room for. Whatever it throws, the session is then as before.
    /// @returns what the model said of them
    [[nodiscard]] TokenLogprobs read_scored(std::span<const TokenId> tokens, LogprobReader& reader,
                                            const Interrupt& interrupt);

    /// The same for GenerationResult::prompt_logprobs; leaves the last row of logits.
    /// @returns what the model said of the last @p n_prompt tokens
    [[nodiscard]] TokenLogprobs read_prompt(std::span<const TokenId> tokens, std::size_t n_prompt,
                                            std::int64_t n_top, const Interrupt& interrupt);

    GPT2_HEAVY GenerationResult continue_prompt(std::span<const TokenId> prompt,
                                                const GenerationConfig& config,
                                                const StreamCallback& callback);

    void extend(std::span<const TokenId> tokens, Overflow overflow, const Interrupt& interrupt);

    /// Appends a token and leaves in head_ what decides the one after it, but no logits().
    void read_screened(TokenId token, const Candidates& wanted, const Interrupt& interrupt);

    /// The logits() after read_screened().
    void complete_logits();

    /// The session of the negative prompt, which has been read; none without guidance.
    [[nodiscard]] std::optional<Session> unguided_session(const GenerationConfig& config,
                                                          TokenId last_of_context,
                                                          const Interrupt& interrupt) const;

    /// Appends a token here and there.
    void extend_both(TokenId token, Session* unguided, Overflow overflow, const Interrupt& interrupt);

    /// Appends a token here and there, as extend_both(), if proposals can be read in the same pass or an
    /// earlier one has read it. Of the proposals nothing is seen yet: tokens() and logits() are as if they
    /// were not.
    /// @returns false if the token is still to be read
    bool extend_ahead(TokenId token, Session* unguided, Speculator& speculator, const Interrupt& interrupt);

    /// Takes the last tokens of a pass out of sight, with their logits.
    void hide_proposals(std::size_t count) noexcept;

    /// Brings the first of them back: @p token.
    void show_proposal(TokenId token) noexcept;

    /// Writes the text. @param unguided  the session of the negative prompt; null if there is none
    /// @param speculator  null without speculation
    /// @returns how
    Screening write(Generation& generation, Overflow overflow, Session* unguided, Speculator* speculator,
                    const Interrupt& interrupt);

    /// Makes the session hold @p context, of which it holds the first @p n_held tokens and maybe others.
    /// @returns the hidden states of all of it
    [[nodiscard]] std::shared_ptr<detail::HiddenStates>
    read_hidden_states(std::span<const TokenId> context, std::size_t n_held, const Interrupt& interrupt);

    /// Reads the context, as above, and writes a text by contrastive search; see contrastive_search.hpp.
    void contrast(Generation& generation, const GenerationConfig& config, std::span<const TokenId> context,
                  std::size_t n_held, const Interrupt& interrupt);

    std::shared_ptr<const detail::ModelState> model_;
    std::shared_ptr<ThreadPool> pool_;
    std::shared_ptr<Profile> profile_;
    std::shared_ptr<Observer> observer_;
    KvCache cache_;
    std::vector<TokenId> tokens_; ///< with room for all positions from the beginning
    Workspace workspace_;
    ScreenedHead::State head_;
    Tensor<float, 2>
        head_inputs_; ///< [2, C]: the last that went into the head when it was screened, and room
    std::shared_ptr<const Tensor<float, 2>> logits_; ///< shared by the sessions of one pass
    std::size_t first_logit_row_ = 0;
    std::size_t logit_rows_ = 0;
};

namespace detail {

/// Rows in one pass through the layers: enough that a product reads the weights seldom, few enough that
/// the activations fit into the second-level caches. Longer inputs are cut, which changes no bit.
inline constexpr std::size_t rows_per_pass = 256;

/// Rows from which on a session does not keep the memory of a pass.
inline constexpr std::size_t kept_workspace_rows = 32;

[[nodiscard]] inline std::size_t wanted_logits(std::span<const Row> rows) noexcept {
    return static_cast<std::size_t>(std::ranges::count(rows, true, &Row::wants_logits));
}

inline void check_item(const BatchItem& item, const BatchItem& first, const ModelState* model,
                       const ModelState* first_model) {
    if (model != first_model) {
        throw OptionError("forward: expected sessions of one model, found one of another");
    }
    if (item.tokens.empty()) {
        throw OptionError("forward: expected at least one token for each session, found none");
    }
    const Config& config = model->transformer.config;
    for (const TokenId id : item.tokens) {
        if (id < 0 || static_cast<std::size_t>(id) >= config.vocab_size) {
            throw OptionError(concat("forward: expected token ids below ", config.vocab_size,
                                     ", the size of the vocabulary, found ", id));
        }
    }
    for (const BatchItem* other = &first; other != &item; ++other) {
        if (other->session == item.session) {
            throw OptionError("forward: expected each session at most once, found one twice");
        }
    }
    const std::size_t position = item.session->position();
    if (item.tokens.size() > config.n_positions - position) {
        throw ContextError(concat("forward: expected at most ", config.n_positions - position,
                                  " tokens, as the model has ", config.n_positions, " positions and ",
                                  position, " are taken, found ", item.tokens.size()));
    }
}

} // namespace detail

inline std::vector<Row> Session::rows_of(std::span<const BatchItem> items) {
    std::vector<Row> rows;
    for (const BatchItem& item : items) {
        if (item.session == nullptr) {
            throw OptionError("forward: expected a session, found null");
        }
        detail::check_item(item, items.front(), item.session->model_.get(),
                           items.front().session->model_.get());
        for (std::size_t i = 0; i < item.tokens.size(); ++i) {
            const bool last = i + 1 == item.tokens.size();
            rows.push_back(
                {.token = item.tokens[i],
                 .position = item.session->position() + i,
                 .cache = &item.session->cache_,
                 .wants_logits = item.logits == Logits::all || (item.logits == Logits::last && last),
                 .observer = item.session->observer_.get()});
        }
    }
    return rows;
}

inline void Session::pass(std::span<const Row> rows, float* logits, const ScreeningRequest* screening,
                          const Interrupt& interrupt) {
    const Transformer& transformer = model_->transformer;
    const auto turn = pool_->take_turn();
    const Compute compute{*model_->kernels, *pool_, profile_.get(),
                          interrupt.possible() ? &interrupt : nullptr};
    const std::size_t chunk = std::min(rows.size(), detail::rows_per_pass);
    if (workspace_.rows < chunk) {
        workspace_ = Workspace(transformer.config, chunk);
    }
    const Profile::Span span(profile_.get(), "forward");
    for (std::size_t begin = 0; begin < rows.size(); begin += chunk) {
        const auto part = rows.subspan(begin, std::min(chunk, rows.size() - begin));
        transformer.forward(compute, part, workspace_, logits, screening);
        if (screening == nullptr) {
            logits += transformer.config.vocab_size * detail::wanted_logits(part);
        }
    }
    if (workspace_.rows > detail::kept_workspace_rows) {
        workspace_ = Workspace();
    }
}

template <class>
std::shared_ptr<const Tensor<float, 2>> Session::run(std::span<const Row> rows, const Interrupt& interrupt) {
    const std::size_t V = model_->transformer.config.vocab_size;
    auto logits = std::make_shared<Tensor<float, 2>>(Tensor<float, 2>::Shape{detail::wanted_logits(rows), V});
    pass(rows, logits->data(), nullptr, interrupt);
    for (std::size_t row = 0; row < logits->dim(0); ++row) {
        detail::require_finite((*logits)[row].flat());
    }
    return logits;
}

inline void forward(std::span<const BatchItem> items, const Interrupt& interrupt) {
    if (items.empty()) {
        return;
    }
    const std::vector<Row> rows = Session::rows_of(items);
    const auto logits = items.front().session->run(rows, interrupt);
    // Nothing throws from here on: sessions have room for the tokens of all positions.
    auto read = rows.begin();
    std::size_t logit_row = 0;
    for (const BatchItem& item : items) {
        Session& session = *item.session;
        session.logits_ = logits;
        session.first_logit_row_ = logit_row;
        for (std::size_t i = 0; i < item.tokens.size(); ++i, ++read) {
            session.tokens_.push_back(read->token);
            logit_row += read->wants_logits ? 1 : 0;
        }
        session.logit_rows_ = logit_row - session.first_logit_row_;
    }
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE std::shared_ptr<const Tensor<float, 2>> Session::run<void>(std::span<const Row>,
                                                                         const Interrupt&);
#endif

} // namespace gpt2
