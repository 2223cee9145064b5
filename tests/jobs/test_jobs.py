# SPDX-License-Identifier: MIT
"""gpt2-generate --jobs: the texts of single runs, whatever the batch, and wherever a run ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Optional

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("GPT2_GENERATE", "")
MODEL = ROOT / "models" / "novella-f16.safetensors"

pytestmark = pytest.mark.skipif(not PROGRAM, reason="GPT2_GENERATE does not name gpt2-generate")

# Each kind of text: drawn, greedy, ended by a string, by a search, at once, with a prompt of tokens.
JOBS: list[dict[str, Any]] = [
    {"prompt": "There was once a poor woodcutter who", "id": "first"},
    {"prompt": "Once upon a time", "seed": 1, "temperature": 0.5, "top_k": 0, "top_p": 0.9},
    {"prompt": "", "id": 3, "greedy": True, "max_new_tokens": 3},
    {"prompt_tokens": [10, 20, 30], "seed": 7, "min_p": 0.05, "repetition_penalty": 1.2},
    {"prompt": "The king", "stop": [" the", "\n", "-"], "max_new_tokens": 30},
    {"prompt": "It was", "num_beams": 3, "do_sample": False},
    {"prompt": "It was", "max_new_tokens": 0},
    {"prompt": "caf\u00e9 \u65e5\u672c", "logprobs": True, "top_logprobs": 2, "prompt_logprobs": True},
    {"prompt": "The same", "sample": 2, "preset": "llama.cpp", "logit_bias": " the=-2"},
    {"prompt": "The same", "ignore_eos": True, "max_time": 1e6},
]
OPTIONS = ["--max-new-tokens", "6", "--seed", "42"]


def write_jobs(path: Path, jobs: list[Any]) -> Path:
    path.write_text("".join((job if isinstance(job, str) else json.dumps(job)) + "\n" for job in jobs))
    return path


def start(*arguments: object, **how: Any) -> subprocess.Popen[str]:
    command = [PROGRAM, "--model", str(MODEL), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def run(*arguments: object, status: int = 0, text: Optional[str] = None) -> tuple[str, str]:
    """What the program prints, and its messages."""
    process = start(*arguments, stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL)
    out, err = process.communicate(text)
    assert process.returncode == status, err
    if status == 0:
        assert err == ""
    return out, err


def refused(*arguments: object, status: int = 1) -> str:
    out, err = run(*arguments, status=status)
    assert out == "" and err.startswith("gpt2-generate: error: ")
    return err


def lines_of(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(name="jobs")
def fixture_jobs(tmp_path: Path) -> Path:
    return write_jobs(tmp_path / "in.jsonl", JOBS)


@pytest.fixture(name="whole", scope="module")
def fixture_whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What comes out of all jobs."""
    path = write_jobs(tmp_path_factory.mktemp("jobs") / "in.jsonl", JOBS)
    return run("--jobs", path, *OPTIONS)[0]


def test_one_line_for_each_job_in_order(whole: str) -> None:
    lines = lines_of(whole)
    assert [line["index"] for line in lines] == list(range(len(JOBS)))
    assert [line.get("id") for line in lines] == [job.get("id") for job in JOBS]
    assert lines[2]["finish_reason"] == "length" and len(lines[2]["tokens"]) == 3 and "seed" not in lines[2]
    assert lines[3]["prompt_tokens"] == 3 and lines[3]["seed"] == 7
    assert lines[4]["finish_reason"] == "stop_string"
    assert "score" in lines[5] and "seed" not in lines[5]
    assert lines[6]["tokens"] == [] and lines[6]["text"] == ""
    assert lines[7]["prompt_logprobs"][0] is None and len(lines[7]["top_logprobs"][0]) == 2
    assert (
        len(lines[7]["prompt_logprobs"]) == len(lines[7]["prompt_top_logprobs"]) == lines[7]["prompt_tokens"]
    )
    assert lines[8]["sample"] == 2 and lines[8]["seed"] == 42


def test_each_text_is_that_of_a_single_run(whole: str) -> None:
    for job, line in zip(JOBS, lines_of(whole)):
        if "prompt_tokens" in job:
            continue
        arguments: list[str] = []
        for key, value in job.items():
            if key in ("prompt", "id") or value is False:
                continue
            for one in value if isinstance(value, list) else [value]:
                arguments += ["--" + key] if one is True else ["--" + key, str(one)]
        drawn = job.get("greedy") is None and job.get("num_beams") is None
        single = OPTIONS if drawn else OPTIONS[:2]
        if job.get("num_beams"):
            arguments.append("--greedy")
        found = json.loads(run("--json", *single, *arguments, "--", job["prompt"])[0])
        for name in ("index", "id", "digest"):
            line.pop(name, None)
        del found["prompt"]
        assert found == line


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_batch_changes_nothing(jobs: Path, whole: str, size: int) -> None:
    assert run("--jobs", jobs, "--batch-size", size, "--threads", 1, *OPTIONS)[0] == whole


def test_from_standard_input_into_a_file(tmp_path: Path, jobs: Path, whole: str) -> None:
    out = tmp_path / "out.jsonl"
    assert run("--jobs", "-", "--output", out, *OPTIONS, text=jobs.read_text())[0] == ""
    assert out.read_text() == whole


def test_resumes_wherever_it_ended(tmp_path: Path, jobs: Path, whole: str) -> None:
    out = tmp_path / "out.jsonl"
    data = whole.encode()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    cuts = {
        0,
        1,
        *ends,
        *(end - 1 for end in ends),
        *(end + 1 for end in ends[:-1]),
        *range(0, len(data), 211),
    }
    for cut in sorted(cuts):
        out.write_bytes(data[:cut])
        run("--jobs", jobs, "--output", out, *OPTIONS)
        assert out.read_bytes() == data, cut
    kept = out.stat().st_ino
    run("--jobs", jobs, "--output", out, *OPTIONS)  # nothing is left to do
    assert out.read_bytes() == data and out.stat().st_ino == kept


@pytest.mark.parametrize(
    "number, status", [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_resumes_after_a_signal(tmp_path: Path, number: int, status: int) -> None:
    jobs = write_jobs(tmp_path / "in.jsonl", [{"prompt": f"Chapter {i}", "id": i} for i in range(60)])
    out = tmp_path / "out.jsonl"
    options = ["--max-new-tokens", 60, "--seed", 1, "--ignore-eos", "--batch-size", 2]
    process = start("--jobs", jobs, "--output", out, *options)
    while process.poll() is None and not (out.exists() and out.stat().st_size > 0):
        time.sleep(0.001)
    process.send_signal(number)
    assert process.communicate()[1] == ""
    assert process.returncode == status
    done = out.read_bytes().count(b"\n")
    assert 1 <= done < 60
    if number != signal.SIGKILL:
        assert len(lines_of(out.read_text())) == done
        assert {line["finish_reason"] for line in lines_of(out.read_text())} == {"length"}
    before = out.read_bytes()[: out.read_bytes().rfind(b"\n") + 1]
    run("--jobs", jobs, "--output", out, *options)
    after = out.read_bytes()
    assert after.startswith(before)
    assert after.decode() == run("--jobs", jobs, *options, "--batch-size", 20)[0]


def test_what_is_in_the_file_must_be_of_these_jobs(tmp_path: Path, jobs: Path, whole: str) -> None:
    out = tmp_path / "out.jsonl"
    first = json.loads(whole.splitlines()[0])

    def fails(text: str, *parts: str, options: Optional[list[str]] = None) -> None:
        out.write_text(text)
        message = refused("--jobs", jobs, "--output", out, *(options or OPTIONS))
        assert str(out) in message and "--overwrite" in message
        for part in parts:
            assert part in message, message
        assert out.read_text() == text

    fails(json.dumps({**first, "index": 1}) + "\n", "line 1", '"index": expected 0', "found 1")
    fails(json.dumps({**first, "digest": "0-0"}) + "\n", "line 1", '"digest": expected ', 'found "0-0"')
    fails(json.dumps({"text": "x"}) + "\n", "line 1", '"index"', "found nothing")
    fails(whole + whole.splitlines()[0] + "\n", f"line {len(JOBS) + 1}", "found more")
    fails(whole, "line 1", '"digest"', options=["--max-new-tokens", "7", "--seed", "42"])
    fails(whole, "line 1", '"digest"', options=[*OPTIONS, "--weights", "int8"])
    out.write_text("no json\n")
    assert "line 1" in refused("--jobs", jobs, "--output", out, *OPTIONS)
    run("--jobs", jobs, "--output", out, "--overwrite", *OPTIONS)
    assert out.read_text() == whole
    write_jobs(jobs, [*JOBS[:2], {"prompt": "another"}, *JOBS[3:]])
    fails(whole, "line 3", '"digest"')
    assert "expected another" in refused("--jobs", jobs, "--output", jobs, *OPTIONS, status=2)


BAD: list[tuple[Any, list[str]]] = [
    ("{", ["expected valid JSON"]),
    ('{"prompt": "a", "prompt": "b"}', ["every key once"]),
    ('{"prompt": "\udcff"}', ["expected valid JSON"]),
    ("[1]", ["expected a JSON object", "found an array"]),
    ({}, ['"prompt" and "prompt_tokens"', "found none"]),
    ({"prompt": "a", "prompt_tokens": [1]}, ["found both"]),
    ({"prompt": 1}, ['"prompt": expected a string', "found 1"]),
    ({"prompt_tokens": []}, ['"prompt_tokens": expected a list of at least one']),
    ({"prompt_tokens": [1, -1]}, ['"prompt_tokens": expected token ids below', "found -1"]),
    ({"prompt": "a", "id": [1]}, ['"id": expected a string or a number']),
    ({"prompt": "a", "max_tokens": 5}, ['"max_tokens"', "name of an option"]),
    ({"prompt": "a", "max-new-tokens": 5}, ['"max-new-tokens"', "name of an option"]),
    ({"prompt": "a", "threads": 5}, ['"threads"', "name of an option"]),
    ({"prompt": "a", "temperature": -1}, ["temperature is -1"]),
    ({"prompt": "a", "temperature": "warm"}, ["--temperature", "found warm"]),
    ({"prompt": "a", "temperature": None}, ['"temperature": expected a string or a number', "found null"]),
    ({"prompt": "a", "temperature": [1]}, ['"temperature": expected', "array"]),
    ({"prompt": "a", "top_k": 1.5}, ["--top-k", "found 1.5"]),
    ({"prompt": "a", "ignore_eos": 1}, ['"ignore_eos": expected true or false', "found 1"]),
    ({"prompt": "a", "seed": -1}, ["--seed", "found -1"]),
    ({"prompt": "a", "num_return_sequences": 2}, ["num_return_sequences is 2", "expected 1"]),
    ({"prompt": "a", "greedy": True, "top_k": 5}, ["--greedy"]),
    ({"prompt": "a", "preset": "gpt-5"}, ["gpt-5"]),
    ({"prompt": "a", "max_new_tokens": 100000}, ["exceed the context"]),
    ({"prompt": "a", "suppress_tokens": ["two words"]}, ["--suppress-tokens", "expected one token"]),
    ({"prompt": "a", "min_new_tokens": 7}, ["min_new_tokens is 7"]),
    ({"prompt": "two words", "forced_bos_token_id": "The"}, ["forced_bos_token_id"]),  # known late
]


def test_a_bad_line_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = [job for job, _ in BAD]
    good: dict[str, Any] = {"prompt": "The king", "id": "good"}
    jobs = tmp_path / "in.jsonl"
    text = "\n".join(job if isinstance(job, str) else json.dumps(job) for job in [*bad, good])
    jobs.write_bytes(b" \r\n" + text.encode("utf-8", "surrogateescape"))  # no end of line at the end
    out = tmp_path / "out.jsonl"
    message = f"gpt2-generate: error: {len(BAD)} of {len(BAD) + 1} jobs failed"
    assert run("--jobs", jobs, "--output", out, *OPTIONS, status=1)[1].startswith(message)
    lines = lines_of(out.read_text())
    for i, (_, parts) in enumerate(BAD):
        assert lines[i]["index"] == i and "text" not in lines[i]
        for part in [str(jobs), f": line {i + 2}: ", *parts]:
            assert part in lines[i]["error"], lines[i]["error"]
    assert lines[-1]["id"] == "good" and "error" not in lines[-1]
    alone = write_jobs(tmp_path / "good.jsonl", [good])
    assert json.loads(run("--jobs", alone, *OPTIONS)[0])["tokens"] == lines[-1]["tokens"]
    before = out.read_bytes()
    assert run("--jobs", jobs, "--output", out, *OPTIONS, status=1)[1].startswith(message)  # counted again
    assert out.read_bytes() == before


def test_a_line_overrides_what_holds_for_all(tmp_path: Path) -> None:
    jobs = write_jobs(
        tmp_path / "in.jsonl",
        [
            {"prompt": "The king"},
            {"prompt": "The king", "stop": [], "ignore_eos": False},
            {"prompt": "The king", "do_sample": True},
            {"prompt": "The king", "seed": 5},
        ],
    )
    common = ["--greedy", "--max-new-tokens", 12, "--stop", "e", "--ignore-eos"]
    lines = lines_of(run("--jobs", jobs, *common)[0])
    assert lines[0]["finish_reason"] == "stop_string" and lines[1]["finish_reason"] != "stop_string"
    assert "seed" not in lines[1] and "seed" in lines[2] and lines[3]["seed"] == 5


def test_without_a_seed_each_line_has_its_own(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "in.jsonl", [{"prompt": "The king"}] * 4)
    lines = lines_of(run("--jobs", jobs, "--max-new-tokens", 12)[0])
    assert len({line["seed"] for line in lines}) == 4
    assert len({line["text"] for line in lines}) > 1


def test_no_jobs_and_no_files(tmp_path: Path) -> None:
    empty = write_jobs(tmp_path / "in.jsonl", ["", " "])
    assert run("--jobs", empty)[0] == ""
    assert "cannot read" in refused("--jobs", tmp_path / "none.jsonl")
    jobs = write_jobs(tmp_path / "in.jsonl", [{"prompt": "a"}])
    missing = tmp_path / "none" / "out.jsonl"
    assert str(missing) in refused("--jobs", jobs, "--output", missing)
    if Path("/dev/full").exists():
        assert "/dev/full" in refused("--jobs", jobs, "--output", "/dev/full", "--max-new-tokens", 1)
    for other in (
        ["a prompt"],
        ["--interactive"],
        ["--n", "2"],
        ["--json"],
        ["--screen-head"],
        ["--length", "2"],
    ):
        assert "--jobs" in refused("--jobs", jobs, *other, status=2)
    assert "--batch-size is 0" in refused("--jobs", jobs, "--batch-size", 0, status=2)
    assert "--jobs" in refused("--output", "x", "a prompt", status=2)
