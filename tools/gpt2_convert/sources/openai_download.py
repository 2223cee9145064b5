# SPDX-License-Identifier: MIT
"""OpenAI's original checkpoints, from where OpenAI publishes them.

The address and the names of the files are those of download_model.py in OpenAI's repository "gpt-2". There
are no checksums beside them: the sizes and, where the server sends it, the MD5 are verified.
"""

from __future__ import annotations

import os
import time
import urllib.parse
from pathlib import Path
from typing import Mapping

from ..download import Downloader, DownloadError, ProgressMaker, Sleep, Unreachable, by_hand, cache_home
from ..errors import ConvertError
from ..progress import Progress

DEFAULT_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"
SIZES = ("124M", "355M", "774M", "1558M")
#: The largest last: what can go wrong goes wrong early. model.ckpt.meta, the graph, is not needed.
FILES = (
    "hparams.json",
    "encoder.json",
    "vocab.bpe",
    "checkpoint",
    "model.ckpt.index",
    "model.ckpt.data-00000-of-00001",
)


def fetch(
    size: str,
    *,
    base_url: str | None = None,
    environment: Mapping[str, str] = os.environ,
    progress: ProgressMaker = Progress,
    sleep: Sleep = time.sleep,
) -> Path:
    """A directory with the checkpoint, in the cache; files that are there are not fetched again."""
    if size not in SIZES:
        raise ConvertError(f'--download: expected one of {", ".join(SIZES)}, found "{size}"')
    base = (base_url or environment.get("GPT2_DOWNLOAD_URL") or DEFAULT_URL).rstrip("/")
    directory = cache_home(environment) / "gpt2-models" / size
    try:
        host = urllib.parse.urlsplit(base).hostname or ""
    except ValueError as error:
        raise ConvertError(f'"{base}": not a valid address: {error}') from error
    # Plain HTTP is for a mirror that was asked for.
    hosts = frozenset({host}) if base.startswith("http://") else frozenset[str]()
    downloader = Downloader(progress, sleep=sleep, http_hosts=hosts)
    try:
        for name in FILES:
            if not (directory / name).is_file():
                downloader.fetch(f"{base}/{size}/{name}", directory / name, size=None, sha256=None)
    except Unreachable as error:
        raise Unreachable(f"{error}\n{_by_hand(base, size)}", error.status) from error
    except DownloadError as error:
        if error.status is None:
            raise
        raise DownloadError(f"{error}\nGPT2_DOWNLOAD_URL names another place", error.status) from error
    return directory


def _by_hand(base: str, size: str) -> str:
    return by_hand([f"{base}/{size}/{name}" for name in FILES], size)
