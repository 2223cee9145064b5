# SPDX-License-Identifier: MIT
"""Trimmed vocabularies: the same tokens for what is kept, nothing lost for the rest, and the same rows."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sources
import tiny_model
from test_cli import contents, convert, fails, inspect, run  # noqa: F401

from gpt2_convert import checkpoint, cli, forward, safetensors_file, text_tokens, trim_vocabulary
from gpt2_convert.checkpoint import Checkpoint, is_embedding
from gpt2_convert.errors import ConvertError
from gpt2_convert.ranges import of_ranges, ranges
from gpt2_convert.source_model import SourceModel
from gpt2_convert.sources import packed as reader
from gpt2_convert.tensors import Stored
from gpt2_convert.tokenizer_tables import BYTE_CHARACTERS, TokenizerTables, spell

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
NOVELLA = ROOT / "models" / "novella-f16.safetensors"
END = tiny_model.VOCAB_SIZE - 1


def gpt2() -> TokenizerTables:
    directory = DATA / "tokenizer"
    return TokenizerTables(
        (directory / "vocab.json").read_bytes(), (directory / "merges.txt").read_bytes(), "gpt2"
    )


def novella() -> TokenizerTables:
    source = reader.read(NOVELLA)
    assert source.vocab_json is not None and source.merges_txt is not None
    return TokenizerTables(source.vocab_json, source.merges_txt, "novella")


class Trimmed:
    """A tokenizer without weights, before and after."""

    def __init__(self, before: TokenizerTables, tokens: Any) -> None:
        config = tiny_model.config(vocab_size=len(before), bos_token_id=None, eos_token_id=None)
        source = SourceModel("test", config, "test", {}, None, None)
        model = Checkpoint(source, checkpoint.ModelConfig.from_json(config, "test"), {})
        trimmed, self.after = trim_vocabulary.trimmed(model, before, tokens)
        self.before = before
        kept = of_ranges(trimmed.source.original_ids)
        assert kept is not None and len(kept) == len(self.after) == trimmed.config.vocab_size
        self.kept: list[int] = kept
        self.new = {old: new for new, old in enumerate(kept)}

    def check(self, piece: bytes) -> bool:
        """Both tokenizers on a piece of text. Returns whether all of its tokens are kept."""
        expected, found = self.before.encode(piece), self.after.encode(piece)
        assert b"".join(self.after.tokens[token] for token in found) == piece
        if not all(token in self.new for token in expected):
            return False
        assert found == [self.new[token] for token in expected], piece
        return True


# The tokenizer.


@pytest.fixture(scope="module", params=[gpt2, novella])
def by_text(request: Any) -> Trimmed:
    """With the tokens of the first third of the held-out text."""
    before = request.param()
    text = (DATA / "heldout.txt").read_text(encoding="utf-8")
    return Trimmed(before, text_tokens.count(text[: len(text) // 3], before))


def test_a_text_has_the_same_tokens(by_text):
    text = (DATA / "heldout.txt").read_text(encoding="utf-8")
    third = text[: len(text) // 3]
    assert [by_text.new[token] for token in text_tokens.encode(third, by_text.before)] == text_tokens.encode(
        third, by_text.after
    )
    pieces = {piece.encode() for piece in text_tokens.pattern().findall(text)}
    kept = sum(map(by_text.check, pieces))
    assert len(pieces) // 2 < kept < len(pieces)  # so that both happened often


def test_what_kept_tokens_spell_has_the_same_tokens(by_text):
    """Side by side they merge as it comes, within a token and across."""
    draw = random.Random(1)
    tokens = [token for token, special in zip(by_text.after.tokens, by_text.after.is_special) if not special]
    kept = sum(by_text.check(b"".join(draw.choices(tokens, k=draw.randint(1, 6)))) for _ in range(20000))
    assert 1000 < kept < 20000


def test_no_bytes_are_lost(by_text):
    draw = random.Random(2)
    for size in range(200):
        by_text.check(draw.randbytes(size))
    for token in by_text.before.tokens:
        by_text.check(token)


def test_what_stays(by_text):
    before, after = by_text.before, by_text.after
    assert set(before.byte_tokens) <= set(by_text.kept)
    assert [after.tokens[token] for token in range(len(after))] == [
        before.tokens[old] for old in by_text.kept
    ]
    assert [after.is_special[token] for token in range(len(after))] == [
        before.is_special[old] for old in by_text.kept
    ]
    assert sum(after.is_special) == sum(before.is_special) == 1
    products = {before.products[rank] for rank in range(len(before.merges))}
    expected = [pair for pair, product in zip(before.merges, before.products) if product in by_text.new]
    assert after.merges == expected and products > set(by_text.kept) - set(before.byte_tokens) - {
        len(before) - 1
    }


def odd_vocabulary(draw: random.Random) -> TokenizerTables:
    """Merges of a, b and c in any order, several of them with the same product."""
    tokens, merges = ["a", "b", "c"], []
    for _ in range(14):
        pair = (draw.choice(tokens), draw.choice(tokens))
        if len("".join(pair)) <= 5 and pair not in merges:
            merges.append(pair)
            tokens.append("".join(pair))
    draw.shuffle(merges)
    names = [*BYTE_CHARACTERS, *sorted(set(tokens[3:]))]
    vocabulary = {name: index for index, name in enumerate(names)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    return TokenizerTables(json.dumps(vocabulary).encode(), "\n".join(lines).encode(), "odd")


@pytest.mark.parametrize("seed", range(12))
def test_every_short_string_of_odd_vocabularies(seed):
    draw = random.Random(seed)
    before = odd_vocabulary(draw)
    trimmed = Trimmed(before, draw.sample(range(256, len(before)), k=min(3, len(before) - 256)))
    assert len(trimmed.after) <= len(before)
    for size in range(1, 8):
        for letters in itertools.product(b"abc", repeat=size):
            trimmed.check(bytes(letters))


def test_both_ways_to_make_a_token_are_kept():
    names = [*BYTE_CHARACTERS, "ab", "bc", "abc", "cc"]
    vocabulary = json.dumps({name: index for index, name in enumerate(names)}).encode()
    tables = TokenizerTables(vocabulary, b"b c\na b\nab c\na bc\nc c\n", "both")
    assert [spell(tables.tokens[token]) for token in trim_vocabulary.closed([258], tables)[256:]] == [
        "ab",
        "bc",
        "abc",
    ]
    trimmed = Trimmed(tables, [258])
    assert trimmed.check(b"abc") and trimmed.after.merges == tables.merges[:4]


# The model.


def trimmed_model(
    tokens: list[int], values: dict[str, Any] | None = None, **changes: Any
) -> tuple[Checkpoint, Checkpoint, TokenizerTables]:
    config = tiny_model.config(**changes)
    weights = tiny_model.arrays(config, separate_head=not config.get("tie_word_embeddings", True))
    model = tiny_model.checked({**config, **(values or {})}, weights)
    tables = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    return model, *trim_vocabulary.trimmed(model, tables, tokens)


def logits(model: Checkpoint, tokens: list[int]) -> Any:
    def weights(name: str) -> Stored:
        tensor = model.tensors[name]
        return Stored(tensor.read(), tensor.dtype)

    return forward.logits(model.config, model.has_separate_head, tokens, weights).value[0]


@pytest.mark.parametrize("tied", [True, False])
def test_chances_are_those_of_what_is_kept(tied):
    """In proportion: those of the dropped tokens go to all others alike."""
    model, after, _ = trimmed_model([256], tie_word_embeddings=tied)
    kept = [*range(257), END]
    assert after.source.original_ids == f"0-256,{END}"
    before = logits(model, [5, 256, END, 7])
    found = logits(after, [5, 256, 257, 7])
    np.testing.assert_allclose(found, before[kept], rtol=1e-12)
    chances = np.exp(before) / np.exp(before).sum()
    expected = np.log(chances[kept] / chances[kept].sum())
    np.testing.assert_allclose(found - np.log(np.exp(found).sum()), expected, rtol=1e-12)
    assert chances[kept].sum() < 0.999


def test_tokens_of_the_configuration_are_kept():
    values = {"bos_token_id": END, "eos_token_id": [END], "pad_token_id": 256, "sep_token_id": 50257}
    _, after, tables = trimmed_model([], values)
    assert [spell(token) for token in tables.tokens[256:]] == ["th", "<|endoftext|>"]
    assert (after.config.bos_token_id, after.config.eos_token_id, after.config.vocab_size) == (257, 257, 258)
    found = {key: after.source.config[key] for key in (*values, "vocab_size")}
    assert found == {
        "bos_token_id": 257,
        "eos_token_id": 257,
        "pad_token_id": 256,
        "sep_token_id": None,
        "vocab_size": 258,
    }
    _, after, _ = trimmed_model([], {"bos_token_id": None, "eos_token_id": None})
    assert after.config.bos_token_id is None and after.config.eos_token_id is None


def test_rows_without_a_token_go_unless_they_are_named():
    _, after, tables = trimmed_model([], {"eos_token_id": 270}, vocab_size=300)
    assert (len(tables), after.config.vocab_size, after.config.eos_token_id) == (257, 258, 257)
    assert after.source.original_ids == f"0-255,{END},270"
    _, after, _ = trimmed_model([], vocab_size=300)
    assert after.config.vocab_size == 257


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sources.hugging_face(tmp_path / "model")


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "f32"],
        ["--dtype", "f16"],
        ["--dtype", "bf16"],
        ["--dtype", "int8"],
        ["--dtype", "int4"],
        ["--dtype", "int4", "--head-dtype", "int4"],
        ["--dtype", "f16", "--embedding-dtype", "f32"],
    ],
    ids="-".join,
)
def test_rows_are_the_same_in_every_type(tmp_path, model, options):
    """To the last bit, and so is everything else."""
    text = write(tmp_path / "text", "th th")
    whole = reader.read(convert(model, tmp_path / "whole", *options))
    path = convert(model, tmp_path / "out", *options, "--vocabulary-from", text)
    part = reader.read(path)
    assert part.original_ids == f"0-256,{END}" == safetensors_file.read(path)[1]["gpt2.original_ids"]
    assert part.tensors.keys() == whole.tensors.keys()
    for name, tensor in part.tensors.items():
        expected = whole.tensors[name].read()
        expected = expected[[*range(257), END]] if is_embedding(name) else expected
        assert tensor.read().tobytes() == expected.tobytes(), name
    assert (part.config["vocab_size"], part.config["bos_token_id"], part.config["eos_token_id"]) == (
        258,
        257,
        257,
    )
    tokens = safetensors_file.read(path)[0]["self_test.tokens"].load()
    assert tokens.max() < 258


def test_with_calibration(tmp_path, model):
    text = write(tmp_path / "text", "the thing that then gathers is theirs, and there it is. " * 40)
    options = ["--dtype", "int4", "--calibrate", text, "--vocabulary-from", text]
    path = convert(model, tmp_path / "out", *options)
    assert "gpt2.calibration" in safetensors_file.read(path)[1]
    assert reader.read(path).original_ids == f"0-{END}"


def test_several_texts_and_counts(tmp_path, model):
    first, second = write(tmp_path / "first", "th th th"), write(tmp_path / "second", "the the")

    def kept(*options: object) -> str:
        return reader.read(convert(model, tmp_path / "out", "--overwrite", *options)).original_ids

    texts = ["--vocabulary-from", first, "--vocabulary-from", second]
    assert kept(*texts) == f"0-{END}"
    assert kept("--vocabulary-from", first) == f"0-256,{END}"
    assert kept(*texts, "--min-count", 2) == f"0-256,{END}"  # "th" once, " th" is none
    assert kept(*texts, "--min-count", 4) == f"0-255,{END}"
    assert kept("--vocabulary-from", second, "--min-count", 1) == f"0-{END}"


# The original ids.


@pytest.mark.parametrize("numbers", [[], [0], [7], [0, 1, 2], [0, 2], [0, 1, 5, 7, 8, 9, 1048575]])
def test_ranges(numbers):
    text = ranges(numbers)
    assert of_ranges(text) == (numbers or None)


@pytest.mark.parametrize(
    "text", ["0-", "a", "1,1", "2,1", "0-0", "0,1", "1-0", "0-99999999", "0-5,5", " 0", "٣"]
)
def test_texts_that_are_no_ranges(text):
    assert of_ranges(text) is None


def test_the_original_ids_go_through_every_format(tmp_path, model, capsys):
    first, second = write(tmp_path / "first", "the"), write(tmp_path / "second", "th")
    once = convert(model, tmp_path / "once", "--vocabulary-from", first)
    assert reader.read(once).original_ids == f"0-257,{END}"
    directory = convert(once, tmp_path / "hf", "--to", "hf")
    assert json.loads((directory / "config.json").read_text())["original_ids"] == f"0-257,{END}"
    again = convert(directory, tmp_path / "again")
    assert contents(again) == contents(once)
    twice = convert(directory, tmp_path / "twice", "--vocabulary-from", second)
    assert reader.read(twice).original_ids == f"0-256,{END}"
    assert contents(convert(model, tmp_path / "direct", "--vocabulary-from", second)) == contents(twice)
    gguf = convert(model, tmp_path / "gguf", "--to", "gguf", "--vocabulary-from", second).read_bytes()
    assert b"gpt2.original_ids" in gguf and f"0-256,{END}".encode() in gguf
    assert f'original ids "0-256,{END}"' in inspect(capsys, twice)
    assert not any(line.startswith("original ids") for line in inspect(capsys, model))


def test_original_ids_that_are_none(tmp_path, model, fails):  # noqa: F811
    text = write(tmp_path / "text", "th")
    for value, found in (("0-3", '"0-3"'), ("x", '"x"'), (f"0-{END},x", f'"0-{END},x"')):
        config = tiny_model.config(original_ids=value)
        (model / "config.json").write_text(json.dumps(config))
        assert fails(model, "-o", tmp_path / "out", "--vocabulary-from", text) == (
            f'"{model}/config.json": the original ids: expected 260 ids, written as "0-255,300", '
            f"found {found}"
        )
    (model / "config.json").write_text(json.dumps(tiny_model.config(original_ids=3)))
    assert fails(model, "-o", tmp_path / "out").endswith('"original_ids": expected a string, found 3')
    assert not (tmp_path / "out").exists()


# What makes no sense.


def test_texts_that_are_none(tmp_path, model, fails):  # noqa: F811
    out = tmp_path / "out"
    assert fails(model, "-o", out, "--vocabulary-from", tmp_path / "none").endswith(
        "No such file or directory"
    )
    empty = write(tmp_path / "empty", "")
    assert fails(model, "-o", out, "--vocabulary-from", empty) == (
        f'"{empty}": expected a text to take the vocabulary from, found an empty file'
    )
    (tmp_path / "bytes").write_bytes(b"abc\xff")
    assert fails(model, "-o", out, "--vocabulary-from", tmp_path / "bytes") == (
        f'"{tmp_path}/bytes": expected UTF-8, found other bytes at byte 3 '
        "(a text to take the vocabulary from)"
    )
    assert not out.exists()
    with pytest.raises(ConvertError):
        trim_vocabulary.used_by([empty], gpt2())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--vocabulary-from", "x", "--inspect"], "--vocabulary-from: expected no text beside --inspect"),
        (["--min-count", "2"], "--min-count: expected --vocabulary-from beside it, found none"),
        (["--vocabulary-from", "x", "--min-count", "0"], "expected a number of at least 1, found 0"),
        (["--vocabulary-from", "x", "--min-count", "two"], "invalid int value: 'two'"),
    ],
)
def test_options_that_contradict(options, message, capsys):
    """Before anything is looked for."""
    with pytest.raises(SystemExit) as error:
        cli.main(["no/such/model", "-o", "out", *options])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_what_it_says(tmp_path, model, capsys):
    text = write(tmp_path / "text", "th")
    assert cli.main([str(model), "-o", str(tmp_path / "out"), "--vocabulary-from", str(text)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("vocabulary: 258 of 260 tokens\n") and "; 258 tokens; " in out
    assert run(model, "-o", tmp_path / "quiet", "--vocabulary-from", text) == 0
    assert capsys.readouterr().out == ""
