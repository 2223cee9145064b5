// SPDX-License-Identifier: MIT

// The Python module gpt2._gpt2, which gpt2/__init__.py re-exports and gpt2/__init__.pyi describes.

#include "arguments.hpp"
#include "batch.hpp"
#include "model.hpp"
#include "options.hpp"
#include "recorder.hpp"
#include "session.hpp"
#include "stream.hpp"

#include <gpt2/gpt2.hpp>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gpt2::python {
namespace {

// ---- Exceptions

/// The classes of Python, as long as the interpreter lives.
struct Exceptions {
    PyObject* error;
    PyObject* file;
    PyObject* format;
    PyObject* option;
    PyObject* context;
    PyObject* numeric;
    PyObject* busy;
};
Exceptions exceptions;

PyObject* make_exception(py::module_& m, const char* name, const char* doc, const py::tuple& bases) {
    const std::string full_name = std::string("gpt2.") + name;
    PyObject* const type = PyErr_NewExceptionWithDoc(full_name.c_str(), doc, bases.ptr(), nullptr);
    if (type == nullptr) {
        throw py::error_already_set();
    }
    m.add_object(name, type);
    return type;
}

void translate(std::exception_ptr error) {
    try {
        std::rethrow_exception(std::move(error));
    } catch (const FileError& e) {
        PyErr_SetString(exceptions.file, e.what());
    } catch (const FormatError& e) {
        PyErr_SetString(exceptions.format, e.what());
    } catch (const OptionError& e) {
        PyErr_SetString(exceptions.option, e.what());
    } catch (const ContextError& e) {
        PyErr_SetString(exceptions.context, e.what());
    } catch (const NumericError& e) {
        PyErr_SetString(exceptions.numeric, e.what());
    } catch (const bindings::BusyError& e) {
        PyErr_SetString(exceptions.busy, e.what());
    } catch (const Error& e) {
        PyErr_SetString(exceptions.error, e.what());
    }
}

void add_exceptions(py::module_& m) {
    const py::handle value_error(PyExc_ValueError);
    exceptions.error = make_exception(m, "Error", "Base of everything that this module raises on purpose.",
                                      py::make_tuple(py::handle(PyExc_RuntimeError)));
    const py::handle error(exceptions.error);
    exceptions.file =
        make_exception(m, "FileError", "The operating system refused: no such file, no permission.",
                       py::make_tuple(error, py::handle(PyExc_OSError)));
    exceptions.format = make_exception(m, "FormatError", "A file does not hold what its format demands.",
                                       py::make_tuple(error, value_error));
    exceptions.option =
        make_exception(m, "OptionError", "An option or an argument has no meaning, or contradicts another.",
                       py::make_tuple(error, value_error));
    exceptions.context =
        make_exception(m, "ContextError", "The tokens do not fit into the positions that the model has.",
                       py::make_tuple(error, value_error));
    exceptions.numeric = make_exception(m, "NumericError", "A computation left the finite numbers.",
                                        py::make_tuple(error, py::handle(PyExc_ArithmeticError)));
    exceptions.busy =
        make_exception(m, "BusyError", "A session is in use by another thread, or by an open stream.",
                       py::make_tuple(error));
    py::register_exception_translator(&translate);
}

// ---- Values

/// Bytes that are nearly always text; those that are not come back by the same error handler.
py::str as_str(const std::string& bytes) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape"));
}

const char* name_of(Activation activation) {
    switch (activation) {
    case Activation::gelu_erf:
        return "gelu";
    case Activation::relu:
        return "relu";
    default:
        return "gelu_new";
    }
}

void add_config(py::module_& m) {
    py::class_<Config>(m, "Config", "The shape of a model, by Hugging Face's names (config.json).")
        .def_readonly("vocab_size", &Config::vocab_size, "V, the number of logits.")
        .def_readonly("n_positions", &Config::n_positions, "The longest sequence, in tokens.")
        .def_readonly("n_embd", &Config::n_embd, "C, the width of the network.")
        .def_readonly("n_layer", &Config::n_layer, "The number of blocks.")
        .def_readonly("n_head", &Config::n_head, "H, the number of attention heads.")
        .def_readonly("n_inner", &Config::n_inner, "F, the width inside the MLP.")
        .def_readonly("layer_norm_epsilon", &Config::layer_norm_epsilon)
        .def_property_readonly("activation_function", [](const Config& c) { return name_of(c.activation); })
        .def_readonly("scale_attn_weights", &Config::scale_attn_weights)
        .def_readonly("scale_attn_by_inverse_layer_idx", &Config::scale_attn_by_inverse_layer_idx)
        .def_readonly("bos_token_id", &Config::bos_token_id, "The token that begins a text, or None.")
        .def_readonly("eos_token_id", &Config::eos_token_id, "The token that ends a text, or None.")
        .def("__repr__", [](const Config& c) {
            return concat("<gpt2.Config vocab_size=", c.vocab_size, " n_positions=", c.n_positions,
                          " n_embd=", c.n_embd, " n_layer=", c.n_layer, " n_head=", c.n_head, ">");
        });
    py::class_<Verification>(m, "Verification", "What Model.verify() found; what it found wrong, it raises.")
        .def_readonly("has_self_test", &Verification::has_self_test, "A converted model has one.")
        .def_readonly("largest_difference", &Verification::largest_difference, "Of a logit, from the file's.")
        .def_readonly("bound", &Verification::bound, "What float32 arithmetic may make of it.");
}

struct Timings {
    double ttft;
    double tpot;
    double total;
};

void add_result(py::module_& m) {
    py::enum_<Flow>(m, "Flow", "What a callback returns; None is PROCEED.")
        .value("PROCEED", Flow::proceed, "Go on.")
        .value("STOP", Flow::stop, "End the text after this token.");
    py::class_<Token>(m, "Token", "One new token, as a callback or a stream gives it.")
        .def_readonly("id", &Token::id)
        .def_readonly(
            "text", &Token::text,
            "What became certain of the text with this token: of this one, of earlier ones, or empty while "
            "a character or a stop string may be incomplete.")
        .def_property_readonly(
            "bytes", [](const Token& t) { return py::bytes(t.bytes); },
            "Those of this token alone; empty for the end-of-text token that ends the text.")
        .def_readonly("index", &Token::index, "0 for the first new token.")
        .def_readonly("logprob", &Token::logprob, "Natural logarithm of its probability, if asked for.")
        .def_property_readonly(
            "top_logprobs",
            [](const Token& t) {
                return t.top_logprobs.empty() ? std::nullopt : std::optional(t.top_logprobs);
            },
            "As Result.top_logprobs, at this place.")
        .def("__str__", [](const Token& t) { return t.text; })
        .def("__repr__", [](const Token& t) {
            return concat("<gpt2.Token id=", t.id, " index=", t.index,
                          " text=", std::string(py::repr(py::str(t.text))), ">");
        });
    py::class_<Timings>(m, "Timings", "Durations in seconds.")
        .def_readonly("ttft", &Timings::ttft, "Time to first token, from the start of the call.")
        .def_readonly("tpot", &Timings::tpot, "Time per output token after the first, on average.")
        .def_readonly("total", &Timings::total, "From the start of the call to its end.");
    py::class_<Speculation>(m, "Speculation", "How often speculation was right.")
        .def_readonly("proposed", &Speculation::proposed, "Tokens.")
        .def_readonly("accepted", &Speculation::accepted, "Of them: that are in the text.")
        .def_readonly("passes", &Speculation::passes, "Of the model, behind those that read the prompt.")
        .def("__repr__", [](const Speculation& found) {
            return concat("<gpt2.Speculation proposed=", found.proposed, " accepted=", found.accepted,
                          " passes=", found.passes, ">");
        });
    py::class_<Result>(m, "Result", "A text that was generated.")
        .def_property_readonly(
            "text", [](const Result& r) { return r.result.text; }, "Without the prompt and the stop string.")
        .def_property_readonly(
            "bytes", [](const Result& r) { return py::bytes(r.result.bytes); },
            "The exact bytes of the tokens, a stop string included, the end-of-text token excepted.")
        .def_property_readonly(
            "tokens", [](const Result& r) { return r.result.tokens; },
            "Every generated token, the one that ended the text included.")
        .def_property_readonly(
            "logprobs",
            [](const Result& r) { return r.has_logprobs ? std::optional(r.result.logprobs) : std::nullopt; },
            "The natural logarithm of the probability that the model gave to each token, if asked for.")
        .def_property_readonly(
            "finish_reason", [](const Result& r) { return to_string(r.result.finish_reason); },
            "\"length\", \"eos\", \"stop_string\", \"max_time\", \"cancelled\" or \"callback\" (also for a "
            "stream "
            "that was closed).")
        .def_property_readonly(
            "stop_string",
            [](const Result& r) {
                return r.result.finish_reason == FinishReason::stop_string
                           ? py::object(as_str(r.result.stop_string))
                           : py::none();
            },
            "The one that ended the text, or None.")
        .def_property_readonly(
            "seed", [](const Result& r) { return r.result.seed; },
            "The one that gives this text again; None when nothing was drawn.")
        .def_property_readonly("prompt_tokens", [](const Result& r) { return r.result.prompt_tokens; })
        .def_property_readonly(
            "timings",
            [](const Result& r) {
                return Timings{r.result.ttft.count(), r.result.tpot.count(), r.result.total.count()};
            })
        .def_property_readonly(
            "score", [](const Result& r) { return r.result.score; },
            "Of beam search: the sum of the log-probabilities after the processors / length^length_penalty.")
        .def_property_readonly(
            "speculation", [](const Result& r) { return r.result.speculation; },
            "What became of proposals (prompt_lookup_num_tokens, assistant_model); all 0 without.")
        .def_property_readonly(
            "top_logprobs",
            [](const Result& r) { return to_pairs(r.result.top_logprobs, r.has_top_logprobs); },
            "With top_logprobs: for each token a list of the most probable ones at its place, the best "
            "first, as (id, logprob).")
        .def_property_readonly(
            "prompt_logprobs",
            [](const Result& r) {
                return r.has_prompt_logprobs ? std::optional(r.result.prompt_logprobs) : std::nullopt;
            },
            "With prompt_logprobs: that of each token of the prompt; NaN at position 0.")
        .def_property_readonly(
            "prompt_top_logprobs",
            [](const Result& r) {
                return to_pairs(r.result.prompt_top_logprobs, r.has_prompt_logprobs && r.has_top_logprobs);
            },
            "With both: for each token of the prompt a list as of top_logprobs; empty at position 0.")
        .def("__str__", [](const Result& r) { return r.result.text; })
        .def("__repr__", [](const Result& r) {
            return concat("<gpt2.Result tokens=", r.result.tokens.size(),
                          " finish_reason=", to_string(r.result.finish_reason),
                          " text=", std::string(py::repr(py::str(r.result.text))), ">");
        });
}

// ---- Models

LoadOptions load_options(py::handle weights, py::handle head, py::handle isa, py::handle threads,
                         py::handle verify, py::handle huge_pages, py::handle screen_head) {
    LoadOptions options;
    options.weights = weights_from("weights", weights);
    options.head = weights_from("head", head);
    options.isa = isa_from(isa);
    options.verify = bool_from("verify", verify);
    options.residency = bool_from("huge_pages", huge_pages) ? Residency::huge_pages : Residency::mapped;
    options.screen_head = bool_from("screen_head", screen_head);
    if (!threads.is_none()) {
        const auto n = integer_from<std::size_t>("threads", threads);
        const py::gil_scoped_release released;
        options.pool = std::make_shared<ThreadPool>(n);
    }
    return options;
}

template <class From>
std::shared_ptr<Model> load(const From& from, const py::object& keep, const LoadOptions& options) {
    const py::gil_scoped_release released;
    auto model = Gpt2Model::load(from, options);
    const py::gil_scoped_acquire acquired;
    return std::make_shared<Model>(Model{keep, options.pool, std::move(model)});
}

/// Converts @p bytes as str(bytes, "utf-8", errors) does.
py::str decoded(const std::string& bytes, const std::string& errors) {
    auto text = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), errors.c_str()));
    if (!text) {
        throw py::error_already_set();
    }
    return py::str(text);
}

std::vector<TokenId> encode(const Model& model, py::handle text, bool special_tokens) {
    const std::string_view bytes = bytes_from("text", text);
    const py::gil_scoped_release released;
    return model.model.tokenizer().encode(bytes, special_tokens ? SpecialTokens::recognized
                                                                : SpecialTokens::as_text);
}

std::string decode(const Model& model, py::handle tokens) {
    const std::vector<TokenId> ids = tokens_from(tokens);
    const py::gil_scoped_release released;
    return model.model.tokenizer().decode(ids);
}

constexpr const char* generate_doc =
    "Continues a prompt: str or bytes, or tokens.\n\n"
    "callback is called with a Token after each; it may return Flow.STOP. Options have Hugging Face's names "
    "and\n"
    "meanings, and are those of gpt2::GenerationConfig: max_new_tokens (20), do_sample (False: greedy), "
    "temperature,\n"
    "top_k, seed, stop_strings, and what docs/generation.md lists. Those of several numbers, such as dry, "
    "are "
    "dicts;\n"
    "assistant_model is a Model, cancellation a Cancellation, constraint a Constraint; logits_processors are "
    "functions of the tokens "
    "so "
    "far and\n"
    "the scores, which they change in place. Without the interpreter's lock (GIL) but for these and the "
    "callback.";
constexpr const char* batch_doc =
    "Continues several prompts at once, each in num_return_sequences texts: much faster than one after the "
    "other, and\n"
    "each text is the one that it would be alone. Returns a flat list: the texts of the first prompt, with "
    "num_beams\n"
    "above 1 the best first, then those of the second, ... callback is called with the number of the text in "
    "it, and\n"
    "a Token; with beams when a search is over. Options as of generate().";
constexpr const char* stream_doc = "As generate(), but returns an iterator over Tokens, each of which is "
                                   "computed when it is asked for. close(), or\n"
                                   "the end of a with statement, ends the text early.";

void add_tokenizer(py::class_<Model, std::shared_ptr<Model>>& model) {
    model
        .def("encode", &encode, py::arg("text"), py::kw_only(), py::arg("special_tokens") = false,
             "The tokens of a text: str or bytes, any bytes whatever. special_tokens: take names such as\n"
             "<|endoftext|> for those tokens, not for text.")
        .def(
            "decode",
            [](const Model& m, py::handle tokens, const std::string& errors) {
                return decoded(decode(m, tokens), errors);
            },
            py::arg("tokens"), py::kw_only(), py::arg("errors") = "replace",
            "The text of tokens. errors: what to do with bytes that are no UTF-8, as of bytes.decode().")
        .def(
            "decode_bytes", [](const Model& m, py::handle tokens) { return py::bytes(decode(m, tokens)); },
            py::arg("tokens"), "The bytes of tokens: exactly what was encoded.")
        .def(
            "token_bytes",
            [](const Model& m, py::handle token) {
                return py::bytes(m.model.tokenizer().token_bytes(integer_from<TokenId>("token", token)));
            },
            py::arg("token"), "The bytes of one token; of a special token its name.")
        .def(
            "special_token",
            [](const Model& m, const std::string& name) { return m.model.tokenizer().special_token(name); },
            py::arg("name"), "The id of a special token by its whole name, or None.")
        .def(
            "is_special",
            [](const Model& m, py::handle token) {
                return m.model.tokenizer().is_special(integer_from<TokenId>("token", token));
            },
            py::arg("token"))
        .def_property_readonly(
            "n_tokens", [](const Model& m) { return m.model.tokenizer().size(); },
            "The number of tokens that the tokenizer knows.");
}

void add_model(py::module_& m) {
    py::class_<Model, std::shared_ptr<Model>> model(m, "Model",
                                                    "A GPT-2 model: weights, tokenizer and configuration, "
                                                    "all immutable. Any number of threads may use one.");
    model
        .def(py::init([](const std::filesystem::path& path, py::handle weights, py::handle head,
                         py::handle isa, py::handle threads, py::handle verify, py::handle huge_pages,
                         py::handle screen_head) {
                 return load(path, py::none(),
                             load_options(weights, head, isa, threads, verify, huge_pages, screen_head));
             }),
             py::arg("path"), py::arg("weights") = py::none(), py::kw_only(), py::arg("head") = py::none(),
             py::arg("isa") = py::none(), py::arg("threads") = py::none(), py::arg("verify") = false,
             py::arg("huge_pages") = false, py::arg("screen_head") = false,
             "Loads the file of a converted model, or a Hugging Face directory.\n\n"
             "weights, head: \"float32\", \"float16\", \"bfloat16\", \"int8\" or \"int4\", the format of the "
             "matrices\n"
             "in memory and of the output head; None keeps the file's. isa: the instruction set; None takes "
             "the best.\n"
             "threads: for this model alone; None shares those of the process. verify: as verify(). "
             "huge_pages: copy\n"
             "the weights into pages of 2 MiB. screen_head: see gpt2::LoadOptions.")
        .def_static(
            "from_bytes",
            [](const py::bytes& file, py::handle weights, py::handle head, py::handle isa, py::handle threads,
               py::handle verify, py::handle screen_head) {
                const std::string_view text = bytes_from("file", file);
                return load(std::as_bytes(std::span(text)), file,
                            load_options(weights, head, isa, threads, verify, py::bool_(false), screen_head));
            },
            py::arg("file"), py::arg("weights") = py::none(), py::kw_only(), py::arg("head") = py::none(),
            py::arg("isa") = py::none(), py::arg("threads") = py::none(), py::arg("verify") = false,
            py::arg("screen_head") = false, "Loads the file of a converted model from memory.")
        .def(
            "verify",
            [](const Model& m2) {
                const py::gil_scoped_release released;
                return m2.model.verify(m2.pool);
            },
            "Reads the whole file and tries it: checksum, weights finite, logits those of the self-test.")
        .def_property_readonly("config", [](const Model& m2) { return m2.model.config(); })
        .def_property_readonly(
            "isa", [](const Model& m2) { return to_string(m2.model.isa()); },
            "The instruction set that was chosen.")
        .def_property_readonly(
            "bytes_read", [](const Model& m2) { return m2.model.bytes_read(); },
            "Bytes of weights that one decoding step reads.")
        .def(
            "generate",
            [](const std::shared_ptr<Model>& m2, py::handle prompt, const py::object& callback,
               const py::kwargs& options) { return generate(m2, prompt, callback, options); },
            py::arg("prompt"), py::kw_only(), py::arg("callback") = py::none(), generate_doc)
        .def("generate_batch", &generate_batch, py::arg("prompts"), py::kw_only(),
             py::arg("callback") = py::none(), batch_doc)
        .def("embed", &embed, py::arg("text"), py::kw_only(), py::arg("pooling") = "mean",
             "A text (str, bytes or tokens) as one vector, float32 [C], of the hidden states behind the last "
             "block and\n"
             "its norm: their \"mean\", or the \"last\" one.")
        .def(
            "stream",
            [](const std::shared_ptr<Model>& m2, py::handle prompt, const py::kwargs& options) {
                return std::make_unique<Stream>(
                    std::make_shared<Session>(m2, SessionOptions{.pool = m2->pool}),
                    prompt_from(m2->model, prompt, true), config_from(options));
            },
            py::arg("prompt"), stream_doc)
        .def("__repr__", [](const Model& m2) {
            const Config& c = m2.model.config();
            return concat("<gpt2.Model n_layer=", c.n_layer, " n_embd=", c.n_embd,
                          " vocab_size=", c.vocab_size, " isa=", to_string(m2.model.isa()), ">");
        });
    add_tokenizer(model);
}

// ---- Sessions

void add_cancellation(py::module_& m) {
    py::class_<Cancellation>(m, "Cancellation",
                             "What ends texts from outside: give it to the calls that it shall end.")
        .def(py::init<>(), "It ends nothing until request() is called.")
        .def(
            "request", [](Cancellation& c) { c.source.request_stop(); },
            "Ends all texts that were given it, and those that begin later, with the tokens that are known:\n"
            "within the work of one layer of the model. Any thread may call it, at any time.")
        .def_property_readonly(
            "requested", [](const Cancellation& c) { return c.source.stop_requested(); },
            "Whether request() was called.");
}

void add_constraint(py::module_& m) {
    using Engine = gpt2::Constraint;
    py::class_<Constraint>(
        m, "Constraint",
        "What a text has to match, as a whole: a regular expression or a grammar, str or bytes. "
        "docs/constraints.md has\n"
        "the syntax. For any number of texts of models with the same vocabulary, and of threads; what may "
        "follow a text\n"
        "is computed once.")
        .def_static(
            "regex",
            [](const Model& model, py::handle pattern) {
                return constraint_from(model, "pattern", pattern, Engine::regex);
            },
            py::arg("model"), py::arg("pattern"), "Of a regular expression.")
        .def_static(
            "grammar",
            [](const Model& model, py::handle grammar) {
                return constraint_from(model, "grammar", grammar, Engine::grammar);
            },
            py::arg("model"), py::arg("grammar"), "Of a grammar in llama.cpp's GBNF.")
        .def(
            "matches", [](const Constraint& c, py::handle text) { return ask(c, &Engine::matches, text); },
            py::arg("text"), "Whether a text, str or bytes, matches as a whole.")
        .def(
            "may_begin_with",
            [](const Constraint& c, py::handle text) { return ask(c, &Engine::may_begin_with, text); },
            py::arg("text"), "Whether a text can be continued to one that matches, or is one.");
}

void add_recorder(py::module_& m) {
    using Engine = gpt2::Recorder;
    py::class_<Recorder, std::shared_ptr<Recorder>>(
        m, "Recorder",
        "Keeps what passes compute for the session that was made with it (Session(model, "
        "observer=recorder)), by\n"
        "position. What was not asked for, or not computed, raises an OptionError. Arrays are copies, "
        "float32.")
        .def(py::init([](py::handle hidden_states, py::handle last_hidden_states, py::handle attention,
                         py::handle logits) {
                 return std::make_shared<Recorder>(
                     Engine::What{.hidden_states = bool_from("hidden_states", hidden_states),
                                  .last_hidden_states = bool_from("last_hidden_states", last_hidden_states),
                                  .attention = bool_from("attention", attention),
                                  .logits = bool_from("logits", logits)});
             }),
             py::kw_only(), py::arg("hidden_states") = false, py::arg("last_hidden_states") = false,
             py::arg("attention") = false, py::arg("logits") = false)
        .def(
            "hidden_state_at",
            [](const Recorder& r, py::handle layer, py::handle position) {
                return r.copy(&Engine::hidden_state_at, integer_from<std::size_t>("layer", layer),
                              integer_from<std::size_t>("position", position));
            },
            py::arg("layer"), py::arg("position"),
            "[C]: the sum of the embeddings for layer 0, behind block l for layer l.")
        .def(
            "last_hidden_state_at",
            [](const Recorder& r, py::handle position) {
                return r.copy(&Engine::last_hidden_state_at, integer_from<std::size_t>("position", position));
            },
            py::arg("position"), "[C]: what the output head is given, behind ln_f.")
        .def(
            "attention_at",
            [](const Recorder& r, py::handle layer, py::handle head, py::handle position) {
                return r.copy(&Engine::attention_at, integer_from<std::size_t>("layer", layer),
                              integer_from<std::size_t>("head", head),
                              integer_from<std::size_t>("position", position));
            },
            py::arg("layer"), py::arg("head"), py::arg("position"),
            "[position + 1]: how much of each position goes into this one, in a block counted from 0.")
        .def(
            "logits_at",
            [](const Recorder& r, py::handle position) {
                return r.copy(&Engine::logits_at, integer_from<std::size_t>("position", position));
            },
            py::arg("position"), "[V], where a pass was asked for them.");
}

void add_stream(py::module_& m) {
    py::class_<Stream>(m, "Stream", "An iterator over the Tokens of a text in the making.")
        .def("__iter__", [](py::object self) { return self; })
        .def("__next__", &Stream::next)
        .def("close", &Stream::close,
             "Ends the text here. Any thread may call it; calling it again does nothing.")
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](Stream& s, const py::args&) { s.close(); })
        .def_property_readonly(
            "result", &Stream::result,
            "The Result, once the text has ended or was closed; None before, and when nothing was "
            "generated.");
}

void add_session(py::module_& m) {
    py::class_<Session, std::shared_ptr<Session>>(m, "Session",
                                                  "One sequence of tokens with its keys and values. It "
                                                  "serves one caller at a time: a second one, or one while "
                                                  "a stream is open, gets a BusyError.")
        .def(py::init([](const std::shared_ptr<Model>& model, py::handle kv_dtype, py::handle observer) {
                 return std::make_shared<Session>(model, session_options(*model, kv_dtype, observer));
             }),
             py::arg("model"), py::kw_only(), py::arg("kv_dtype") = py::none(),
             py::arg("observer") = py::none(),
             "kv_dtype: \"float32\" or \"float16\", of keys and values; None takes the model's default.\n"
             "observer: a Recorder that is told what the passes compute for this session.")
        .def_static(
            "restore",
            [](const std::shared_ptr<Model>& model, const std::filesystem::path& path, py::handle kv_dtype,
               py::handle observer) {
                return restore(model, path, session_options(*model, kv_dtype, observer));
            },
            py::arg("model"), py::arg("path"), py::kw_only(), py::arg("kv_dtype") = py::none(),
            py::arg("observer") = py::none(),
            "A session that goes on where save() left one, with the same bits. The model has to be the same, "
            "and\n"
            "kv_dtype, if given, the file's.")
        .def_static(
            "from_bytes",
            [](const std::shared_ptr<Model>& model, const py::bytes& file, py::handle kv_dtype,
               py::handle observer) {
                return restore(model, std::as_bytes(std::span(bytes_from("file", file))),
                               session_options(*model, kv_dtype, observer));
            },
            py::arg("model"), py::arg("file"), py::kw_only(), py::arg("kv_dtype") = py::none(),
            py::arg("observer") = py::none(), "The same from the bytes of a file.")
        .def("save", &save, py::arg("path"),
             "Writes tokens, keys and values, and the last logits to a file, which appears when it is "
             "complete.")
        .def("fork", &fork,
             "A second session with the same tokens and logits, without an observer. From here on each goes "
             "its own way.")
        .def("forward", &forward, py::arg("tokens"), py::kw_only(), py::arg("logits") = "last",
             "Appends tokens. Returns a copy of the logits: float32, of shape [V] after the last token, of "
             "[n, V] after\n"
             "each with logits=\"all\", None with logits=\"none\".")
        .def("score", &score, py::arg("tokens"),
             "Appends tokens. Returns the natural logarithm of the probability of each, given those before; "
             "NaN at\n"
             "position 0.")
        .def(
            "truncate",
            [](Session& s, py::handle length) {
                const auto n = integer_from<std::size_t>("length", length);
                const ExclusiveUse use(s.busy);
                s.session.truncate(n);
            },
            py::arg("length"), "Forgets all but the first tokens, and the logits.")
        .def(
            "generate",
            [](Session& s, py::handle prompt, const py::object& callback, const py::kwargs& options) {
                return generate(s, prompt, callback, config_from(options));
            },
            py::arg("prompt") = "", py::kw_only(), py::arg("callback") = py::none(), generate_doc)
        .def(
            "stream",
            [](const std::shared_ptr<Session>& s, py::handle prompt, const py::kwargs& options) {
                const GenerationConfig config = config_from(options);
                bool begins = false;
                {
                    const ExclusiveUse use(s->busy);
                    begins = s->session.position() == 0;
                }
                return std::make_unique<Stream>(s, prompt_from(s->model->model, prompt, begins), config);
            },
            py::arg("prompt") = "", stream_doc)
        .def_property_readonly(
            "position",
            [](Session& s) {
                const ExclusiveUse use(s.busy);
                return s.session.position();
            },
            "Tokens in the session.")
        .def_property_readonly(
            "tokens",
            [](Session& s) {
                const ExclusiveUse use(s.busy);
                const auto tokens = s.session.tokens();
                return std::vector<TokenId>(tokens.begin(), tokens.end());
            },
            "A copy of the tokens in the session.")
        .def_property_readonly(
            "logits",
            [](Session& s) {
                const ExclusiveUse use(s.busy);
                return all_logits(s.session);
            },
            "A copy of the logits that the last pass left, float32 [rows, V].")
        .def_property_readonly("kv_dtype", [](const Session& s) { return to_string(s.session.kv_dtype()); })
        .def_property_readonly("model",
                               [](const Session& s) { return std::const_pointer_cast<Model>(s.model); });
    m.def("forward", &forward_batch, py::arg("items"), py::kw_only(), py::arg("logits") = "last",
          "One pass that appends tokens to several sessions of one model: items is a list of (session, "
          "tokens).\n"
          "Returns a list of what Session.forward() would return for each, bit for bit.");
}

py::list option_names() {
    py::list names;
    for (const Option& option : generation_options) {
        names.append(option.name);
    }
    return names;
}

} // namespace
} // namespace gpt2::python

PYBIND11_MODULE(_gpt2, m) {
    namespace python = gpt2::python;
    m.doc() = "The compiled part of gpt2.";
    m.attr("__version__") = gpt2::version_string;
    m.attr("option_names") = python::option_names();
    python::add_exceptions(m);
    python::add_config(m);
    python::add_result(m);
    python::add_cancellation(m);
    python::add_constraint(m);
    python::add_recorder(m);
    python::add_stream(m);
    python::add_model(m);
    python::add_session(m);
    for (const auto& [name, value] : m.attr("__dict__").cast<pybind11::dict>()) { // users know one module
        if (PyType_Check(value.ptr())) {
            value.attr("__module__") = "gpt2";
        }
    }
}
