# SPDX-License-Identifier: MIT
"""The Python module: what it computes is the golden data's, and how it behaves."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

import gpt2
import measure_quantization as numpy_gpt2
from gpt2 import _gpt2
from gpt2_convert import checkpoint
from gpt2_convert.sources import packed
from interpreter import check_goes_on

ROOT = Path(__file__).resolve().parents[2]
NOVELLA = ROOT / "models" / "novella-f16.safetensors"
TINY = Path(os.environ["GPT2_FIXTURES"]) / "tiny-f32.safetensors"
GOLDEN = json.loads((ROOT / "tests" / "data" / "novella_golden.json").read_text())
PROMPT = "There was once a poor woodcutter who"


@pytest.fixture(name="model", scope="module")
def fixture_model() -> gpt2.Model:
    return gpt2.Model(NOVELLA)


@pytest.fixture(name="tiny", scope="module")
def fixture_tiny() -> gpt2.Model:
    return gpt2.Model(TINY)


def n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def has_threads(expected: int) -> bool:
    """The system may list a thread for a moment after it was joined."""
    for _ in range(3000):
        if n_threads() == expected:
            return True
        time.sleep(0.01)
    return False


# What it computes.


@pytest.mark.parametrize("prompt", GOLDEN["prompts"], ids=lambda prompt: prompt["text"][:20])
def test_golden(model: gpt2.Model, prompt: dict[str, Any]) -> None:
    assert model.encode(prompt["text"]) == prompt["ids"]
    assert model.decode(prompt["ids"]) == prompt["text"]
    result = model.generate(prompt["text"], max_new_tokens=40, ignore_eos=True)
    assert result.tokens == prompt["f16"]["greedy_ids"]
    assert result.text == prompt["f16"]["greedy_text"]
    session = gpt2.Session(model, kv_dtype="float32")
    logits = session.forward(prompt["ids"])
    assert logits.dtype == np.float32 and logits.shape == (model.config.vocab_size,)
    top = [token for token, _ in prompt["f16"]["top10_logits64"]]
    assert np.argsort(-logits, kind="stable")[:10].tolist() == top
    expected = [logit for _, logit in prompt["f16"]["top10_logits64"]]
    np.testing.assert_allclose(logits[top], expected, rtol=0, atol=1e-4)


def test_it_is_what_numpy_finds(tiny: gpt2.Model) -> None:
    tokens = [7, 20, 33, 7, 250, 91]
    reference = numpy_gpt2.Model(checkpoint.check(packed.read(TINY))).logits(np.array(tokens))
    logits = gpt2.Session(tiny).forward(tokens, logits="all")
    np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-4)


def test_sessions(model: gpt2.Model) -> None:
    tokens = np.array(model.encode(PROMPT))  # numpy's integers are as good as Python's
    session = gpt2.Session(model)
    assert session.model is model
    assert (session.position, session.tokens, session.kv_dtype) == (0, [], "float16")
    assert session.logits.shape == (0, model.config.vocab_size)
    rows = session.forward(tokens, logits="all")
    assert rows.shape == (len(tokens), model.config.vocab_size)
    assert np.array_equal(session.logits, rows)
    assert session.tokens == tokens.tolist()
    session.truncate(3)
    assert session.position == 3
    last = session.forward(tokens[3:])
    assert np.array_equal(last, rows[-1])  # bit for bit
    kept = last.copy()
    assert session.forward([1], logits="none") is None
    assert np.array_equal(last, kept)  # a copy: it does not change with the session

    session.truncate(0)
    scores = session.score(tokens)
    assert scores.dtype == np.float32 and np.isnan(scores[0])
    wide = rows[:-1].astype(np.float64)
    expected = wide[np.arange(len(tokens) - 1), tokens[1:]] - np.log(np.exp(wide).sum(axis=1))
    np.testing.assert_allclose(scores[1:], expected, rtol=0, atol=1e-5)


def test_batch(model: gpt2.Model) -> None:
    prompts = [model.encode(text) for text in ("Once upon a time", "The", "It was a dark night")]
    alone = [gpt2.Session(model).forward(tokens) for tokens in prompts]
    sessions = [gpt2.Session(model) for _ in prompts]
    together = gpt2.forward(list(zip(sessions, prompts)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together))
    assert gpt2.forward([(sessions[0], [1])], logits="none") == [None]
    assert gpt2.forward([(sessions[0], [1, 2])], logits="all")[0].shape == (2, model.config.vocab_size)
    assert gpt2.forward([]) == []
    with pytest.raises(gpt2.OptionError, match="twice"):
        gpt2.forward([(sessions[0], [1]), (sessions[0], [1])])


SAMPLING = {
    "max_new_tokens": 30,
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
    "seed": 7,
    "sample": 3,
    "logprobs": True,
    "eos_token_id": None,
    "ignore_eos": True,
    "overflow": "slide",
    "stop_strings": ["no such text"],
}


def test_every_option_arrives(model: gpt2.Model) -> None:
    assert set(SAMPLING) <= set(_gpt2.option_names)
    result = model.generate(PROMPT, **SAMPLING)
    assert len(result.tokens) == 30 and result.seed == 7
    assert result.logprobs is not None
    session = gpt2.Session(model)
    scores = session.score([*model.encode(PROMPT), *result.tokens])
    np.testing.assert_allclose(result.logprobs, scores[-30:], rtol=0, atol=1e-5)
    for name, value in {
        "max_new_tokens": 29,
        "temperature": 1.5,
        "top_k": 1,
        "top_p": 0.1,
        "min_p": 0.9,
        "repetition_penalty": 5.0,
        "seed": 8,
        "sample": 4,
        "stop_strings": result.text[10:14],
        "eos_token_id": result.tokens[4],
    }.items():
        changed = {**SAMPLING, name: value, "ignore_eos": name != "eos_token_id"}
        assert model.generate(PROMPT, **changed).text != result.text, name
    assert model.generate(PROMPT, **{**SAMPLING, "logprobs": False}).logprobs is None
    other = model.generate(PROMPT, **{**SAMPLING, "stop_strings": [b"\xff", result.text[10:14]]})
    assert (other.finish_reason, other.stop_string) == ("stop_string", result.text[10:14])


def test_the_same_text_sooner_and_not_at_all(model: gpt2.Model) -> None:
    plain = model.generate(PROMPT, **SAMPLING)
    looked_up = model.generate(PROMPT, prompt_lookup_num_tokens=3, max_matching_ngram_size=1, **SAMPLING)
    assert looked_up.tokens == plain.tokens
    none = model.generate(PROMPT, max_time=0)
    assert (none.tokens, none.finish_reason) == ([], "max_time")
    long = list(model.encode(PROMPT)) * 200
    kept = model.config.n_positions - 5
    assert (
        model.generate(long, max_new_tokens=5, overflow="truncate_left").tokens
        == model.generate(long[-kept:], max_new_tokens=5).tokens
    )
    with pytest.raises(gpt2.OptionError, match="max_time"):
        model.generate(PROMPT, max_time=-1.0)


def test_results(model: gpt2.Model) -> None:
    greedy = model.generate(PROMPT)
    assert len(greedy.tokens) == 20 and greedy.finish_reason == "length"
    assert greedy.seed is None and greedy.logprobs is None and greedy.stop_string is None
    assert greedy.prompt_tokens == len(model.encode(PROMPT))
    assert str(greedy) == greedy.text == greedy.bytes.decode()
    assert 0 < greedy.timings.ttft <= greedy.timings.total and greedy.timings.tpot > 0
    assert model.generate(PROMPT.encode()).tokens == greedy.tokens
    assert model.generate(model.encode(PROMPT)).tokens == greedy.tokens
    assert model.generate("").prompt_tokens == 1
    drawn = model.generate(PROMPT, do_sample=True)
    assert drawn.seed is not None
    assert model.generate(PROMPT, do_sample=True, seed=drawn.seed).tokens == drawn.tokens
    assert "gpt2.Result" in repr(greedy) and "gpt2.Model" in repr(model) and "n_layer" in repr(model.config)


def test_session_generation_continues(model: gpt2.Model) -> None:
    whole = model.generate(PROMPT, max_new_tokens=12).tokens
    session = gpt2.Session(model)
    session.forward(model.encode(PROMPT))
    first = session.generate(max_new_tokens=5).tokens
    session.forward(first[-1:])
    assert first + session.generate("", max_new_tokens=7).tokens == whole
    other = gpt2.Session(model)
    assert other.generate(PROMPT, max_new_tokens=12).tokens == whole
    assert other.position == len(model.encode(PROMPT)) + 11
    with pytest.raises(gpt2.OptionError, match="found neither"):
        other.truncate(3)
        other.generate("")


def test_tokenizer(tiny: gpt2.Model) -> None:
    text = b"the\0<|endoftext|>\xff"
    tokens = tiny.encode(text)
    assert tiny.decode_bytes(tokens) == text
    assert tiny.decode(tokens) == "the\0<|endoftext|>\ufffd"
    assert tiny.decode(tokens, errors="ignore") == "the\0<|endoftext|>"
    with pytest.raises(UnicodeDecodeError):
        tiny.decode(tokens, errors="strict")
    assert tiny.encode(text, special_tokens=True)[0::2] == [259, 256]
    assert tiny.token_bytes(259) == b"the"
    assert tiny.special_token("<|endoftext|>") == 256 and tiny.special_token("the") is None
    assert tiny.is_special(256) and not tiny.is_special(259) and not tiny.is_special(-1)
    assert tiny.n_tokens == 260 and tiny.config.vocab_size == 300
    assert tiny.encode("") == [] and tiny.decode([]) == ""


def test_loading() -> None:
    model = gpt2.Model(str(TINY), "int8", head="float16", isa="portable", threads=2, screen_head=True)
    assert model.isa == "portable"
    assert gpt2.Model(TINY, weights="int8").bytes_read < gpt2.Model(TINY).bytes_read
    assert gpt2.Model(TINY.with_name("tiny")).config.n_positions == 24
    found = gpt2.Model(TINY, verify=True, huge_pages=True).verify()
    assert found.has_self_test and found.largest_difference <= found.bound
    session = gpt2.Session(gpt2.Model.from_bytes(TINY.read_bytes()))  # which the session keeps
    gc.collect()
    assert np.array_equal(session.forward([1, 2]), gpt2.Session(gpt2.Model(TINY)).forward([1, 2]))
    config = gpt2.Model(TINY).config
    assert (config.n_embd, config.n_layer, config.n_head, config.n_inner) == (40, 2, 4, 72)
    assert (config.bos_token_id, config.eos_token_id, config.activation_function) == (256, 256, "gelu_new")
    assert config.layer_norm_epsilon == pytest.approx(1e-5)
    assert config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx


# Errors.


def test_exceptions(model: gpt2.Model, tiny: gpt2.Model, tmp_path: Path) -> None:
    with pytest.raises(gpt2.FileError, match="no-such-model"):
        gpt2.Model("no-such-model")
    assert issubclass(gpt2.FileError, OSError) and issubclass(gpt2.OptionError, ValueError)
    assert all(
        issubclass(error, gpt2.Error) and error.__module__ == "gpt2"
        for error in (gpt2.FormatError, gpt2.ContextError, gpt2.NumericError, gpt2.BusyError)
    )
    (tmp_path / "bad").write_bytes(b"not a model")
    with pytest.raises(gpt2.FormatError, match="bad"):
        gpt2.Model(tmp_path / "bad")
    with pytest.raises(gpt2.ContextError, match="max_new_tokens"):
        tiny.generate("a", max_new_tokens=100)
    with pytest.raises(gpt2.ContextError):
        tiny.stream("a", max_new_tokens=100)
    with pytest.raises(gpt2.OptionError, match="found 300"):
        gpt2.Session(tiny).forward([300])
    with pytest.raises(gpt2.OptionError, match="found 1"):
        gpt2.Session(tiny).truncate(1)
    damaged = bytearray(TINY.read_bytes())
    header_size = int.from_bytes(damaged[:8], "little")
    header = json.loads(damaged[8 : 8 + header_size])
    at = 8 + header_size + header["ln_f.bias"]["data_offsets"][0]
    damaged[at : at + 4] = b"\xff" * 4
    session = gpt2.Session(gpt2.Model.from_bytes(bytes(damaged)))
    with pytest.raises(gpt2.NumericError):
        session.forward([1])
    with pytest.raises(gpt2.NumericError):
        list(session.stream([1]))
    assert session.position == 0


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("temperature", 0.5, gpt2.OptionError, "temperature is set but has no effect"),
        ("temperature", "hot", TypeError, "temperature: expected a number, found str"),
        ("temperature", True, TypeError, "temperature: expected a number, found bool"),
        ("max_new_tokens", 1.5, TypeError, "max_new_tokens: expected a whole number, found float"),
        ("max_new_tokens", True, TypeError, "max_new_tokens: expected a whole number, found bool"),
        ("max_new_tokens", None, TypeError, "max_new_tokens: expected a whole number, found NoneType"),
        ("max_new_tokens", -1, gpt2.OptionError, "max_new_tokens is -1"),
        ("max_new_tokens", 2**70, gpt2.OptionError, "max_new_tokens is 1180591620717411303424"),
        ("seed", -1, gpt2.OptionError, "seed is -1, expected a number from 0 to 18446744073709551615"),
        ("seed", 2**64, gpt2.OptionError, "seed is 18446744073709551616"),
        ("do_sample", 1, TypeError, "do_sample: expected True or False, found int"),
        ("stop_strings", 5, TypeError, "stop_strings: expected str, bytes or a list of them, found int"),
        ("stop_strings", ["a", 5], TypeError, "stop_strings: expected str or bytes, found int"),
        ("stop_strings", [""], gpt2.OptionError, r"stop_strings\[0\] is empty"),
        (
            "overflow",
            "wrap",
            gpt2.OptionError,
            'overflow is "wrap", expected one of error, slide, truncate_left',
        ),
        ("overflow", 1, TypeError, "overflow: expected a name"),
        ("eos_token_id", 2**40, gpt2.OptionError, "eos_token_id is 1099511627776"),
        ("top_q", 1, TypeError, '"top_q" is no option'),
    ],
)
def test_bad_options(tiny: gpt2.Model, option: str, value: Any, error: type[Exception], message: str) -> None:
    options: dict[str, Any] = {option: value}
    session = gpt2.Session(tiny)
    for call in (tiny.generate, tiny.stream, session.generate, session.stream):
        with pytest.raises(error, match=message):
            call("a", **options)
    assert session.position == 0  # and it can be used


def test_bad_arguments(tiny: gpt2.Model) -> None:
    anything: Any = gpt2
    session = gpt2.Session(tiny)
    for call, message in (
        (lambda: anything.Model(TINY, weights="float64"), 'weights is "float64"'),
        (lambda: anything.Model(TINY, isa="mmx"), 'isa is "mmx"'),
        (lambda: anything.Model(TINY, threads=0), "found 0"),
        (lambda: anything.Session(tiny, kv_dtype="int8"), "kv_dtype is"),
        (lambda: session.forward([1], logits=anything.__name__), "logits is"),
        (lambda: session.forward([2**31]), "token is 2147483648"),
    ):
        with pytest.raises(gpt2.OptionError, match=message):
            call()
    for call, message in (
        (lambda: anything.Model(5), ""),
        (lambda: anything.Model(TINY, verify=1), "verify: expected True or False"),
        (lambda: anything.Session(tiny).forward("text"), "tokens: expected a list"),
        (lambda: anything.Session(tiny).forward([1.0]), "token: expected a whole number, found float"),
        (lambda: anything.Session(tiny).forward(5), "tokens: expected a list"),
        (lambda: tiny.generate("a", callback=anything), "callback: expected something to call"),
        (lambda: tiny.generate(anything), "tokens: expected a list"),
        (lambda: tiny.encode(anything), "text: expected str or bytes"),
        (lambda: anything.forward([1]), "items: expected tuples"),
        (lambda: anything.forward([(1, [1])]), "items: expected a Session"),
        (lambda: anything.forward(None), "items: expected a list"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(UnicodeEncodeError):
        tiny.generate("\ud800")


# Callbacks and streams.


def test_callback(model: gpt2.Model) -> None:
    seen: list[gpt2.Token] = []
    result = model.generate(PROMPT, callback=seen.append, logprobs=True)
    assert [token.id for token in seen] == result.tokens
    assert "".join(token.text for token in seen) == result.text
    assert b"".join(token.bytes for token in seen) == result.bytes
    assert [token.index for token in seen] == list(range(20))
    assert [token.logprob for token in seen] == result.logprobs
    stopped = model.generate(PROMPT, callback=lambda token: gpt2.Flow.STOP if token.index == 4 else None)
    assert (stopped.tokens, stopped.finish_reason) == (result.tokens[:5], "callback")
    assert model.generate(PROMPT, callback=lambda token: gpt2.Flow.PROCEED).tokens == result.tokens

    def fails(token: gpt2.Token) -> None:
        raise KeyError(token.id)

    with pytest.raises(KeyError, match=str(result.tokens[0])):
        model.generate(PROMPT, callback=fails)
    wrong: Any = bool
    with pytest.raises(TypeError, match="callback: expected None or a Flow to be returned, found bool"):
        model.generate(PROMPT, callback=wrong)


def test_stream(model: gpt2.Model) -> None:
    whole = model.generate(PROMPT, **SAMPLING)
    stream = model.stream(PROMPT, **SAMPLING)
    assert stream.result is None
    tokens = list(stream)
    assert [token.id for token in tokens] == whole.tokens
    assert "".join(map(str, tokens)) == whole.text
    assert stream.result is not None
    assert (stream.result.text, stream.result.logprobs) == (whole.text, whole.logprobs)
    assert next(stream, None) is None
    stream.close()
    assert stream.result.finish_reason == "length"
    assert "gpt2.Token" in repr(tokens[0])


def test_a_stream_computes_what_is_asked_for(model: gpt2.Model) -> None:
    tokens = model.encode(PROMPT)
    whole = model.generate(tokens).tokens
    session = gpt2.Session(model)
    threads = n_threads()
    with session.stream(tokens) as stream:
        seen = [next(stream).id for _ in range(4)]
        assert has_threads(threads + 1)
        time.sleep(0.1)  # in which nothing is computed
        with pytest.raises(gpt2.BusyError):
            session.forward([1])
        with pytest.raises(gpt2.BusyError):
            session.position
        with pytest.raises(gpt2.BusyError):
            session.stream("")
    assert has_threads(threads)
    assert seen == whole[:4]
    assert session.tokens == tokens + whole[:3]  # nobody has read the last one
    assert stream.result is not None
    assert (stream.result.tokens, stream.result.finish_reason) == (whole[:4], "callback")
    session.forward(whole[3:4])
    assert session.generate(max_new_tokens=3).tokens == whole[4:7]


def test_streams_leave_no_threads(model: gpt2.Model) -> None:
    threads = n_threads()
    for _ in range(20):
        for token in model.stream(PROMPT):
            if token.index == 1:
                break
    model.stream(PROMPT)  # never begun
    unused = model.stream(PROMPT)
    unused.close()
    assert unused.result is None and list(unused) == []

    def fails() -> None:
        for token in model.stream(PROMPT):
            raise KeyError(token.id)

    with pytest.raises(KeyError):
        fails()
    gc.collect()
    assert has_threads(threads)


def test_a_stream_is_closed_by_another_thread(model: gpt2.Model) -> None:
    stream = model.stream(PROMPT, max_new_tokens=10**9, overflow="slide")
    seen: list[gpt2.Token] = []
    consumer = threading.Thread(target=lambda: seen.extend(stream))
    consumer.start()
    while not isinstance(refusal := outcome(lambda: next(stream)), ValueError):
        pass  # the consumer is waiting at some time
    assert "one caller at a time" in str(refusal)
    stream.close()
    consumer.join()
    assert stream.result is not None and stream.result.finish_reason == "callback"


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # pylint: disable=broad-except
        return error


# Threads and signals.


def test_the_interpreter_goes_on_meanwhile(model: gpt2.Model) -> None:
    """While something is computed another thread runs; it gets the lock only where it is let go."""
    tokens = model.encode(PROMPT) * 20
    session = gpt2.Session(model)
    calls: list[Callable[[], Any]] = [
        lambda: session.forward(tokens),
        lambda: session.score(tokens),
        lambda: model.generate(tokens, max_new_tokens=30),
        lambda: gpt2.forward([(session, tokens)]),
        lambda: list(model.stream(tokens, max_new_tokens=5)),
        lambda: gpt2.Model(NOVELLA, "int8"),
    ]
    check_goes_on(calls, 100, lambda: session.truncate(0))


def test_many_threads_one_model(model: gpt2.Model) -> None:
    expected = [model.generate(PROMPT, do_sample=True, seed=seed).tokens for seed in range(6)]
    found: dict[int, Any] = {}

    def work(seed: int) -> None:
        found[seed] = outcome(lambda: model.generate(PROMPT, do_sample=True, seed=seed).tokens)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == expected


def test_a_session_serves_one_thread(model: gpt2.Model) -> None:
    session = gpt2.Session(model)
    errors: list[Exception] = []

    def use_it(_: gpt2.Token) -> None:
        for call in (
            lambda: session.forward([1]),
            lambda: session.score([1]),
            lambda: session.truncate(0),
            lambda: session.generate(),
            lambda: session.tokens,
            lambda: session.logits,
            lambda: gpt2.forward([(session, [1])]),
            session.fork,
            lambda: session.save("never"),
        ):
            errors.append(outcome(call))

    whole = session.generate(PROMPT, max_new_tokens=2, callback=use_it)
    assert len(errors) == 18 and all(isinstance(error, gpt2.BusyError) for error in errors)
    assert whole.tokens == model.generate(PROMPT, max_new_tokens=2).tokens


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    program = f"import gpt2\nmodel = gpt2.Model({str(NOVELLA)!r})\n" + textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "endless",
    [
        "session.generate('a', max_new_tokens=10**9, overflow='slide')",
        "session.generate('a', max_new_tokens=10**9, overflow='slide', callback=lambda token: None)",
        "for _ in session.stream('a', max_new_tokens=10**9, overflow='slide'): pass",
    ],
)
def test_keyboard_interrupt(endless: str) -> None:
    done = run_python(
        f"""
        import os, signal, threading
        session = gpt2.Session(model)
        try:
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            {endless}
        except KeyboardInterrupt:
            session.truncate(0)  # it is free again
            print("interrupted", session.generate("Once upon a", max_new_tokens=2).text)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("interrupted ")


def test_a_program_may_end_with_streams_open() -> None:
    done = run_python(
        """
        import gc
        gc.disable()
        stream = model.stream("a")
        cycle = [model.stream("a")]
        cycle.append(cycle)
        print(next(stream).index, next(cycle[0]).index)
        del cycle
        """
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "0 0\n")


# What describes it, and options of more than one number.


def test_options_of_several_numbers(model: gpt2.Model) -> None:
    plain = model.generate(PROMPT, max_new_tokens=8)
    first = plain.tokens[0]
    assert model.generate(PROMPT, max_new_tokens=8, suppress_tokens=[first]).tokens[0] != first
    assert model.generate(PROMPT, max_new_tokens=8, logit_bias={first: -float("inf")}).tokens[0] != first
    assert model.generate(PROMPT, max_new_tokens=8, sequence_bias={(first,): -1e30}).tokens[0] != first
    assert model.generate(PROMPT, max_new_tokens=8, bad_words_ids=[[first]]).tokens[0] != first
    assert model.generate(PROMPT, max_new_tokens=8, dry={"multiplier": 0.0}).tokens == plain.tokens
    surprise = model.generate(PROMPT, max_new_tokens=8, do_sample=True, seed=1, mirostat={"tau": 3.0})
    assert len(surprise.tokens) == 8
    with pytest.raises(gpt2.OptionError, match="xtc: expected no keys but probability, threshold"):
        model.generate(PROMPT, do_sample=True, xtc={"chance": 0.5})
    with pytest.raises(TypeError, match="dry: expected a dict, found float"):
        model.generate(PROMPT, dry=0.8)  # type: ignore[arg-type]


def test_functions_change_scores(model: gpt2.Model) -> None:
    first = model.generate(PROMPT, max_new_tokens=1).tokens[0]
    seen: list[int] = []

    def forbid(tokens: Any, scores: Any) -> None:
        seen.append(len(tokens))
        scores[first] = -np.inf

    def fail(tokens: Any, scores: Any) -> None:
        raise KeyError("mine")

    assert first not in model.generate(PROMPT, max_new_tokens=5, logits_processors=[forbid]).tokens
    assert seen == list(range(seen[0], seen[0] + 5))
    with model.stream(PROMPT, max_new_tokens=5, logits_processors=[forbid]) as stream:
        assert first not in [token.id for token in stream]
    with pytest.raises(KeyError, match="mine"):
        model.generate(PROMPT, max_new_tokens=5, logits_processors=[fail])
    with pytest.raises(KeyError, match="mine"):
        list(model.stream(PROMPT, max_new_tokens=5, logits_processors=[fail]))


def test_options_are_those_of_the_library() -> None:
    header = (ROOT / "include" / "gpt2" / "generation_config.hpp").read_text()
    struct = re.search(r"\nstruct GenerationConfig {\n(.*?)\n};", header, re.DOTALL)
    assert struct is not None
    members = re.findall(r"^    [\w:<>, ]+ (\w+)(?: = .*|{});", struct[1], re.MULTILINE)
    assert len(members) > 50 and _gpt2.option_names == members
    stub = ast.parse((ROOT / "python" / "gpt2" / "__init__.pyi").read_text())
    described = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    options = [
        ast.unparse(field.target) for field in described["_Options"].body if isinstance(field, ast.AnnAssign)
    ]
    assert options == members
    takers = [
        function.name
        for owner in ("Model", "Session")
        for function in described[owner].body
        if isinstance(function, ast.FunctionDef)
        and function.args.kwarg is not None
        and ast.unparse(function.args.kwarg) == "options: Unpack[_Options]"
    ]
    assert takers == ["generate", "generate_batch", "stream", "generate", "stream"]
    header = (ROOT / "c" / "gpt2.h").read_text()
    struct = re.search(r"typedef struct gpt2_generation_config {\n(.*?)\n}", header, re.DOTALL)
    assert struct is not None
    in_c = set(re.findall(r"^    [\w* ]+?\b(\w+);", struct[1], re.MULTILINE))
    sizes = {f"n_{name}" for name in members}
    assert in_c - sizes - {"size", "reserved"} == set(members)


def test_types_are_those_of_the_module(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "gpt2", "--ignore-missing-stub", "--concise"]
    (tmp_path / "mypy.ini").write_text("[mypy]\nenable_incomplete_feature = Unpack\n")
    command += ["--mypy-config-file", "mypy.ini"]
    place = str(Path(gpt2.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": place, "MYPYPATH": place}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    how_pybind11_makes_classes = ("metaclass differs", "__init__ is inconsistent, stub does not have *args")
    lines = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not any(text in line for text in how_pybind11_makes_classes)
    ]
    assert lines == []


def test_everything_has_a_docstring() -> None:
    assert sorted(gpt2.__all__) == gpt2.__all__
    assert set(gpt2.__all__) == {name for name in dir(gpt2) if name[0] != "_"} | {"__version__"}
    assert all(getattr(gpt2, name).__doc__ for name in gpt2.__all__)
    assert all(getattr(gpt2, name).__module__ == "gpt2" for name in gpt2.__all__ if name[0].isupper())
