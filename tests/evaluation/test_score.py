# SPDX-License-Identifier: MIT
"""gpt2-eval score: the numbers, that no byte is lost, and that the three outputs say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest

from support import HELDOUT, MODEL, PROGRAM, Reference, fails, found, load, needs_program, run

pytestmark = needs_program

N = 300
# Characters of one to four bytes, most of them several tokens; markup; line ends of all kinds.
AWKWARD = 'A <b>&amp; "c"</b>\r\n\tĀé € 日本語 😀👍🏽 \u2028\x85\x1b[0m\x7f\\x41 \\n\n\n  end\r'
EVERY_BYTE = bytes(range(256)) + bytes(range(255, -1, -1)) + b"\xe2\x82\xe2\x82 \xf0\x9f\x98"


def score(text: Path, output: Path, *options: object) -> str:
    assert run("score", MODEL, text, "-o", output, *options) == ""
    assert [path for path in output.parent.iterdir() if path.suffix == ".part"] == []
    return output.read_bytes().decode("utf-8")


def unescaped(token: str) -> bytes:
    """As docs/evaluation.md says."""
    named = {"\\\\": b"\\", "\\t": b"\t", "\\n": b"\n", "\\r": b"\r"}
    out = b""
    for part in re.findall(r"\\x[0-9a-f]{2}|\\.|[^\\]", token):
        out += bytes([int(part[2:], 16)]) if part[:2] == "\\x" else named.get(part, part.encode())
    return out


def rows_of(tsv: str) -> list[dict[str, str]]:
    heading, *lines = tsv.split("\n")
    assert lines.pop() == ""
    assert {line.count("\t") for line in lines} == {heading.count("\t")}
    return [dict(zip(heading.split("\t"), line.split("\t"))) for line in lines]


def bytes_of(token: dict[str, Any]) -> bytes:
    assert ("token" in token) != ("bytes" in token)
    return token["token"].encode() if "token" in token else bytes.fromhex(token["bytes"])


class Page(HTMLParser):
    """The boxes of a page: their text, tip and classes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.boxes: list[list[str]] = []
        self.tags: list[str] = []
        self.stray = ""  # text between boxes
        self.feed(html)
        self.close()
        assert self.tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        if tag != "meta":
            self.tags.append(tag)
        if tag == "span" and "main" in self.tags:
            of = dict(attrs)
            self.boxes.append(["", of["title"] or "", of["class"] or ""])

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "main" in self.tags:
            if self.tags[-1] == "span":
                self.boxes[-1][0] += data
            else:
                self.stray += data


def test_it_is_what_numpy_finds(tmp_path: Path) -> None:
    reference = Reference(N)
    options = ("--window", 128, "--stride", 64, "--limit", N, "--weights", "f32")
    tokens = json.loads(score(HELDOUT, tmp_path / "s.json", *options))["tokens"]
    expected = reference.log_probabilities(load(MODEL), 128, 64)
    assert [token["id"] for token in tokens] == reference.tokens[1:].tolist()
    assert [token["index"] for token in tokens] == list(range(N))
    for token, row in zip(tokens, expected):
        p = row[token["id"]]
        assert token["log_probability"] == pytest.approx(p, abs=3e-5)
        assert (row > p + 1e-4).sum() < token["rank"] <= (row >= p - 1e-4).sum()
        assert token["entropy"] == pytest.approx(-(np.exp(row) * row).sum(), abs=1e-4)
        likely = token["most_likely"]
        assert len({each["id"] for each in likely}) == 5
        for each, best in zip(likely, np.sort(row)[::-1]):
            assert each["log_probability"] == pytest.approx(best, abs=3e-5)
            assert each["log_probability"] == pytest.approx(row[each["id"]], abs=3e-5)
        assert (token["rank"] == 1) == (likely[0]["id"] == token["id"])


def test_it_agrees_with_perplexity(tmp_path: Path) -> None:
    options = ("--limit", 700, "--stride", 300)
    result = json.loads(score(HELDOUT, tmp_path / "s.json", *options))
    whole = found("perplexity", MODEL, HELDOUT, *options)
    assert result["scored"] == whole["tokens"] == len(result["tokens"])
    for name in ("nll", "perplexity", "bits_per_byte"):
        assert result[name] == whole[name]
    mean = np.mean([token["log_probability"] for token in result["tokens"]])
    assert -mean == pytest.approx(whole["nll"]["value"], abs=1e-6)
    assert "".join(token["token"] for token in result["tokens"]) == HELDOUT.read_text()[: whole["bytes"]]


@pytest.mark.parametrize("data", [AWKWARD.encode(), EVERY_BYTE, b"\xff", b"\0"], ids=range(4))
def test_every_byte_survives(data: bytes, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(data)
    rows = rows_of(score(text, tmp_path / "s.tsv"))
    assert b"".join(unescaped(row["token"]) for row in rows) == data
    assert all(character.isprintable() for row in rows for character in row["token"])
    tokens = json.loads(score(text, tmp_path / "s.json"))["tokens"]
    assert b"".join(map(bytes_of, tokens)) == data
    assert [data[token["offset"] :][:1] for token in tokens] == [bytes_of(token)[:1] for token in tokens]
    html = score(text, tmp_path / "s.html")
    assert not re.search("&(?!(amp|lt|gt|quot|#13);)", html)
    page = Page(html)
    assert page.stray == ""
    shown = data.decode("utf-8", "replace").replace("\0", "\u2400")
    assert "".join(box[0] for box in page.boxes) == shown


def test_the_outputs_agree(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(AWKWARD.encode() + EVERY_BYTE)
    rows = rows_of(score(text, tmp_path / "s.tsv"))
    tokens = json.loads(score(text, tmp_path / "s.json"))["tokens"]
    tips = "\n".join(box[1] for box in Page(score(text, tmp_path / "s.html")).boxes)
    assert len(rows) == len(tokens) == len(re.findall(r"  token \d+, id \d+, at byte \d+$", tips, re.M))
    for row, token in zip(rows, tokens):
        for name in ("index", "offset", "id", "rank"):
            assert int(row[name]) == token[name]
        assert unescaped(row["token"]) == bytes_of(token)
        top = token["most_likely"][0]
        assert (int(row["top_id"]), unescaped(row["top_token"])) == (top["id"], bytes_of(top))
        assert float(row["log_probability"]) == token["log_probability"]
        assert float(row["entropy"]) == token["entropy"]
        assert float(row["top_log_probability"]) == top["log_probability"]
        bits = -token["log_probability"] / np.log(2)
        heading = f'"{row["token"]}"  token {row["index"]}, id {row["id"]}, at byte {row["offset"]}\n'
        after = tips[tips.index(heading) + len(heading) :]
        probability, surprise, rank = re.match(r"(\S+) %, (\S+) bits, rank (\d+), ", after).groups()
        assert float(probability) == pytest.approx(100 * np.exp(token["log_probability"]), rel=6e-3)
        assert float(surprise) == pytest.approx(bits, abs=6e-3) and int(rank) == token["rank"]
        assert f'\n1. "{row["top_token"]}"  ' in after.split("%\n2.")[0]


def test_boxes_hold_whole_characters_and_are_shaded_by_surprise(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("日本語 and 😀, " * 3)
    page = Page(score(text, tmp_path / "s.html"))
    joined = [box for box in page.boxes if " tokens, together " in box[1]]
    assert len(joined) >= 9 and "\ufffd" not in "".join(box[0] for box in page.boxes)
    for shown, tip, style in page.boxes:
        each = [float(x) for x in re.findall(r" %, (\S+) bits, rank", tip)]
        assert len(each) >= 1 and shown != ""
        count = re.match(r"(\d+) tokens, together (\S+) bits\n\n", tip)
        assert (count is None) == (len(each) == 1)
        if count:
            assert int(count[1]) == len(each) and float(count[2]) == pytest.approx(sum(each), abs=0.02)
        assert min(abs(sum(each) / 2 - k) for k in range(9)) < 0.01 or style[1] == str(
            min(7, int(sum(each) / 2))
        )


def test_a_character_that_breaks_off_keeps_its_box_to_itself(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"The \xe2\x82 king")
    boxes = Page(score(text, tmp_path / "s.html")).boxes
    assert [box[0] for box in boxes if "\ufffd" in box[0]] == ["\ufffd"]
    assert boxes[-1][0] == " king"


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html = score(HELDOUT, tmp_path / "s.html", "--limit", 1500)
    assert not re.search(r"https?:|//|src=|<link|<script|@import|url\(", html.split("<main")[0])
    assert "prefers-color-scheme:dark" in html and "@media print" in html and 'charset="utf-8"' in html
    page = Page(html)
    shown = "".join(box[0] for box in page.boxes)
    assert len(shown) > 4000 and HELDOUT.read_text().startswith(shown)
    assert html.count("<div>") > 2  # blocks that a browser need not lay out at once
    assert {box[2][1] for box in page.boxes} == set("01234567")
    assert all(("\n" in box[0]) == box[2].endswith(" n") for box in page.boxes)
    assert html.count('<span class="s7">less</span>') == 1


def test_threads_and_where_the_text_comes_from_change_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(HELDOUT.read_bytes()[:3000] + b"\n")
    for kind in ("tsv", "html"):
        one, two = (score(text, tmp_path / f"s.{kind}", "--threads", n) for n in (1, 2))
        assert one == two
    assert run("score", MODEL, text, "--format", "tsv") == score(text, tmp_path / "s.tsv")
    done = subprocess.run(
        [PROGRAM, "score", str(MODEL), "-"], input=text.read_bytes(), capture_output=True, check=True
    )
    assert done.stdout == (tmp_path / "s.tsv").read_bytes()


def test_without_a_start_token_the_first_is_shown_and_not_scored(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a king.")
    first, *rest = rows_of(score(text, tmp_path / "s.tsv", "--no-start-token"))
    assert (first["index"], first["token"], first["log_probability"], first["rank"]) == ("0", "Once", "", "")
    assert [row["index"] for row in rest] == [str(i + 1) for i in range(len(rest))]
    assert all(row["log_probability"] for row in rest)
    tokens = json.loads(score(text, tmp_path / "s.json", "--no-start-token"))["tokens"]
    assert tokens[0]["log_probability"] is None and "rank" not in tokens[0]
    page = Page(score(text, tmp_path / "s.html", "--no-start-token"))
    assert "".join(box[0] for box in page.boxes) == text.read_text()
    assert "not scored" in page.boxes[0][1] and page.boxes[0][2] == "s0"


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert "expected tsv, json or html, found xml" in fails(2, "score", MODEL, HELDOUT, "--format", "xml")
    assert "missing.txt" in fails(1, "score", MODEL, tmp_path / "missing.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    output = tmp_path / "s.tsv"
    message = fails(1, "score", MODEL, empty, "-o", output)
    assert f'"{empty}": expected at least one token to score, found none' in message
    assert not output.exists()
    nowhere = tmp_path / "nowhere" / "s.tsv"
    assert f'"{nowhere}": cannot write: ' in fails(1, "score", MODEL, HELDOUT, "--limit", 5, "-o", nowhere)
    assert "--limit is -1" in fails(2, "score", MODEL, HELDOUT, "--limit", -1)
    assert "stride: expected at most 10" in fails(2, "score", MODEL, HELDOUT, "--window", 10, "--stride", 11)
    assert os.listdir(tmp_path) == ["empty.txt"]
