// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Proposals that are right as often as one likes.

namespace gpt2::bench {

/// Proposes a text that is known beforehand, each token wrong with a given probability. With a model of
/// random weights that says more than its real draft would: random weights say nothing about how often one is
/// right.
class ImposedDrafter : public Drafter {
public:
    /// @param whole  prompt and text
    /// @param rate   probability that a token is right
    /// @param model  reads what is proposed, one token after the other, and so costs what a draft model does;
    ///               null: proposals cost nothing
    ImposedDrafter(std::vector<TokenId> whole, double rate, std::optional<Gpt2Model> model)
        : whole_(std::move(whole)), rate_(rate), model_(std::move(model)) {}

    [[nodiscard]] std::unique_ptr<Draft> begin(const DraftRequest& request) const override {
        std::optional<Session> session;
        if (model_) {
            SessionOptions options;
            options.pool = request.pool;
            session.emplace(*model_, options);
        }
        return std::make_unique<ImposedDraft>(whole_, rate_, request.model.vocab_size, std::move(session));
    }

private:
    class ImposedDraft : public Draft {
    public:
        ImposedDraft(std::span<const TokenId> whole, double rate, std::size_t vocab_size,
                     std::optional<Session> session)
            : whole_(whole), rate_(rate), vocab_size_(vocab_size), session_(std::move(session)) {}

        [[nodiscard]] std::vector<TokenId> propose(std::span<const TokenId> context,
                                                   std::size_t most) override {
            std::vector<TokenId> proposed;
            const std::size_t end = std::min(whole_.size(), context.size() + most);
            for (std::size_t i = context.size(); i < end; ++i) {
                const bool is_right = uniform(seed, 0, i) < rate_; // of place i, however often it is proposed
                const auto other = static_cast<std::size_t>(whole_[i] + 1) % vocab_size_;
                proposed.push_back(is_right ? whole_[i] : static_cast<TokenId>(other));
            }
            if (session_ && !proposed.empty()) {
                run(context, proposed);
            }
            return proposed;
        }

    private:
        static constexpr std::uint64_t seed = 1;

        /// What a draft model would have computed for these proposals.
        void run(std::span<const TokenId> context, std::span<const TokenId> proposed) {
            std::span<const float> logits = gpt2::detail::hold(*session_, context);
            for (std::size_t i = 0;; ++i) {
                chosen_ = gpt2::detail::argmax(logits);
                if (i + 1 == proposed.size()) {
                    break;
                }
                logits = session_->forward(proposed.subspan(i, 1));
            }
        }

        std::span<const TokenId> whole_;
        double rate_;
        std::size_t vocab_size_;
        std::optional<Session> session_;
        volatile TokenId chosen_ = 0; ///< so that the choice is not left out
    };

    std::vector<TokenId> whole_;
    double rate_;
    std::optional<Gpt2Model> model_;
};

} // namespace gpt2::bench
