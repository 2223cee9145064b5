// SPDX-License-Identifier: MIT
#pragma once

#include "session.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

/// @file
/// The iterator over a text in the making.

namespace gpt2::python {

/// Generates in a thread of its own, one token for each that is asked for: between tokens the thread waits.
/// So what a consumer does not want is never computed, and after close() the session holds what he has seen.
/// The thread never touches Python; it begins with the first token, and is joined when the text ends, by
/// close(), or by the destructor.
class Stream {
public:
    /// @throws OptionError, ContextError  for what can be known before any work
    Stream(std::shared_ptr<Session> session, std::vector<TokenId> prompt, GenerationConfig config)
        : session_(std::move(session)), prompt_(std::move(prompt)), config_(std::move(config)) {
        const Config& model = session_->model->model.config();
        use_.emplace(session_->busy);
        validate(config_, model);
        detail::require_one_text(config_);
        detail::require_no_beams(config_);
        require_room(session_->session.position() + prompt_.size(), config_, model);
    }

    ~Stream() {
        end();
        finish();
    }

    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    /// The next token. @throws StopIteration behind the last, and whatever ended the text before
    Token next() {
        if (asked_.exchange(true)) {
            throw py::value_error(
                "stream: expected one caller at a time, found another one waiting for a token");
        }
        const Asked asked(asked_);
        if (!use_) {
            throw py::stop_iteration();
        }
        try {
            if (std::optional<Token> token = wait_for_token()) {
                return std::move(*token);
            }
        } catch (...) { // Ctrl-C
            end();
            finish();
            throw;
        }
        finish();
        if (error_) {
            std::rethrow_exception(std::exchange(error_, nullptr));
        }
        throw py::stop_iteration();
    }

    /// Ends the text here. What was generated is in result(). Where another thread waits for a token, it is
    /// that one which has reached the end then.
    void close() {
        end();
        if (!asked_.exchange(true)) {
            const Asked asked(asked_);
            finish();
        }
    }

    /// Nothing before the end.
    [[nodiscard]] std::optional<Result> result() {
        const std::lock_guard lock(mutex_);
        return result_;
    }

private:
    /// Puts the flag down again.
    class Asked {
    public:
        explicit Asked(std::atomic<bool>& flag) : flag_(flag) {}
        ~Asked() { flag_ = false; }
        Asked(const Asked&) = delete;
        Asked& operator=(const Asked&) = delete;

    private:
        std::atomic<bool>& flag_;
    };

    void end() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        changed_.notify_all();
    }

    std::optional<Token> wait_for_token() {
        const py::gil_scoped_release released;
        std::unique_lock lock(mutex_);
        wanted_ = true;
        if (!thread_.joinable()) {
            thread_ = std::thread([this] { run(); });
        }
        changed_.notify_all();
        while (!changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return token_ || done_; })) {
            lock.unlock();
            {
                const py::gil_scoped_acquire acquired;
                if (PyErr_CheckSignals() != 0) {
                    throw py::error_already_set();
                }
            }
            lock.lock();
        }
        return std::exchange(token_, std::nullopt);
    }

    /// Waits for the thread, and gives the session back.
    void finish() {
        if (thread_.joinable()) {
            const py::gil_scoped_release released;
            thread_.join();
        }
        use_.reset();
    }

    void run() {
        std::optional<Result> result;
        std::exception_ptr error;
        try {
            result = Result{
                session_->session.generate(prompt_, config_,
                                           [this](const GeneratedToken& token) { return hand_over(token); }),
                config_};
        } catch (...) {
            error = std::current_exception();
        }
        const std::lock_guard lock(mutex_);
        result_ = std::move(result);
        error_ = error;
        done_ = true;
        changed_.notify_all();
    }

    Flow hand_over(const GeneratedToken& token) {
        std::unique_lock lock(mutex_);
        if (closed_) { // while this token was computed: nobody will see it, but the text ends here
            return Flow::stop;
        }
        token_.emplace(token);
        wanted_ = false;
        changed_.notify_all();
        changed_.wait(lock, [this] { return wanted_ || closed_; });
        return closed_ ? Flow::stop : Flow::proceed;
    }

    std::shared_ptr<Session> session_;
    std::vector<TokenId> prompt_;
    GenerationConfig config_;
    std::optional<ExclusiveUse> use_; ///< until the end
    std::atomic<bool> asked_{false};  ///< a thread is in next(): the one that may join

    std::mutex mutex_; ///< of what follows
    std::condition_variable changed_;
    bool wanted_ = false; ///< a token is
    bool closed_ = false;
    bool done_ = false;
    std::optional<Token> token_; ///< for next()
    std::optional<Result> result_;
    std::exception_ptr error_;
    std::thread thread_;
};

} // namespace gpt2::python
