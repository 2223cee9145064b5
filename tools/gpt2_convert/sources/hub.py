# SPDX-License-Identifier: MIT
"""Models from the Hugging Face hub, through the cache that its own programs use.

The layout of the cache is that of the "Hub Local Cache" page of the hub's documentation:
models--ORGANISATION--NAME/{blobs/CHECKSUM, refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/CHECKSUM}; the
name of a blob is its SHA-256 (large files) or git's SHA-1 (small ones). The answers of the API are those of
GET /api/models/REPOSITORY/revision/REVISION?blobs=true.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from ..download import (
    Downloader,
    DownloadError,
    ProgressMaker,
    Sleep,
    Unreachable,
    by_hand,
    cache_home,
    printable,
    writing,
)
from ..errors import ConvertError, SafetyError
from ..progress import Progress

DEFAULT_ENDPOINT = "https://huggingface.co"
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
MOST_BYTES_OF_JSON = 64 << 20

#: Names from before repositories had organisations, under which files may be in a cache.
FORMER_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}

INDEX_SUFFIX = ".index.json"
#: The first of these that is there is taken.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OTHER_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".gguf", ".onnx", ".pt", ".pth", ".ckpt")

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}(?:/{_NAME})?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FILE_ENDINGS = (*OTHER_WEIGHTS, ".json", ".txt", ".index", ".npz", ".pickle", ".pkl", ".zip")


@dataclass(frozen=True)
class _Reference:
    repository: str  #: as the user wrote it: the name of its folder in the cache
    revision: str

    @property
    def current(self) -> str:
        return FORMER_NAMES.get(self.repository, self.repository)

    @property
    def names(self) -> list[str]:
        """All under which it may be in a cache."""
        former = [old for old, new in FORMER_NAMES.items() if new == self.current]
        return list(dict.fromkeys([self.repository, self.current, *former]))


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def blob(self) -> str:
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class _Settings:
    """What the environment says, as the hub's own programs understand it."""

    endpoint: str
    cache: Path
    token: str | None
    offline: bool

    @property
    def host(self) -> str:
        try:
            return urllib.parse.urlsplit(self.endpoint).hostname or ""
        except ValueError:
            return ""


def is_hub_name(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether text can mean a repository. It can mean a path as well: one that exists comes first."""
    if text.startswith("hf://"):
        return True
    if "://" in text:
        return _is_hub_address(text, environment)
    return _is_repository(text) and not text.lower().endswith(_FILE_ENDINGS)


def fetch(
    text: str,
    revision: str = "main",
    *,
    environment: Mapping[str, str] = os.environ,
    progress: ProgressMaker = Progress,
    sleep: Sleep = time.sleep,
    note: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> tuple[Path, str]:
    """A directory with the files of a model, and "repository@commit".

    The files are in the cache afterwards; those that were there are not fetched again.
    """
    settings = _settings(environment)
    reference = _parse(text, revision, environment)
    cached = _cached_commit(settings, reference)
    if settings.offline:
        if cached is None:
            raise ConvertError(
                f'"{reference.repository}": HF_HUB_OFFLINE is set, and revision "{reference.revision}" is '
                f'not complete in "{settings.cache}".\n{_by_hand(settings, reference)}'
            )
        return cached
    if cached is not None and _COMMIT.fullmatch(reference.revision):
        return cached  # a commit never changes
    hosts = frozenset({settings.host}) if settings.endpoint.startswith("http://") else frozenset[str]()
    downloader = Downloader(progress, sleep=sleep, token=settings.token, http_hosts=hosts)
    hub = _Hub(settings, reference, downloader)
    try:
        commit, files = hub.listing(retries=downloader.retries if cached is None else 1)
    except Unreachable as error:
        if cached is None:
            raise
        note(f'{error}\nTaking revision "{reference.revision}" as it was when it was downloaded last.')
        return cached
    return hub.snapshot(commit, files), f"{reference.current}@{commit}"


class _Hub:
    """One repository on the hub."""

    def __init__(self, settings: _Settings, reference: _Reference, downloader: Downloader) -> None:
        self._settings = settings
        self._reference = reference
        self._downloader = downloader

    def listing(self, retries: int) -> tuple[str, dict[str, _File]]:
        """The commit that the revision is now, and its files."""
        reference = self._reference
        revision = urllib.parse.quote(reference.revision, safe="")
        url = f"{self._settings.endpoint}/api/models/{reference.current}/revision/{revision}?blobs=true"
        with self._explained(""):
            answer = self._downloader.get(url, limit=MOST_BYTES_OF_JSON, retries=retries)
        return _parse_listing(_json(answer, url), url)

    def snapshot(self, commit: str, files: dict[str, _File]) -> Path:
        """The directory with what is needed of a commit."""
        folder = self._choose_folder(commit)
        directory = folder / "snapshots" / commit
        if "config.json" not in files:
            raise ConvertError(f'"{self._reference.repository}": expected a file "config.json", found none')
        weights = _choose_weights(files, self._reference.repository)
        generation = [name for name in ("generation_config.json",) if name in files]
        for name in ["config.json", *generation, *_choose_tokenizer(files), weights]:
            self._provide(folder, commit, files[name])
        for shard in _shards(directory / weights) if weights.endswith(INDEX_SUFFIX) else []:
            if shard not in files:
                raise ConvertError(f'"{weights}": expected its files in the repository, found no "{shard}"')
            self._provide(folder, commit, files[shard])
        self._remember(folder, commit)
        return directory

    def _choose_folder(self, commit: str) -> Path:
        """Where the commit is, if it is there under any name."""
        folders = [_folder(self._settings, name) for name in self._reference.names]
        return next((each for each in folders if (each / "snapshots" / commit).is_dir()), folders[0])

    def _provide(self, folder: Path, commit: str, file: _File) -> None:
        """Makes snapshots/COMMIT/FILE be there."""
        pointer = folder / "snapshots" / commit / file.name
        if _has_size(pointer, file.size):
            return
        blob = folder / "blobs" / file.blob
        if not _has_size(blob, file.size):
            name = urllib.parse.quote(file.name)
            url = f"{self._settings.endpoint}/{self._reference.current}/resolve/{commit}/{name}"
            with self._explained(file.name):
                self._downloader.fetch(
                    url, blob, size=file.size, sha256=file.sha256, git_sha1=file.git_sha1, label=file.name
                )
        with writing(pointer):
            pointer.parent.mkdir(parents=True, exist_ok=True)
            _link(blob, pointer)

    def _remember(self, folder: Path, commit: str) -> None:
        """That the revision was this commit; only now, so that offline a revision is complete."""
        revision = self._reference.revision
        if revision == commit:
            return
        path = folder / "refs" / revision
        with writing(path):
            if not path.exists() or path.read_text(encoding="utf-8") != commit:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(commit, encoding="utf-8")

    @contextmanager
    def _explained(self, file: str) -> Iterator[None]:
        """Says what an answer of the server means for the user."""
        reference = self._reference
        what = f'"{reference.repository}", revision "{reference.revision}"'
        what += f', file "{file}"' if file else ""
        try:
            yield
        except Unreachable as error:
            raise Unreachable(f"{error}\n{_by_hand(self._settings, reference)}", error.status) from error
        except DownloadError as error:
            if error.status in (401, 403):
                meaning = f"{what}: {self._access_advice()}"
            elif error.status == 404:
                meaning = f"{what}: not found on {self._settings.endpoint}"
            elif error.status == 429 and self._settings.token is None:
                meaning = f"{what}: too many downloads; more are allowed with an access token in HF_TOKEN"
            else:
                raise
            raise DownloadError(f"{meaning}\n{error}", error.status) from error

    def _access_advice(self) -> str:
        if self._settings.token is None:
            return (
                "no such repository, or a gated or private one: for those, set HF_TOKEN to an access token "
                "of an account that may read it"
            )
        return (
            "access refused: the token in HF_TOKEN (or in the hub's token file) is not valid, or the "
            "repository is gated or private and the account has not been granted access on its page"
        )


def _settings(environment: Mapping[str, str]) -> _Settings:
    def path(value: str) -> Path:
        return Path(os.path.expandvars(value)).expanduser()

    home = path(environment.get("HF_HOME") or str(cache_home(environment) / "huggingface"))
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    token = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        try:
            token = path(environment.get("HF_TOKEN_PATH") or str(home / "token")).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            token = ""
    offline = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
    return _Settings(
        endpoint=(environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
        cache=path(cache) if cache else home / "hub",
        token=token.strip() or None,
        offline=offline.upper() in ("1", "ON", "YES", "TRUE"),
    )


def _is_repository(text: str) -> bool:
    return bool(_REPOSITORY.fullmatch(text)) and "--" not in text and ".." not in text


def _is_hub_address(text: str, environment: Mapping[str, str]) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.hostname in HUB_HOSTS | {_settings(environment).host}


def _parse(text: str, revision: str, environment: Mapping[str, str]) -> _Reference:
    """From NAME, ORGANISATION/NAME, hf://NAME[@REVISION] or the address of a repository's page."""
    name, found = text, ""
    if text.startswith("hf://"):
        name, _, found = text[len("hf://") :].partition("@")
    elif "://" in text:
        name, found = _parse_address(text, environment)
    if not _is_repository(name):
        raise ConvertError(
            f'"{text}": expected NAME or ORGANISATION/NAME on the Hugging Face hub, '
            f"{DEFAULT_ENDPOINT}/ORGANISATION/NAME[/tree/REVISION] or hf://ORGANISATION/NAME[@REVISION]"
        )
    if found and revision not in ("main", found):
        raise ConvertError(f'"{text}": names revision "{found}", and --revision "{revision}"')
    found = found or revision
    if not _REVISION.fullmatch(found) or ".." in found:
        raise ConvertError(f'revision: expected a branch, a tag or a commit, found "{found}"')
    return _Reference(name, found)


def _parse_address(text: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Repository and revision; an empty repository if the address is of something else."""
    if not _is_hub_address(text, environment):
        return "", ""
    path = urllib.parse.urlsplit(text).path
    base = urllib.parse.urlsplit(_settings(environment).endpoint).path
    if base and path.startswith(base + "/"):  # a mirror in a folder of its server
        path = path[len(base) :]
    steps = [urllib.parse.unquote(step) for step in path.strip("/").split("/")]
    for verb in ("tree", "commit"):
        if verb in steps[1:3]:
            at = steps.index(verb, 1)
            return "/".join(steps[:at]), "/".join(steps[at + 1 :])
    return "/".join(steps), ""


def _folder(settings: _Settings, repository: str) -> Path:
    return settings.cache / "--".join(["models", *repository.split("/")])


def _cached_commit(settings: _Settings, reference: _Reference) -> tuple[Path, str] | None:
    """What fetch() returns, if the cache has all of it."""
    for name in reference.names:
        folder = _folder(settings, name)
        commit = reference.revision
        if not _COMMIT.fullmatch(commit):
            try:
                commit = (folder / "refs" / reference.revision).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                continue
        directory = folder / "snapshots" / commit
        if _COMMIT.fullmatch(commit) and _is_complete(directory):
            return directory, f"{reference.current}@{commit}"
    return None


def _is_complete(directory: Path) -> bool:
    """As far as can be told without the list of the hub's files."""

    def has(name: str) -> bool:
        return (directory / name).is_file()

    weights = next((name for name in WEIGHTS if has(name)), None)
    if not has("config.json") or weights is None:
        return False
    if not (has("tokenizer.json") or (has("vocab.json") and has("merges.txt"))):
        return False
    try:
        return not weights.endswith(INDEX_SUFFIX) or all(has(shard) for shard in _shards(directory / weights))
    except ConvertError:
        return False


def _parse_listing(answer: Any, url: str) -> tuple[str, dict[str, _File]]:
    """The commit and its files, with nothing believed that is used in a path."""
    commit = answer.get("sha") if isinstance(answer, dict) else None
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise ConvertError(f'"{url}": expected a commit ("sha") and files ("siblings"), found something else')
    files = {}
    for entry in siblings:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise ConvertError(f'"{url}": expected the name of a file ("rfilename"), found something else')
        _check_name(name, url)
        if "/" not in name:
            files[name] = _file(name, entry)
    return commit, {name: file for name, file in files.items() if file is not None}


def _check_name(name: str, url: str) -> None:
    if "\\" in name or "\0" in name or any(step in ("", ".", "..") for step in name.split("/")):
        raise SafetyError(f'"{url}": expected files of the repository, found "{printable(name)}"')


def _file(name: str, entry: dict[str, Any]) -> _File | None:
    """None without a size and a checksum: such a file cannot be taken."""
    large = entry.get("lfs")
    if isinstance(large, dict):
        size, checksum, length = large.get("size", entry.get("size")), large.get("sha256"), 64
    else:
        size, checksum, length = entry.get("size"), entry.get("blobId"), 40
    if type(size) is not int or size < 0 or not isinstance(checksum, str):
        return None
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", checksum):
        return None
    return _File(name, size, checksum, None) if length == 64 else _File(name, size, None, checksum)


def _choose_weights(files: Mapping[str, _File], repository: str) -> str:
    for name in WEIGHTS:
        if name in files:
            return name
    others = sorted(name for name in files if name.endswith(OTHER_WEIGHTS))[:8]
    found = ", ".join(f'"{printable(name)}"' for name in others) or "none"
    raise ConvertError(f'"{repository}": expected weights in "{WEIGHTS[0]}" or "{WEIGHTS[2]}", found {found}')


def _choose_tokenizer(files: Mapping[str, _File]) -> list[str]:
    if "vocab.json" in files and "merges.txt" in files:
        return ["vocab.json", "merges.txt"]
    return [name for name in ("tokenizer.json",) if name in files]


def _shards(index: Path) -> list[str]:
    """The files that an index of sharded weights names."""
    try:
        content = index.read_bytes()
    except OSError as error:
        raise ConvertError(f'"{index}": cannot be read: {error.strerror}') from error
    table = _json(content, str(index))
    names = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ConvertError(f'"{index}": expected "weight_map" with the file of each tensor, found none')
    shards = sorted(set(names.values()))
    for name in shards:
        if not _SHARD.fullmatch(name):
            raise SafetyError(f'"{index}": expected files beside it, found "{printable(name)}"')
    return shards


def _json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = printable(str(error))
        raise ConvertError(f'"{where}": expected JSON, found something else ({reason})') from error


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _link(blob: Path, pointer: Path) -> None:
    """A symbolic link, relative so that the cache can be moved; else a hard link, or a copy."""
    temporary = pointer.with_name(f"{pointer.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        try:
            os.link(blob, temporary)
        except OSError:
            shutil.copyfile(blob, temporary)
    os.replace(temporary, pointer)


def _by_hand(settings: _Settings, reference: _Reference) -> str:
    base = f"{settings.endpoint}/{reference.current}/resolve/{reference.revision}"
    files = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
    return by_hand([f"{base}/{name}" for name in files], reference.repository.split("/")[-1])
