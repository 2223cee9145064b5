# SPDX-License-Identifier: MIT
"""gpt2-eval lambada, choice and cloze: against the protocols as they are published, in numpy."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

import measure_quantization as numpy_gpt2
from gpt2_convert.sources import packed
from support import HELDOUT, MODEL, PROGRAM, ROOT, fails, found, load, needs_program, run

pytestmark = needs_program

DATA = ROOT / "examples" / "data"
FLOAT32 = ("--weights", "float32")


class Harness:
    """Log-likelihoods as lm-evaluation-harness takes them (lm_eval/api/model.py), in float64."""

    def __init__(self) -> None:
        source = packed.read(MODEL)
        self.model = load(MODEL)
        self.tables = numpy_gpt2.tokenizer(source)
        self.start = json.loads(source.vocab_json)["<|endoftext|>"]

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = numpy_gpt2.encode(text, self.tables)
        return tokens

    def score(self, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
        """Of each token of the continuation: its log-probability, and whether it is the most likely."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before = self.encode(context)
        rest = self.encode(context + continuation)[len(before) :]
        tokens = [*(before or [self.start]), *rest][-(self.model.config.n_positions + 1) :]
        rows = numpy_gpt2.log_softmax(self.model.logits(np.array(tokens[:-1])))[-len(rest) :]
        return rows[np.arange(len(rest)), rest], rows.argmax(axis=1) == rest


@pytest.fixture(scope="module")
def harness() -> Harness:
    return Harness()


def examples_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("seconds", "data")}


def found_with_details(tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    result = found(*arguments, "--details", tmp_path / "details")
    return result, examples_of(tmp_path / "details")


def check_share(share: dict[str, float], right: list[bool]) -> None:
    p = sum(right) / len(right)
    assert share["value"] == pytest.approx(p)
    assert share["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / len(right)))


# The numbers.


def check_last_words(harness: Harness, texts: list[str], tmp_path: Path, file: Path) -> None:
    result, details = found_with_details(tmp_path, "lambada", MODEL, file, *FLOAT32)
    scores = [harness.score(" ".join(t.split(" ")[:-1]), " " + t.split(" ")[-1]) for t in texts]
    nll = np.array([-p.sum() for p, _ in scores])
    assert result["examples"] == len(details) == len(texts)
    assert [d["score"] for d in details] == pytest.approx(list(-nll), rel=1e-5, abs=1e-5)
    assert [d["word"] for d in details] == [t.split(" ")[-1] for t in texts]
    assert [d["correct"] for d in details] == [bool(first.all()) for _, first in scores]
    assert result["perplexity"]["value"] == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    error = math.exp(nll.mean()) * nll.std(ddof=1) / math.sqrt(len(nll))
    assert result["perplexity"]["standard_error"] == pytest.approx(error, rel=1e-4)
    check_share(result["accuracy"], [bool(first.all()) for _, first in scores])
    check_share(result["last_token_accuracy"], [bool(first[-1]) for _, first in scores])
    last = np.array([-p[-1] for p, _ in scores])
    assert result["last_token_perplexity"]["value"] == pytest.approx(math.exp(last.mean()), rel=1e-5)
    assert any(d["correct"] for d in details) and not all(d["correct"] for d in details)


def test_lambada(harness: Harness, tmp_path: Path) -> None:
    file = DATA / "lambada.jsonl"
    check_last_words(harness, [e["text"] for e in examples_of(file)], tmp_path, file)


def test_lambada_in_plain_text(harness: Harness, tmp_path: Path) -> None:
    file = DATA / "lambada.txt"
    check_last_words(harness, file.read_text().splitlines(), tmp_path, file)


def test_last_words_of_several_tokens(harness: Harness, tmp_path: Path) -> None:
    """A comma may be foreseen where the word before it is not."""
    words = HELDOUT.read_text(encoding="utf-8").split()
    texts = [" ".join(words[i : i + 50]) for i in range(0, 2000, 50)]
    file = tmp_path / "file"
    file.write_text("\n".join(texts), encoding="utf-8")
    check_last_words(harness, texts, tmp_path, file)
    details = examples_of(tmp_path / "details")
    assert any(d["last_token_correct"] and not d["correct"] for d in details)


def check_choices(
    harness: Harness,
    asked: list[tuple[str, list[str], int]],
    tmp_path: Path,
    *arguments: object,
) -> None:
    result, details = found_with_details(tmp_path, "choice", MODEL, *arguments, *FLOAT32)
    assert len(details) == len(asked)
    right: dict[str, list[bool]] = {"acc": [], "acc_norm_per_character": [], "acc_norm_per_token": []}
    for detail, (context, endings, label) in zip(details, asked):
        scores = [harness.score(context, " " + ending)[0] for ending in endings]
        sums = np.array([s.sum() for s in scores])
        chosen = [
            int(sums.argmax()),
            int((sums / [len(ending) for ending in endings]).argmax()),
            int((sums / [len(s) for s in scores]).argmax()),
        ]
        assert detail["scores"] == pytest.approx(list(sums), rel=1e-5)
        assert detail["label"] == label
        assert chosen == [detail[k] for k in ("chosen", "chosen_per_character", "chosen_per_token")]
        for key, choice in zip(right, chosen):
            right[key].append(choice == label)
    for key, values in right.items():
        check_share(result[key], values)
    assert result["chance"] == pytest.approx(np.mean([1 / len(endings) for _, endings, _ in asked]))


def test_hellaswag_as_llmc_takes_it(harness: Harness, tmp_path: Path) -> None:
    file = DATA / "hellaswag.jsonl"
    asked = [(e["ctx"], e["endings"], int(e["label"])) for e in examples_of(file)]
    check_choices(harness, asked, tmp_path, file)


def preprocessed(text: str) -> str:
    """As lm_eval/tasks/hellaswag/utils.py."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def harness_example(example: dict[str, Any]) -> tuple[str, list[str], int]:
    context = example["ctx_a"] + " " + example["ctx_b"].capitalize()
    return (
        preprocessed(example["activity_label"] + ": " + context),
        [preprocessed(ending) for ending in example["endings"]],
        int(example["label"]),
    )


def test_hellaswag_as_the_harness_takes_it(harness: Harness, tmp_path: Path) -> None:
    asked = [harness_example(e) for e in examples_of(DATA / "hellaswag.jsonl")]
    assert any("[" in e["ctx"] for e in examples_of(DATA / "hellaswag.jsonl"))
    check_choices(harness, asked, tmp_path, DATA / "hellaswag.jsonl", "--harness")


def test_preprocessing(harness: Harness, tmp_path: Path) -> None:
    """Brackets of all kinds, runs of spaces, letters and spaces beyond ASCII."""
    awkward = [
        "  [header] How to [title] go [step] on [x [y] z] [unclosed",
        "a]b [two\nlines] c  d   e    f [title][title] [title]g",
        "\u00a0caf\u00e9 [a] [b]\u2003",
    ]
    lines = [
        {
            "activity_label": label,
            "ctx_a": context,
            "ctx_b": rest,
            "endings": [ending, "x"],
            "label": 0,
        }
        for label in ("Sport", " [z] Home")
        for context in awkward
        for rest in ("", "the MAN")
        for ending in awkward
    ]
    file = tmp_path / "file"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = [harness_example(line) for line in lines]
    check_choices(harness, asked, tmp_path, file, "--harness")


def test_other_fields_of_a_choice(harness: Harness, tmp_path: Path) -> None:
    file = DATA / "choice.jsonl"
    asked = [
        (e["context"] if "context" in e else e["question"], e["choices"], int(e["label"]))
        for e in examples_of(file)
    ]
    check_choices(harness, asked, tmp_path, file)
    parts = {"ctx_a": "She sat down.", "endings": ["Then she slept.", "Blue."], "label": 0}
    joined = [parts, {**parts, "ctx_b": ""}, {**parts, "ctx_b": "then she"}]
    (tmp_path / "file").write_text("".join(json.dumps(line) + "\n\n" for line in joined))
    contexts = ["She sat down.", "She sat down.", "She sat down. then she"]
    asked = [(context, ["Then she slept.", "Blue."], 0) for context in contexts]
    check_choices(harness, asked, tmp_path, tmp_path / "file")


def test_contexts_at_the_edges(harness: Harness, tmp_path: Path) -> None:
    """Nothing, white space, white space at the end, characters of several bytes, more than the positions."""
    long = " ".join(f"word{i}" for i in range(700))
    contexts = ["", " \n", "It was \t ", "na\u00efve \u2014", long, long + " ", "two\n\nlines\n"]
    endings = ["caf\u00e9 \u6771\u4eac", "a", " two spaces", "end. " * 30]
    lines = [{"context": context, "choices": endings, "label": 1} for context in contexts]
    file = tmp_path / "file"
    file.write_text("\ufeff" + "\r\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    check_choices(harness, [(context, endings, 1) for context in contexts], tmp_path, file)


def check_cloze(
    harness: Harness, asked: list[tuple[str, list[str], str, int]], tmp_path: Path, file: Path
) -> None:
    result, details = found_with_details(tmp_path, "cloze", MODEL, file, *FLOAT32)
    right = []
    for detail, (before, candidates, after, label) in zip(details, asked):
        # The probability of the whole text but for what all candidates have in common before them.
        context = re.match(r"(?:.*\s)?", before, re.DOTALL)
        assert context is not None
        scores = [
            harness.score(context[0], before[context.end() :] + candidate + after)[0].sum()
            for candidate in candidates
        ]
        assert detail["scores"] == pytest.approx(scores, rel=1e-5)
        assert detail["label"] == label and detail["chosen"] == int(np.argmax(scores))
        right.append(int(np.argmax(scores)) == label)
    assert len(details) == len(asked)
    check_share(result["accuracy"], right)
    assert result["chance"] == pytest.approx(np.mean([1 / len(a[1]) for a in asked]))


def test_cloze(harness: Harness, tmp_path: Path) -> None:
    asked = []
    for e in examples_of(DATA / "cloze.jsonl"):
        text = " ".join([*e.get("sentences", []), *filter(None, [e.get("context")])])
        text += (" " if text else "") + e.get("text", e.get("question"))
        before, after = re.split(r"XXXXX|\[MASK\]|_+", text)
        candidates = e.get("candidates", e.get("options"))
        label = e["answer"] if isinstance(e["answer"], int) else candidates.index(e["answer"])
        asked.append((before, candidates, after, label))
    check_cloze(harness, asked, tmp_path, DATA / "cloze.jsonl")


def test_blanks_at_the_edges(harness: Harness, tmp_path: Path) -> None:
    """At the beginning, at the end, in a word, behind a quotation mark; other marks beside XXXXX."""
    texts = ["_", "_ end", "begin _", "un_able", 'He said "_" twice', "snake_case XXXXX [MASK]", "a  ___b"]
    file = tmp_path / "file"
    lines = [{"text": text, "candidates": ["one", "two three"], "answer": 1} for text in texts]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = []
    for text in texts:
        before, after = re.split("XXXXX" if "X" in text else "_+", text)
        asked.append((before, ["one", "two three"], after, 1))
    check_cloze(harness, asked, tmp_path, file)


# How they are reached.

TASKS = [
    ("lambada", "lambada.jsonl"),
    ("lambada", "lambada.txt"),
    ("choice", "hellaswag.jsonl"),
    ("choice", "choice.jsonl"),
    ("cloze", "cloze.jsonl"),
]


@pytest.mark.parametrize("command, name", TASKS)
def test_threads_and_neighbours_change_nothing(command: str, name: str, tmp_path: Path) -> None:
    one, two = (found_with_details(tmp_path, command, MODEL, DATA / name, "--threads", n) for n in (1, 2))
    assert numbers(one[0]) == numbers(two[0]) and one[1] == two[1]
    alone = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        (tmp_path / "one").write_text(line, encoding="utf-8")
        alone += found_with_details(tmp_path, command, MODEL, tmp_path / "one")[1]
    assert [{**a, "index": i, "line": i + 1} for i, a in enumerate(alone)] == one[1]


def test_a_large_file_is_all_there(tmp_path: Path) -> None:
    """More than goes into one call, with empty lines between."""
    lines = (DATA / "choice.jsonl").read_text().splitlines()
    file = tmp_path / "file"
    file.write_text("\n \n".join(lines * 30) + "\n\n")
    one = found_with_details(tmp_path, "choice", MODEL, DATA / "choice.jsonl")[1]
    result, many = found_with_details(tmp_path, "choice", MODEL, file)
    assert result["examples"] == len(many) == 30 * len(one)
    for i, detail in enumerate(many):
        assert detail == {**one[i % len(one)], "index": i, "line": 2 * i + 1}


def test_limit(tmp_path: Path) -> None:
    details = found_with_details(tmp_path, "cloze", MODEL, DATA / "cloze.jsonl")[1]
    result, some = found_with_details(tmp_path, "cloze", MODEL, DATA / "cloze.jsonl", "--limit", 2)
    assert result["examples"] == 2 and some == details[:2]
    assert found("cloze", MODEL, DATA / "cloze.jsonl", "--limit", 1000)["examples"] == len(details)


def test_text_output() -> None:
    out = run("lambada", MODEL, DATA / "lambada.jsonl")
    assert "8 examples" in out and "of the last words" in out and "per last word" in out
    out = run("choice", MODEL, DATA / "hellaswag.jsonl")
    assert "acc_norm" in out and "(lm-evaluation-harness)" in out and "(llm.c)" in out
    assert "chance       25.00 %" in out
    assert "accuracy" in run("cloze", MODEL, DATA / "cloze.jsonl")


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it after the examples under way; what was found stands in the details."""
    (tmp_path / "file").write_text((DATA / "choice.jsonl").read_text() * 20_000)
    with subprocess.Popen(
        [PROGRAM, "choice", MODEL, tmp_path / "file", "--details", tmp_path / "details"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None and not (
            (tmp_path / "details").exists() and (tmp_path / "details").stat().st_size
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"") and process.returncode == 128 + signal.SIGINT
    assert 0 < len(examples_of(tmp_path / "details")) < 120_000


# What goes wrong.

GOOD = {
    "lambada": {"text": "some words"},
    "choice": {"context": "c", "choices": ["a", "b"], "label": 1},
    "harness": {"activity_label": "l", "ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": 0},
    "cloze": {"text": "a _ b", "candidates": ["x", "y"], "answer": "x"},
}

#: The command, what is changed in its good line (a value of None takes the field away), the complaint.
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("lambada", {"text": None}, '"text": expected a string, found nothing'),
    ("lambada", {"text": 12}, '"text": expected a string, found 12'),
    ("lambada", {"text": ""}, '"text": expected at least two words with a space between them, found ""'),
    ("lambada", {"text": " word "}, 'expected at least two words with a space between them, found " word"'),
    ("choice", {"choices": None}, '"endings": expected this field or "choices", found neither'),
    ("choice", {"endings": ["a", "b"]}, '"endings": expected this field or "choices", found both'),
    ("choice", {"context": None}, '"context": expected this field or "question", found neither'),
    ("choice", {"question": "q"}, '"context": expected this field or "question", found both'),
    ("choice", {"context": ["c"]}, '"context": expected a string, found an array of 1 element'),
    ("choice", {"choices": "ab"}, '"choices": expected an array of at least 2 strings, found "ab"'),
    ("choice", {"choices": []}, "expected an array of at least 2 strings, found an array of 0 elements"),
    ("choice", {"choices": ["a"]}, "expected an array of at least 2 strings, found an array of 1 element"),
    ("choice", {"choices": ["a", 3]}, "expected a string that is not empty as element 1, found 3"),
    ("choice", {"choices": ["", "b"]}, 'expected a string that is not empty as element 0, found ""'),
    ("choice", {"label": None}, '"label": expected a number from 0 to 1, that of a choice, found nothing'),
    ("choice", {"label": 2}, '"label": expected a number from 0 to 1, that of a choice, found 2'),
    ("choice", {"label": -1}, "found -1"),
    ("choice", {"label": 0.5}, "found 0.5"),
    ("choice", {"label": True}, "found true"),
    ("choice", {"label": ""}, 'found ""'),
    ("choice", {"label": "2"}, 'found "2"'),
    ("choice", {"label": "0x1"}, 'found "0x1"'),
    ("choice", {"label": "9" * 30}, f'found "{"9" * 30}"'),
    ("harness", {"activity_label": None}, '"activity_label": expected a string, found nothing'),
    ("harness", {"ctx_b": None}, '"ctx_b": expected a string, found nothing'),
    ("harness", {"endings": None}, '"endings": expected an array of at least 2 strings, found nothing'),
    ("harness", {"endings": ["x", "[y]"]}, '"endings": expected a text outside brackets in each, found none'),
    ("cloze", {"text": None}, '"text": expected this field or "question", found neither'),
    ("cloze", {"question": "_"}, '"text": expected this field or "question", found both'),
    ("cloze", {"text": "no blank"}, '"text": expected one blank (XXXXX, [MASK] or _), found 0'),
    ("cloze", {"text": "_ and __"}, '"text": expected one blank (XXXXX, [MASK] or _), found 2'),
    ("cloze", {"text": "XXXXXXXXXX"}, '"text": expected one blank (XXXXX, [MASK] or _), found 2'),
    ("cloze", {"candidates": None}, '"candidates": expected this field or "options", found neither'),
    ("cloze", {"candidates": {}}, '"candidates": expected an array of at least 2 strings, found an object'),
    ("cloze", {"answer": None}, '"answer": expected one of the candidates, found nothing'),
    ("cloze", {"answer": "z"}, '"answer": expected one of the candidates, found "z"'),
    ("cloze", {"answer": 2}, '"answer": expected a number from 0 to 1, that of a choice, found 2'),
    ("cloze", {"context": 1}, '"context": expected a string, found 1'),
    ("cloze", {"sentences": "s"}, '"sentences": expected an array of strings, found "s"'),
    ("cloze", {"sentences": [], "context": ""}, '"sentences": expected this field or "context", found both'),
]


def command_of(task: str) -> tuple[str, ...]:
    return ("choice", "--harness") if task == "harness" else (task,)


@pytest.mark.parametrize("task, change, complaint", BAD)
def test_bad_fields_are_named(task: str, change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    bad = {key: value for key, value in {**GOOD[task], **change}.items() if value is not None}
    file = tmp_path / "file"
    file.write_text(json.dumps(GOOD[task]) + "\n\n" + json.dumps(bad) + "\n")
    message = fails(1, *command_of(task), MODEL, file)
    assert message.startswith(f'gpt2-eval: error: "{file}": line 3: ') and complaint in message


def plain(text: str) -> bytes:
    return text.encode("utf-8")


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize(
    "line, complaint",
    [
        (plain("[1, 2]"), ": expected a JSON object, found an array of 2 elements"),
        (plain('{"text": '), ": at byte 10: expected valid JSON"),
        (plain('{"text": "a b"} more'), ": at byte 17: expected valid JSON"),
        (plain('{"text": "a b", "text": "c d"}'), 'expected every key once, found "text" twice'),
        (plain("{" + '"a":{' * 70 + "}" * 71), "expected at most 64 levels of nesting, found more"),
        (plain('{"text": "\\ud800 b"}'), "expected valid JSON"),
        (b'{"text": "caf\xe9 b"}', ': expected UTF-8, found "\\xe9 b\\"}"'),
        (b'{"text": "a\0b"}', "expected valid JSON, found a zero byte"),
    ],
)
def test_bad_lines_are_named(task: str, line: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(json.dumps(GOOD[task]).encode() + b"\n" + line + b"\n")
    message = fails(1, *command_of(task), MODEL, file)
    assert message.startswith(f'gpt2-eval: error: "{file}": line 2: ') and complaint in message


def test_huge_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for task, text in [("lambada", "a word"), ("lambada", json.dumps(GOOD["lambada"]))]:
        file.write_text(text + "\n" + text + " " * (1 << 20) + "\n")
        message = fails(1, task, MODEL, file)
        assert f'"{file}": line 2: expected at most 1048576 bytes, found more' in message


def test_bad_lines_of_plain_text_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"two words\nword\n")
    assert f'"{file}": line 2: expected at least two words' in fails(1, "lambada", MODEL, file)
    file.write_bytes(b"two words\ncaf\xe9 au lait\n")
    assert f'"{file}": line 2: expected UTF-8' in fails(1, "lambada", MODEL, file)


@pytest.mark.parametrize("task", GOOD)
def test_empty_files_are_refused(task: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for contents in ("", "\n \n\n", "\ufeff"):
        file.write_text(contents, encoding="utf-8")
        message = fails(1, *command_of(task), MODEL, file)
        assert f'"{file}": expected at least one example, found none' in message


@pytest.mark.parametrize(
    "task, change",
    [
        ("lambada", lambda long: {"text": "short " + long.replace(" ", "-")}),
        ("choice", lambda long: {"choices": [long, "b"]}),
        ("cloze", lambda long: {"text": "short _ " + long}),
    ],
)
def test_what_alone_is_too_long_is_refused(
    task: str, change: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    lines = [GOOD[task], {**GOOD[task], **change("word " * 600)}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = fails(1, task, MODEL, file)
    assert f'"{file}": line 2: choice 0: expected 1 to 512 tokens, the positions of the model' in message


def test_other_mistakes(tmp_path: Path) -> None:
    file = DATA / "choice.jsonl"
    assert "--limit is -1" in fails(2, "choice", MODEL, file, "--limit", -1)
    assert "missing" in fails(1, "choice", MODEL, tmp_path / "missing")
    assert "directory" in fails(1, "choice", MODEL, tmp_path)
    assert "cannot write" in fails(1, "choice", MODEL, file, "--details", tmp_path / "no" / "such")
