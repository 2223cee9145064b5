// SPDX-License-Identifier: MIT
#pragma once

#include "../src/exclusive_use.hpp"
#include "arguments.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Models and sessions as Python holds them. All that computes does so without the interpreter's lock (GIL).

namespace gpt2::python {

using bindings::ExclusiveUse;

struct Model {
    py::object file; ///< the bytes that it was loaded from, if it was
    std::shared_ptr<ThreadPool> pool;
    Gpt2Model model;
};

/// A Session that says so when it is used twice at once.
struct Session {
    Session(std::shared_ptr<const Model> of, std::optional<KvDtype> kv_dtype)
        : model(std::move(of)),
          session(model->model, {.pool = model->pool, .kv_dtype = kv_dtype, .profile = {}}) {}

    std::shared_ptr<const Model> model;
    gpt2::Session session;
    std::atomic<bool> busy{false};
};

/// What a callback is told, with the text in memory of its own.
struct Token {
    explicit Token(const GeneratedToken& token)
        : id(token.id), text(token.text), bytes(token.bytes), index(token.index), logprob(token.logprob) {}

    TokenId id;
    std::string text;
    std::string bytes;
    std::size_t index;
    std::optional<float> logprob;
};

struct Result {
    GenerationResult result;
    bool has_logprobs;
};

/// A copy, as the session's own logits end with its next pass. None where there are none.
inline py::object last_logits(const gpt2::Session& session) {
    const auto logits = session.logits();
    if (logits.dim(0) == 0) {
        return py::none();
    }
    return py::array_t<float>(static_cast<py::ssize_t>(logits.dim(1)), logits[0].data());
}

inline py::array_t<float> all_logits(const gpt2::Session& session) {
    const auto logits = session.logits();
    return py::array_t<float>({logits.dim(0), logits.dim(1)}, logits.data());
}

inline py::object logits_as(Logits wanted, const gpt2::Session& session) {
    return wanted == Logits::all ? py::object(all_logits(session)) : last_logits(session);
}

/// The tokens of a prompt: str or bytes, or tokens. An empty text begins with <|endoftext|> where nothing is
/// before it.
inline std::vector<TokenId> prompt_from(const Gpt2Model& model, py::handle prompt, bool begins) {
    if (!is_text(prompt)) {
        return tokens_from(prompt);
    }
    const std::string_view text = bytes_from("prompt", prompt);
    const py::gil_scoped_release released;
    return begins ? model.encode_prompt(text) : model.tokenizer().encode(text);
}

inline py::object forward(Session& session, py::handle tokens, py::handle logits) {
    const Logits wanted = logits_from(logits);
    const std::vector<TokenId> ids = tokens_from(tokens);
    const ExclusiveUse use(session.busy);
    {
        const py::gil_scoped_release released;
        const BatchItem item{&session.session, ids, wanted};
        gpt2::forward({&item, 1});
    }
    return logits_as(wanted, session.session);
}

inline py::array_t<float> score(Session& session, py::handle tokens) {
    const std::vector<TokenId> ids = tokens_from(tokens);
    const ExclusiveUse use(session.busy);
    std::vector<float> scores;
    {
        const py::gil_scoped_release released;
        scores = session.session.score(ids);
    }
    return py::array_t<float>(static_cast<py::ssize_t>(scores.size()), scores.data());
}

/// What a callback written in Python answers: None and Flow.PROCEED go on, Flow.STOP ends the text.
inline Flow flow_from(py::handle answer) {
    if (answer.is_none()) {
        return Flow::proceed;
    }
    if (!py::isinstance<Flow>(answer)) {
        wrong_type("callback", "None or a Flow to be returned", answer);
    }
    return answer.cast<Flow>();
}

/// Calls @p callback, and looks for signals: Ctrl-C raises KeyboardInterrupt and ends the text. Without a
/// callback that is every 50 ms, as the lock may have to be waited for.
class Listener {
public:
    explicit Listener(py::object callback) : callback_(std::move(callback)) {}

    Flow operator()(const GeneratedToken& token) {
        const auto now = std::chrono::steady_clock::now();
        if (callback_.is_none() && now < next_look_) {
            return Flow::proceed;
        }
        next_look_ = now + std::chrono::milliseconds(50);
        const py::gil_scoped_acquire acquired;
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
        return callback_.is_none() ? Flow::proceed : flow_from(callback_(Token(token)));
    }

private:
    py::object callback_;
    std::chrono::steady_clock::time_point next_look_{};
};

inline Result generate(Session& session, py::handle prompt, const py::object& callback,
                       const py::kwargs& options) {
    const GenerationConfig config = config_from(options);
    if (!callback.is_none() && PyCallable_Check(callback.ptr()) == 0) {
        wrong_type("callback", "something to call", callback);
    }
    const ExclusiveUse use(session.busy);
    const auto tokens = prompt_from(session.model->model, prompt, session.session.position() == 0);
    Listener listener(callback);
    const py::gil_scoped_release released;
    return {session.session.generate(tokens, config, std::ref(listener)), config.logprobs};
}

/// One pass over several sessions.
inline py::list forward_batch(py::handle items, py::handle logits) {
    const Logits wanted = logits_from(logits);
    struct Item {
        std::shared_ptr<Session> session;
        std::vector<TokenId> tokens;
    };
    const auto given = list_from<Item>("items", "a list of (session, tokens)", items, [](py::handle item) {
        if (!py::isinstance<py::tuple>(item) || py::len(item) != 2) {
            wrong_type("items", "tuples (session, tokens)", item);
        }
        const auto pair = py::reinterpret_borrow<py::tuple>(item);
        if (!py::isinstance<Session>(pair[0])) {
            wrong_type("items", "a Session in each tuple (session, tokens)", pair[0]);
        }
        return Item{pair[0].cast<std::shared_ptr<Session>>(), tokens_from(pair[1])};
    });
    std::vector<BatchItem> batch;
    std::set<Session*> sessions; // one that is there twice is for the engine to refuse
    for (const Item& item : given) {
        batch.push_back({&item.session->session, item.tokens, wanted});
        sessions.insert(item.session.get());
    }
    std::deque<ExclusiveUse> uses;
    for (Session* const session : sessions) {
        uses.emplace_back(session->busy);
    }
    {
        const py::gil_scoped_release released;
        gpt2::forward(batch);
    }
    py::list result;
    for (const Item& item : given) {
        result.append(logits_as(wanted, item.session->session));
    }
    return result;
}

} // namespace gpt2::python
