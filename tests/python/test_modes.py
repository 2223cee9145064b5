# SPDX-License-Identifier: MIT
"""The Python module: several texts at once, beams, speculation, cancellation, forks, files, insides."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

import gpt2
from interpreter import check_goes_on

ROOT = Path(__file__).resolve().parents[2]
NOVELLA = ROOT / "models" / "novella-f16.safetensors"
TINY = Path(os.environ["GPT2_FIXTURES"]) / "tiny-f32.safetensors"
PROMPTS = ["Once upon a time", "", "The king"]
ENDLESS: dict[str, Any] = {"max_new_tokens": 10**9, "overflow": "slide", "ignore_eos": True}


@pytest.fixture(name="model", scope="module")
def fixture_model() -> gpt2.Model:
    return gpt2.Model(NOVELLA)


@pytest.fixture(name="tiny", scope="module")
def fixture_tiny() -> gpt2.Model:
    return gpt2.Model(TINY)


# Several texts at once.


def test_batches(model: gpt2.Model) -> None:
    drawn: dict[str, Any] = {"do_sample": True, "seed": 7, "max_new_tokens": 10, "logprobs": True}
    seen: dict[int, list[int]] = {}

    def listen(index: int, token: gpt2.Token) -> gpt2.Flow | None:
        seen.setdefault(index, []).append(token.id)
        return gpt2.Flow.STOP if (index, token.index) == (4, 2) else None

    results = model.generate_batch(PROMPTS, callback=listen, num_return_sequences=2, **drawn)
    assert len(results) == 6
    for index, found in enumerate(results):
        alone = model.generate(PROMPTS[index // 2], sample=index % 2, **drawn)
        n = 3 if index == 4 else len(alone.tokens)
        assert (found.tokens, found.logprobs) == (alone.tokens[:n], (alone.logprobs or [])[:n])
        assert found.finish_reason == ("callback" if index == 4 else alone.finish_reason)
        assert seen[index] == found.tokens
    prompts = (model.encode(text) or [model.config.bos_token_id or 0] for text in PROMPTS)  # any iterable
    again = model.generate_batch(prompts, num_return_sequences=2, **drawn)
    assert [found.tokens for found in again[:4]] == [found.tokens for found in results[:4]]
    assert model.generate_batch([]) == []


def test_beams(model: gpt2.Model) -> None:
    options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 8, "length_penalty": 0.5}
    seen: list[gpt2.Token] = []
    best = model.generate("The king", early_stopping="never", callback=seen.append, **options)
    assert best.score is not None and [token.id for token in seen] == best.tokens
    found = model.generate_batch(["The king"], early_stopping="never", num_return_sequences=3, **options)
    assert found[0].tokens == best.tokens
    scores = [text.score for text in found]
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))
    options = {"num_beams": 2, "length_penalty": 1.2, "eos_token_id": model.encode(",")[0]}
    lengths = [
        len(model.generate("The king", early_stopping=early, **options).tokens)
        for early in (True, False, None, "never")
    ]
    assert lengths[0] < lengths[1] == lengths[2] < lengths[3]
    diverse = model.generate_batch(
        ["The king"], num_beams=4, num_beam_groups=4, diversity_penalty=100.0, num_return_sequences=4
    )
    assert len({text.tokens[0] for text in diverse}) == 4
    greedy = model.generate("The king")
    assert greedy.score is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate_batch("The king"), TypeError, "prompts: expected a list of prompts, found str"),
        (lambda m: m.generate_batch(5), TypeError, "prompts: expected a list of prompts, found int"),
        (lambda m: m.generate_batch([5]), TypeError, "tokens: expected a list"),
        (lambda m: m.generate_batch(["a"], callback=5), TypeError, "callback: expected something to call"),
        (lambda m: m.generate_batch(["a"], top_q=5), TypeError, '"top_q" is no option'),
        (
            lambda m: m.generate_batch([[1], []]),
            gpt2.OptionError,
            r"prompts\[1\]: expected at least one token",
        ),
        (lambda m: m.generate_batch(["a"], max_new_tokens=2000), gpt2.ContextError, r"prompts\[0\]"),
        (lambda m: m.generate_batch(["a"], num_return_sequences=2), gpt2.OptionError, "do_sample is false"),
        (lambda m: m.generate("a", num_return_sequences=2), gpt2.OptionError, "expected 1"),
        (lambda m: m.generate("a", num_beams=2, num_return_sequences=2), gpt2.OptionError, "expected 1"),
        (lambda m: m.generate("a", num_beams=2, callback=5), TypeError, "callback: expected something"),
        (lambda m: m.stream("a", num_beams=2), gpt2.OptionError, "num_beams is 2, expected 1"),
        (lambda m: m.stream("a", num_return_sequences=2, do_sample=True), gpt2.OptionError, "expected 1"),
        (
            lambda m: gpt2.Session(m).generate("a", num_beams=2),
            gpt2.OptionError,
            "num_beams is 2, expected 1",
        ),
        (lambda m: m.generate("a", early_stopping=True), gpt2.OptionError, "early_stopping is set"),
        (
            lambda m: m.generate("a", num_beams=2, early_stopping="always"),
            TypeError,
            "early_stopping: expected",
        ),
        (lambda m: m.generate("a", num_beams=2, early_stopping=1), TypeError, "early_stopping: expected"),
        (lambda m: m.generate("a", assistant_model=5), TypeError, "assistant_model: expected a gpt2.Model"),
        (lambda m: m.generate("a", cancellation=5), TypeError, "cancellation: expected a gpt2.Cancellation"),
        (lambda m: m.generate("a", num_assistant_tokens=5), gpt2.OptionError, "num_assistant_tokens is set"),
        (lambda m: m.generate("a", constraint="a+"), TypeError, "constraint: expected a gpt2.Constraint"),
        (lambda m: gpt2.Constraint.regex(m, 5), TypeError, "pattern: expected str or bytes, found int"),
        (lambda m: gpt2.Constraint.regex(m, "(a"), gpt2.OptionError, "expected"),
        (lambda m: gpt2.Constraint.grammar(m, 5), TypeError, "grammar: expected str or bytes, found int"),
        (lambda m: gpt2.Constraint.grammar(m, 'a ::= "b"'), gpt2.OptionError, "root"),
        (lambda m: gpt2.Constraint.regex(m, "a").matches(5), TypeError, "text: expected str or bytes"),
        (lambda m: m.generate("a", top_logprobs=-1), gpt2.OptionError, "top_logprobs is -1"),
        (lambda m: m.generate("a", prompt_logprobs=1), TypeError, "prompt_logprobs: expected True or False"),
        (lambda m: m.generate("a", penalty_alpha=0.6), gpt2.OptionError, "penalty_alpha"),
        (lambda m: m.embed(""), gpt2.OptionError, "at least one token"),
        (
            lambda m: m.embed("a", pooling="max"),
            gpt2.OptionError,
            'pooling is "max", expected one of mean, last',
        ),
        (lambda m: m.embed(5), TypeError, "tokens: expected a list"),
        (lambda m: gpt2.Session(m, observer=5), TypeError, "observer: expected a gpt2.Recorder"),
        (lambda m: gpt2.Recorder(attention=1), TypeError, "attention: expected True or False"),
        (lambda m: gpt2.Recorder().logits_at(0), gpt2.OptionError, "expected a position that was observed"),
        (lambda m: gpt2.Recorder().attention_at(-1, 0, 0), gpt2.OptionError, "layer is -1"),
        (lambda m: gpt2.Session.restore(m, "no-such-file"), gpt2.FileError, "no-such-file"),
        (lambda m: gpt2.Session.restore(5, "no-such-file"), TypeError, ""),
        (lambda m: gpt2.Session.from_bytes(m, b"no session"), gpt2.FormatError, "memory"),
        (lambda m: gpt2.Session(m).save("no-such-folder/file"), gpt2.FileError, "no-such-folder"),
    ],
)
def test_errors(model: gpt2.Model, call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model)


def test_what_a_callback_raises_ends_a_batch(model: gpt2.Model) -> None:
    def fails(index: int, token: gpt2.Token) -> None:
        raise KeyError(index)

    with pytest.raises(KeyError):
        model.generate_batch(PROMPTS, callback=fails)
    with pytest.raises(KeyError):
        model.generate_batch(PROMPTS, callback=fails, num_beams=2)


# What a result tells of probabilities.


def test_logprobs(model: gpt2.Model) -> None:
    prompt = model.encode("There was once a poor woodcutter")
    seen: list[gpt2.Token] = []
    options: dict[str, Any] = {"max_new_tokens": 6, "top_logprobs": 3, "prompt_logprobs": True}
    found = model.generate(prompt, callback=seen.append, logprobs=True, **options)
    assert found.top_logprobs is not None and found.prompt_logprobs is not None
    assert found.logprobs is not None and found.prompt_top_logprobs is not None
    assert [places[0] for places in found.top_logprobs] == list(zip(found.tokens, found.logprobs))
    assert [token.top_logprobs for token in seen] == found.top_logprobs
    session = gpt2.Session(model)
    np.testing.assert_array_equal(session.score(prompt), np.array(found.prompt_logprobs, np.float32))
    rows = gpt2.Session(model).forward(prompt + found.tokens[:-1], logits="all").astype(np.float64)
    logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    all_places = found.prompt_top_logprobs + found.top_logprobs
    assert all_places[0] == [] and len(all_places) == len(rows) + 1
    for row, places in zip(logs, all_places[1:]):
        assert [token for token, _ in places] == np.argsort(-row, kind="stable")[:3].tolist()
        np.testing.assert_allclose([logprob for _, logprob in places], np.sort(-row)[:3] * -1, atol=1e-5)
    batched = model.generate_batch([prompt], **options)[0]
    assert batched.prompt_logprobs is not None
    assert (batched.top_logprobs, batched.prompt_logprobs[1:]) == (
        found.top_logprobs,
        found.prompt_logprobs[1:],
    )
    with model.stream(prompt, **options) as stream:
        assert [token.top_logprobs for token in stream] == found.top_logprobs
    assert stream.result is not None and stream.result.prompt_top_logprobs == found.prompt_top_logprobs
    plain = model.generate(prompt, callback=seen.append)
    assert (plain.top_logprobs, plain.prompt_logprobs, plain.prompt_top_logprobs) == (None, None, None)
    assert seen[-1].top_logprobs is None
    assert model.generate(prompt, top_logprobs=2).prompt_top_logprobs is None


def test_contrastive_search(model: gpt2.Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 30}
    greedy = model.generate("The king", **options)
    found = model.generate("The king", top_k=4, penalty_alpha=0.6, **options)
    assert found.tokens != greedy.tokens and found.seed is None
    assert model.generate("The king", top_k=4, penalty_alpha=1e-6, **options).tokens == greedy.tokens
    assert model.generate("The king", penalty_alpha=None, **options).tokens == greedy.tokens


# Texts that match.


@pytest.mark.parametrize(
    ("kind", "pattern", "matching", "begin"),
    [
        (gpt2.Constraint.regex, r"(January|June) \d{1,2}, 18\d\d", "June 7, 1815", "June 7"),
        (gpt2.Constraint.grammar, 'root ::= "yes" | "no" digit\ndigit ::= [0-9]', "no3", "no"),
    ],
)
def test_constraints(
    model: gpt2.Model, kind: Callable[[Any, Any], gpt2.Constraint], pattern: str, matching: str, begin: str
) -> None:
    constraint = kind(model, pattern)
    assert constraint.matches(matching) and constraint.matches(matching.encode())
    assert not constraint.matches(begin) and constraint.may_begin_with(begin)
    assert not constraint.may_begin_with(b"\xff") and not constraint.matches("")
    options: dict[str, Any] = {"constraint": constraint, "max_new_tokens": 60}
    greedy = model.generate("He was born on ", **options)
    assert greedy.finish_reason == "eos" and constraint.matches(greedy.bytes)
    texts = model.generate_batch(
        ["Once", "He"], do_sample=True, temperature=2.0, seed=5, num_return_sequences=3, **options
    )
    assert all(text.finish_reason == "eos" and constraint.matches(text.text) for text in texts)
    assert constraint.matches(model.generate("Once", num_beams=2, **options).text)
    stream = model.stream("He was born on ", **options)
    options["constraint"] = kind(model, pattern.encode())
    del constraint
    gc.collect()  # nobody but the stream holds it now
    assert [token.id for token in stream] == greedy.tokens
    assert model.generate("He was born on ", **options).tokens == greedy.tokens
    assert model.generate("Once", constraint=None).tokens == model.generate("Once").tokens


def test_a_constraint_of_another_vocabulary(model: gpt2.Model, tiny: gpt2.Model) -> None:
    with pytest.raises(gpt2.OptionError, match="constraint: expected one for the vocabulary of the model"):
        model.generate("a", constraint=gpt2.Constraint.regex(tiny, "a+"))


# The same text, sooner.


def test_assistant(model: gpt2.Model, tiny: gpt2.Model) -> None:
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "seed": 3, "max_new_tokens": 30}
    plain = model.generate("Once upon a time", **drawn)
    assert (plain.speculation.proposed, plain.speculation.accepted, plain.speculation.passes) == (0, 0, 0)
    options = {**drawn, "num_assistant_tokens": 3}
    file = NOVELLA.read_bytes()
    found = model.generate("Once upon a time", assistant_model=gpt2.Model.from_bytes(file, "int8"), **options)
    assert found.tokens == plain.tokens
    assert 0 < found.speculation.accepted <= found.speculation.proposed <= 3 * found.speculation.passes
    assert "accepted=" in repr(found.speculation)
    with model.stream("Once upon a time", assistant_model=gpt2.Model.from_bytes(file), **options) as stream:
        del file
        gc.collect()  # nobody but the stream holds the assistant now, and that alone the file
        assert [token.id for token in stream] == plain.tokens
    assert stream.result is not None and stream.result.speculation.accepted > 20
    looked_up = model.generate("Once upon a time", prompt_lookup_num_tokens=3, **drawn)
    assert looked_up.tokens == plain.tokens and looked_up.speculation.passes > 0
    with pytest.raises(gpt2.OptionError, match="assistant_model: expected the vocabulary of the model"):
        model.generate("a", assistant_model=tiny)


# The end from outside.


def test_cancellation(model: gpt2.Model) -> None:
    cancellation = gpt2.Cancellation()
    assert not cancellation.requested
    found = model.generate(
        "a",
        callback=lambda token: cancellation.request() if token.index == 2 else None,
        cancellation=cancellation,
    )
    assert (len(found.tokens), found.finish_reason) == (3, "cancelled")
    assert cancellation.requested
    none = model.generate("a", cancellation=cancellation)
    assert (none.tokens, none.finish_reason) == ([], "cancelled")
    assert model.generate("a", cancellation=None).finish_reason == "length"


@pytest.mark.parametrize("beams", [1, 3])
def test_cancellation_by_another_thread(model: gpt2.Model, beams: int) -> None:
    cancellation = gpt2.Cancellation()
    options = {**ENDLESS, "cancellation": cancellation, "num_beams": beams}
    results: list[gpt2.Result] = []
    worker = threading.Thread(target=lambda: results.extend(model.generate_batch(["a", "b"], **options)))
    worker.start()
    cancellation.request()
    worker.join()
    assert [found.finish_reason for found in results] == ["cancelled"] * 2


def test_a_stream_is_cancelled(model: gpt2.Model) -> None:
    cancellation = gpt2.Cancellation()
    session = gpt2.Session(model)
    seen = 0
    stream = session.stream("a", cancellation=cancellation, **ENDLESS)
    for token in stream:
        seen = token.index + 1
        if seen == 4:
            cancellation.request()
    assert seen == 4
    assert stream.result is not None and stream.result.finish_reason == "cancelled"
    assert session.position == len(model.encode("a")) + 3  # it can be used, and goes on from there


# Sessions.


def test_forks(model: gpt2.Model) -> None:
    session = gpt2.Session(model)
    session.forward(model.encode("Once upon a time"))
    fork = session.fork()
    assert (fork.tokens, fork.model) == (session.tokens, model)
    assert np.array_equal(fork.logits, session.logits)
    expected = session.generate(max_new_tokens=5).tokens
    fork.forward([1, 2, 3])
    fork.truncate(fork.position - 3)
    fork.truncate(fork.position - 1)
    fork.forward(model.encode("Once upon a time")[-1:])
    del session
    assert fork.generate(max_new_tokens=5).tokens == expected


def test_sessions_on_disk(model: gpt2.Model, tiny: gpt2.Model, tmp_path: Path) -> None:
    session = gpt2.Session(model)
    session.forward(model.encode("Once upon a time"))
    session.save(tmp_path / "saved")
    for restored in (
        gpt2.Session.restore(model, tmp_path / "saved"),
        gpt2.Session.restore(model, str(tmp_path / "saved"), kv_dtype="float16"),
        gpt2.Session.from_bytes(model, (tmp_path / "saved").read_bytes()),
    ):
        assert restored.tokens == session.tokens and restored.kv_dtype == session.kv_dtype
        assert np.array_equal(restored.logits, session.logits)
        assert restored.model is model
    assert restored.generate(max_new_tokens=4).tokens == session.generate(max_new_tokens=4).tokens
    with pytest.raises(gpt2.OptionError, match="kv_dtype"):
        gpt2.Session.restore(model, tmp_path / "saved", kv_dtype="float32")
    with pytest.raises(gpt2.FormatError, match="saved"):
        gpt2.Session.restore(tiny, tmp_path / "saved")
    damaged = bytearray((tmp_path / "saved").read_bytes())
    damaged[-1] ^= 1
    with pytest.raises(gpt2.FormatError, match="memory"):
        gpt2.Session.from_bytes(model, bytes(damaged))


# Seeing inside.


def test_embeddings(model: gpt2.Model) -> None:
    text = "There was once a poor woodcutter"
    recorder = gpt2.Recorder(last_hidden_states=True)
    session = gpt2.Session(model, observer=recorder)
    tokens = model.encode(text)
    session.forward(tokens)
    rows = np.stack([recorder.last_hidden_state_at(position) for position in range(len(tokens))])
    mean = model.embed(text)
    assert mean.dtype == np.float32 and mean.shape == (model.config.n_embd,)
    assert np.array_equal(mean, rows.astype(np.float64).mean(axis=0).astype(np.float32))
    assert np.array_equal(model.embed(tokens, pooling="last"), rows[-1])
    assert np.array_equal(model.embed(text.encode(), pooling="last"), rows[-1])


def test_recorder(model: gpt2.Model) -> None:
    config = model.config
    recorder = gpt2.Recorder(hidden_states=True, attention=True, logits=True)
    session = gpt2.Session(model, observer=recorder)
    tokens = model.encode("There was once a poor woodcutter")
    logits = session.forward(tokens, logits="all")
    last = len(tokens) - 1
    for layer in range(config.n_layer + 1):
        assert recorder.hidden_state_at(layer, last).shape == (config.n_embd,)
    weights = recorder.attention_at(config.n_layer - 1, config.n_head - 1, last)
    assert weights.shape == (last + 1,) and weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(recorder.logits_at(last), logits[last])
    for missing in (
        lambda: recorder.hidden_state_at(config.n_layer + 1, 0),
        lambda: recorder.hidden_state_at(0, last + 1),
        lambda: recorder.attention_at(0, config.n_head, 0),
        lambda: recorder.last_hidden_state_at(0),  # which was not asked for
    ):
        with pytest.raises(gpt2.OptionError, match="expected a position that was observed"):
            missing()
    fork = session.fork()
    before = recorder.logits_at(last)
    fork.truncate(last)
    fork.forward([5], logits="all")
    assert np.array_equal(recorder.logits_at(last), before)  # the fork is not observed
    assert np.array_equal(logits, gpt2.Session(model).forward(tokens, logits="all"))


def test_a_recorder_is_read_while_it_is_written(model: gpt2.Model) -> None:
    recorder = gpt2.Recorder(hidden_states=True, attention=True)
    session = gpt2.Session(model, observer=recorder)
    session.forward([1])
    cancellation = gpt2.Cancellation()
    worker = threading.Thread(target=lambda: session.generate([2], cancellation=cancellation, **ENDLESS))
    worker.start()
    while not all(has_position(recorder, position) for position in range(40)):
        assert recorder.attention_at(0, 0, 0).tolist() == [1.0]
    cancellation.request()
    worker.join()


def has_position(recorder: gpt2.Recorder, position: int) -> bool:
    try:
        return recorder.hidden_state_at(1, position).shape == (recorder.hidden_state_at(0, 0).shape)
    except gpt2.OptionError:
        return False


def test_the_interpreter_goes_on_meanwhile(model: gpt2.Model, tmp_path: Path) -> None:
    """As in test_gpt2.py: another thread runs while something is computed, read or written."""
    session = gpt2.Session(model)
    session.forward(model.encode("Once upon a time") * 50, logits="none")
    session.save(tmp_path / "saved")
    calls: list[Callable[[], Any]] = [
        lambda: model.generate_batch(["a", "b"], max_new_tokens=20),
        lambda: model.generate("a", num_beams=3, max_new_tokens=10),
        lambda: model.embed([5] * 300),
        session.fork,
        lambda: session.save(tmp_path / "saved"),
        lambda: gpt2.Session.restore(model, tmp_path / "saved"),
    ]
    check_goes_on(calls, 200)


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples" / "python").glob("*.py")), ids=lambda path: path.name
)
def test_examples(example: Path) -> None:
    done = subprocess.run([sys.executable, example, NOVELLA], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout) > 100
