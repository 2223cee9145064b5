# SPDX-License-Identifier: MIT
"""A model without the tokens that a kind of text never uses: fewer rows of embeddings and head.

Which merges may go? Byte-pair encoding begins with bytes, and as long as it can, it takes of all neighbours
that merge the pair of the lowest rank, and merges it wherever it stands. Tokens never come apart again, so
every merge on the way makes a node of the tree under one of the tokens that a piece of text ends as. Let K
be the tokens that stay, all bytes among them, and closed in this sense: for a product in K, both parts of
every merge that makes it are in K. Let the merges that stay be those whose product is in K, in their old
order. Then:

  A piece that ends as tokens of K with all merges ends as the same tokens with those that stay.

First, each merge that is done there stays: the root of each tree is in K; and where a product is in K, so
are the parts of the merge that made it, and so all nodes below. Now run both side by side. They begin with
the same bytes. Wherever they hold the same tokens, the first takes the lowest rank of all pairs there, and
that is the rank of a merge that stays. The second has fewer pairs to choose from, this one among them: it
is the lowest there too, and stands in the same places. So both do the same, and hold the same tokens again.
In the end there is no pair that merges for the first, and so none for the second.

A piece that does not end as tokens of K ends as others, without a loss: every byte is in K, and a product
has the bytes of its parts. Where pieces begin and end does not depend on the vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable, Sequence

from . import text_tokens
from .checkpoint import Checkpoint, is_embedding
from .errors import ConvertError
from .messages import quoted
from .ranges import of_ranges, ranges
from .tokenizer_tables import TokenizerTables, spell

PURPOSE = "a text to take the vocabulary from"


def used_by(texts: Sequence[Path], tokenizer: TokenizerTables, least: int = 1) -> list[int]:
    """The tokens that occur in text files, all together so many times."""
    counts: Counter[int] = Counter()
    for path in texts:
        found = text_tokens.count(text_tokens.read(path, PURPOSE), tokenizer)
        if not found:
            raise ConvertError(f'"{path}": expected {PURPOSE}, found an empty file')
        counts += found
    return sorted(token for token, count in counts.items() if count >= least)


def closed(tokens: Iterable[int], tokenizer: TokenizerTables) -> list[int]:
    """These tokens, all single bytes and special tokens, and what merges make them of; ascending."""
    makers: dict[int, list[tuple[int, int]]] = {}
    for pair, rank in tokenizer.ranks.items():
        makers.setdefault(tokenizer.products[rank], []).append(pair)
    kept = {*tokens, *tokenizer.byte_tokens}
    kept.update(index for index, special in enumerate(tokenizer.is_special) if special)
    unseen = list(kept)
    while unseen:
        parts = {part for pair in makers.get(unseen.pop(), ()) for part in pair} - kept
        kept |= parts
        unseen += parts
    return sorted(kept)


def trimmed(
    model: Checkpoint, tokenizer: TokenizerTables, tokens: Iterable[int]
) -> tuple[Checkpoint, TokenizerTables]:
    """The model and its tokenizer with these tokens, and those that the configuration names, closed().

    They keep their order.
    """
    named = _named(model)
    ids = closed([*tokens, *(token for token in named.values() if token is not None)], tokenizer)
    new = {old: index for index, old in enumerate(ids)}
    renamed = {key: None if token is None else new[token] for key, token in named.items()}
    vocab_json, merges_txt = _files(tokenizer, new)
    config = replace(
        model.config,
        vocab_size=len(ids),
        bos_token_id=renamed["bos_token_id"],
        eos_token_id=renamed["eos_token_id"],
    )
    source = replace(
        model.source,
        config={**model.source.config, **renamed, "vocab_size": len(ids)},
        vocab_json=vocab_json,
        merges_txt=merges_txt,
        original_ids=ranges(_original(model, ids)),
    )
    tensors = {
        name: tensor.rows(ids) if is_embedding(name) else tensor for name, tensor in model.tensors.items()
    }
    return (
        Checkpoint(source, config, tensors),
        TokenizerTables(vocab_json, merges_txt, model.source.config_name),
    )


def _named(model: Checkpoint) -> dict[str, int | None]:
    """The tokens that a configuration names, by key: None where they are none of the vocabulary."""
    others = {key: _token(model, value) for key, value in model.source.config.items() if _is_token(key)}
    return {**others, "bos_token_id": model.config.bos_token_id, "eos_token_id": model.config.eos_token_id}


def _is_token(key: str) -> bool:
    return key.endswith("_token_id")


def _token(model: Checkpoint, value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < model.config.vocab_size else None


def _files(tokenizer: TokenizerTables, new: dict[int, int]) -> tuple[bytes, bytes]:
    """vocab.json and merges.txt. new: the new ids by the old ones."""
    vocabulary = {spelling: new[old] for old, spelling in enumerate(tokenizer.spellings) if old in new}
    merges = (
        f"{spell(left)} {spell(right)}"
        for (left, right), product in zip(tokenizer.merges, tokenizer.products)
        if product in new
    )
    return (
        json.dumps(vocabulary, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        "\n".join(["#version: 0.2", *merges, ""]).encode("utf-8"),
    )


# The ids that tokens had.


def _original(model: Checkpoint, ids: list[int]) -> list[int]:
    """Through as many trimmings as there were."""
    if not model.source.original_ids:
        return ids
    before = of_ranges(model.source.original_ids)
    if before is None or len(before) != model.config.vocab_size:
        raise ConvertError(
            f'"{model.source.config_name}": the original ids: expected {model.config.vocab_size} ids, '
            f'written as "0-255,300", found {quoted(model.source.original_ids)}'
        )
    return [before[index] for index in ids]
