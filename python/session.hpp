// SPDX-License-Identifier: MIT
#pragma once

#include "../src/exclusive_use.hpp"
#include "arguments.hpp"
#include "model.hpp"
#include "options.hpp"
#include "recorder.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Sessions as Python holds them. All that computes does so without the interpreter's lock (GIL).

namespace gpt2::python {

using bindings::ExclusiveUse;

/// A Session that says so when it is used twice at once.
struct Session {
    Session(std::shared_ptr<const Model> of, const SessionOptions& options)
        : model(std::move(of)), session(model->model, options) {}
    Session(std::shared_ptr<const Model> of, gpt2::Session made)
        : model(std::move(of)), session(std::move(made)) {}

    std::shared_ptr<const Model> model;
    gpt2::Session session;
    std::atomic<bool> busy{false};
};

inline SessionOptions session_options(const Model& model, py::handle kv_dtype, py::handle observer) {
    SessionOptions options{.pool = model.pool, .kv_dtype = kv_dtype_from(kv_dtype)};
    if (!observer.is_none()) {
        if (!py::isinstance<Recorder>(observer)) {
            wrong_type("observer", "a gpt2.Recorder", observer);
        }
        options.observer = observer.cast<std::shared_ptr<Recorder>>();
    }
    return options;
}

inline std::shared_ptr<Session> fork(Session& session) {
    const ExclusiveUse use(session.busy);
    const py::gil_scoped_release released;
    return std::make_shared<Session>(session.model, session.session.fork());
}

inline void save(Session& session, const std::filesystem::path& path) {
    const ExclusiveUse use(session.busy);
    const py::gil_scoped_release released;
    session.session.save(path);
}

/// @param from  a path, or the bytes of a file
template <class From>
std::shared_ptr<Session> restore(const std::shared_ptr<Model>& model, const From& from,
                                 const SessionOptions& options) {
    const py::gil_scoped_release released;
    return std::make_shared<Session>(model, gpt2::Session::restore(model->model, from, options));
}

using TopLogprobs = std::vector<std::pair<TokenId, float>>;

inline TopLogprobs to_pairs(std::span<const TokenLogprob> place) {
    TopLogprobs pairs;
    for (const TokenLogprob& token : place) {
        pairs.emplace_back(token.id, token.logprob);
    }
    return pairs;
}

/// What a callback is told, with the text in memory of its own.
struct Token {
    explicit Token(const GeneratedToken& token)
        : id(token.id), text(token.text), bytes(token.bytes), index(token.index), logprob(token.logprob),
          top_logprobs(to_pairs(token.top_logprobs)) {}

    TokenId id;
    std::string text;
    std::string bytes;
    std::size_t index;
    std::optional<float> logprob;
    TopLogprobs top_logprobs; ///< empty if not wanted
};

struct Result {
    Result(GenerationResult from, const GenerationConfig& config)
        : result(std::move(from)), has_logprobs(config.logprobs), has_top_logprobs(config.top_logprobs > 0),
          has_prompt_logprobs(config.prompt_logprobs) {}

    GenerationResult result;
    bool has_logprobs;
    bool has_top_logprobs;
    bool has_prompt_logprobs;
};

/// A list for each place; None if not wanted.
inline std::optional<std::vector<TopLogprobs>> to_pairs(const std::vector<std::vector<TokenLogprob>>& places,
                                                        bool wanted) {
    if (!wanted) {
        return std::nullopt;
    }
    std::vector<TopLogprobs> lists;
    for (const auto& place : places) {
        lists.push_back(to_pairs(place));
    }
    return lists;
}

/// A copy, as the session's own logits end with its next pass. None where there are none.
inline py::object last_logits(const gpt2::Session& session) {
    const auto logits = session.logits();
    if (logits.dim(0) == 0) {
        return py::none();
    }
    return array_of(logits[0].flat());
}

inline py::array_t<float> all_logits(const gpt2::Session& session) {
    const auto logits = session.logits();
    return py::array_t<float>({logits.dim(0), logits.dim(1)}, logits.data());
}

inline py::object logits_as(Logits wanted, const gpt2::Session& session) {
    return wanted == Logits::all ? py::object(all_logits(session)) : last_logits(session);
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
    return array_of(scores);
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

    Flow operator()(const GeneratedToken& token) { return tell(token); }
    Flow operator()(std::size_t index, const GeneratedToken& token) { return tell(token, index); }

private:
    template <class... Index> Flow tell(const GeneratedToken& token, Index... index) {
        const auto now = std::chrono::steady_clock::now();
        if (callback_.is_none() && now < next_look_) {
            return Flow::proceed;
        }
        next_look_ = now + std::chrono::milliseconds(50);
        const py::gil_scoped_acquire acquired;
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
        return callback_.is_none() ? Flow::proceed : flow_from(callback_(index..., Token(token)));
    }

    py::object callback_;
    std::chrono::steady_clock::time_point next_look_{};
};

inline void require_callable(const py::object& callback) {
    if (!callback.is_none() && PyCallable_Check(callback.ptr()) == 0) {
        wrong_type("callback", "something to call", callback);
    }
}

inline Result generate(Session& session, py::handle prompt, const py::object& callback,
                       const GenerationConfig& config) {
    require_callable(callback);
    const ExclusiveUse use(session.busy);
    const auto tokens = prompt_from(session.model->model, prompt, session.session.position() == 0);
    Listener listener(callback);
    const py::gil_scoped_release released;
    return {session.session.generate(tokens, config, std::ref(listener)), config};
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
