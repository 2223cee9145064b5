# SPDX-License-Identifier: MIT
"""Repositories of a hub on 127.0.0.1, and the cache of the hub's own programs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
from gpt2_convert.download import DownloadError, Unreachable
from gpt2_convert.errors import ConvertError, SafetyError
from gpt2_convert.progress import Progress
from gpt2_convert.sources import hub
from scripted_server import ScriptedServer, answer, drop_after, hang_up, redirect

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40
SMALL = {
    "config.json": b'{"model_type": "gpt2"}',
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2\n",
    "README.md": b"# A model\n",
}
WEIGHTS = bytes(range(256)) * 200


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name: str, content: bytes, large: bool) -> dict[str, Any]:
    """As in the API's answer. The blobId of a large file is that of its pointer in git."""
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if large:
        entry["blobId"] = git_sha1(b"pointer")
        entry["lfs"] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 134,
        }
    return entry


class Hub:
    """A hub with one repository, org/name, and a user with a cache."""

    def __init__(self, server: ScriptedServer, directory: Path) -> None:
        self.server = server
        self.home = directory / "home"
        self.environment = {"HF_HOME": str(self.home), "HF_ENDPOINT": server.url}
        self.folder = self.home / "hub" / "models--org--name"
        self.sleeps: list[float] = []
        self.notes: list[str] = []
        self.files: dict[str, bytes] = {}
        self.publish({**SMALL, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"other"})

    def publish(
        self,
        files: dict[str, bytes],
        commit: str = COMMIT,
        repository: str = "org/name",
        revision: str = "main",
    ) -> dict[str, Any]:
        for name, content in files.items():
            self.server.files[f"/{repository}/resolve/{commit}/{name}"] = content
        listing = {
            "id": repository,
            "sha": commit,
            "siblings": [
                sibling(name, files[name], name.endswith((".safetensors", ".bin"))) for name in files
            ],
        }
        self.list(listing, repository, revision)
        return listing

    def list(self, listing: Any, repository: str = "org/name", revision: str = "main") -> None:
        content = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
        self.server.files[f"/api/models/{repository}/revision/{revision}"] = content

    def fetch(self, text: str = "org/name", revision: str = "main") -> tuple[Path, str]:
        return hub.fetch(
            text,
            revision,
            environment=self.environment,
            progress=functools.partial(Progress, quiet=True),
            sleep=self.sleeps.append,
            note=self.notes.append,
        )

    def refused(self, match: str, text: str = "org/name", revision: str = "main") -> ConvertError:
        with pytest.raises(ConvertError, match=match) as caught:
            self.fetch(text, revision)
        return caught.value

    def fail(self) -> None:
        """From now on no request is answered."""
        for path in list(self.server.files):
            self.server.scripts[path] = [hang_up] * 100

    def downloaded(self) -> list[str]:
        """Names of the files that were asked for."""
        return [path.rsplit("/", 1)[1] for path in self.server.paths() if "/resolve/" in path]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Hub]:
    with contextlib.closing(ScriptedServer()) as server:
        yield Hub(server, tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# Names


@pytest.mark.parametrize(
    "text",
    [
        "gpt2",
        "distilgpt2",
        "openai-community/gpt2-medium",
        "microsoft/DialoGPT-small",
        "cerebras/Cerebras-GPT-1.3B",
        "a/b_c.d",
        "_org/_name",
        "hf://gpt2",
        "hf://org/name@v1",
        "https://huggingface.co/gpt2",
        "https://huggingface.co/org/name/tree/main",
        "https://hf.co/org/name",
        "https://mirror.example/org/name",
    ],
)
def test_is_hub_name(text: str) -> None:
    assert hub.is_hub_name(text, {"HF_ENDPOINT": "https://mirror.example"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "./gpt2",
        "/gpt2",
        "gpt2/",
        "../gpt2",
        "a/b/c",
        "a//b",
        "a..b",
        "a--b",
        "gpt 2",
        "gpt2\n",
        "model.safetensors",
        "models/ckpt.pt",
        "gpt2_124M.bin",
        "-gpt2",
        "C:\\gpt2",
        "x" * 97,
        "https://example.com/org/name",
        "https://huggingface.co.example.com/org/name",
        "ftp://huggingface.co/org/name",
        "https://[",
    ],
)
def test_is_no_hub_name(text: str) -> None:
    assert not hub.is_hub_name(text, {})


@pytest.mark.parametrize(
    "text, repository, revision",
    [
        ("gpt2", "gpt2", "main"),
        ("hf://org/name@v1.0", "org/name", "v1.0"),
        ("https://huggingface.co/gpt2/", "gpt2", "main"),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "main"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name", "refs/pr/1"),
        (f"https://hf.co/org/name/commit/{COMMIT}?x=1#y", "org/name", COMMIT),
        ("https://mirror.example/hf/org/name", "org/name", "main"),
    ],
)
def test_parse(text: str, repository: str, revision: str) -> None:
    reference = hub._parse(text, "main", {"HF_ENDPOINT": "https://mirror.example/hf"})
    assert (reference.repository, reference.revision) == (repository, revision)


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/org/name/blob/main/config.json",
        "https://huggingface.co/",
        "https://example.com/org/name",
        "hf://datasets/org/name",
        "hf://",
        "hf://../x",
    ],
)
def test_other_addresses_are_refused(remote: Hub, text: str) -> None:
    remote.refused("expected NAME or ORGANISATION/NAME", text)
    assert remote.server.requests == []


@pytest.mark.parametrize(
    "revision", ["", "../../x", "a/../b", "/etc", "a b", "a\nb", "-x", ".hidden", "a//b"]
)
def test_revision_that_is_none(remote: Hub, revision: str) -> None:
    remote.refused("expected a branch, a tag or a commit", revision=revision)


def test_two_revisions(remote: Hub) -> None:
    remote.refused('names revision "v1", and --revision "v2"', "hf://org/name@v1", "v2")


# Downloads


def test_download(remote: Hub) -> None:
    directory, revision = remote.fetch()
    assert revision == f"org/name@{COMMIT}"
    assert directory == remote.folder / "snapshots" / COMMIT
    wanted = {name: SMALL[name] for name in SMALL if name != "README.md"}
    assert contents(directory) == {**wanted, "model.safetensors": WEIGHTS}  # not the other format too
    assert remote.sleeps == []


def test_layout_of_the_cache(remote: Hub) -> None:
    """Every name as huggingface_hub has it."""
    directory, _ = remote.fetch()
    assert (remote.folder / "refs" / "main").read_text() == COMMIT
    blobs = remote.folder / "blobs"
    expected = {git_sha1(SMALL[name]) for name in ("config.json", "vocab.json", "merges.txt")}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert {path.name for path in blobs.iterdir()} == {*expected, sha256}
    assert os.readlink(directory / "model.safetensors") == f"../../blobs/{sha256}"


def test_nothing_is_fetched_twice(remote: Hub) -> None:
    remote.fetch()
    remote.server.requests.clear()
    remote.fetch()
    assert len(remote.server.requests) == 1  # what main is now
    files = {**SMALL, "config.json": b"{}", "model.safetensors": WEIGHTS}
    remote.publish(files, OTHER_COMMIT)
    remote.server.requests.clear()
    directory, revision = remote.fetch()
    assert remote.downloaded() == ["config.json"]
    assert revision.endswith(OTHER_COMMIT)
    assert contents(directory)["config.json"] == b"{}"
    assert (remote.folder / "refs" / "main").read_text() == OTHER_COMMIT


def test_commit_needs_no_network_twice(remote: Hub) -> None:
    remote.publish({**SMALL, "model.safetensors": WEIGHTS}, revision=COMMIT)
    first = remote.fetch(revision=COMMIT)
    remote.server.requests.clear()
    assert remote.fetch(revision=COMMIT) == first
    assert remote.server.requests == []


def test_resumes_in_another_run(remote: Hub) -> None:
    path = f"/org/name/resolve/{COMMIT}/model.safetensors"
    remote.server.scripts[path] = [drop_after(40_000)] + [hang_up] * 5
    remote.refused("tried 6 times")
    assert not (remote.folder / "refs").exists()
    remote.server.bytes_served = 0
    directory, _ = remote.fetch()
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    listing = len(remote.server.files["/api/models/org/name/revision/main"])
    assert remote.server.bytes_served == listing + len(WEIGHTS) - 40_000


def test_sharded(remote: Hub) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"%d" % i * 100 for i in (1, 2)}
    index = {"metadata": {}, "weight_map": {"a": [*shards][0], "b": [*shards][1], "c": [*shards][0]}}
    files = {**SMALL, **shards, "model.safetensors.index.json": json.dumps(index).encode()}
    remote.publish({**files, "pytorch_model.bin": b"other", "model-extra.safetensors": b"not named"})
    directory, _ = remote.fetch()
    del files["README.md"]
    assert contents(directory) == files


def test_pytorch_and_tokenizer_json(remote: Hub) -> None:
    files = {
        "config.json": b"{}",
        "pytorch_model.bin": b"weights",
        "tokenizer.json": b"{}",
        "generation_config.json": b"{}",
    }
    remote.publish({**files, "tf_model.h5": b"other", "onnx/model.onnx": b"other"})
    assert contents(remote.fetch()[0]) == files
    sharded = {
        "config.json": b"{}",
        "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin"}}',
        "pytorch_model-1.bin": b"weights",
    }
    remote.publish(sharded, OTHER_COMMIT)
    assert contents(remote.fetch()[0]) == sharded


@pytest.mark.parametrize(
    "files, match",
    [
        ({}, 'expected a file "config.json", found none'),
        (
            {"config.json": b"{}", "tf_model.h5": b"", "flax_model.msgpack": b""},
            'expected weights in .*, found "flax_model.msgpack", "tf_model.h5"',
        ),
        ({"config.json": b"{}"}, "expected weights in .*, found none"),
    ],
)
def test_repository_without_a_model(remote: Hub, files: dict[str, bytes], match: str) -> None:
    remote.publish(files)
    remote.refused(match)


def test_former_name(remote: Hub) -> None:
    """In the folder of the name that was given: there transformers looks for it."""
    remote.publish({**SMALL, "model.safetensors": WEIGHTS}, repository="openai-community/gpt2")
    directory, revision = remote.fetch("gpt2")
    assert directory.parents[1].name == "models--gpt2"
    assert revision == f"openai-community/gpt2@{COMMIT}"
    remote.server.requests.clear()
    assert remote.fetch("openai-community/gpt2") == (directory, revision)
    assert remote.downloaded() == []
    remote.environment["HF_HUB_OFFLINE"] = "1"
    assert remote.fetch("openai-community/gpt2") == (directory, revision)


def test_repository_that_was_renamed(remote: Hub) -> None:
    moved = "/api/models/new/name/revision/main"
    remote.server.files[moved] = remote.server.files["/api/models/org/name/revision/main"]
    remote.server.scripts["/api/models/org/name/revision/main"] = [redirect(moved + "?blobs=true", 307)]
    assert remote.fetch()[1] == f"org/name@{COMMIT}"


def test_revision_with_a_slash(remote: Hub) -> None:
    remote.publish({**SMALL, "model.safetensors": WEIGHTS}, revision="refs%2Fpr%2F1")
    remote.fetch(revision="refs/pr/1")
    assert (remote.folder / "refs" / "refs" / "pr" / "1").read_text() == COMMIT


# The environment


def test_places_of_the_cache(remote: Hub, tmp_path: Path) -> None:
    remote.environment["HF_HUB_CACHE"] = str(tmp_path / "elsewhere")
    assert remote.fetch()[0].is_relative_to(tmp_path / "elsewhere" / "models--org--name")
    settings = hub._settings({"XDG_CACHE_HOME": "/xdg"})
    assert settings.cache == Path("/xdg/huggingface/hub")
    assert settings.endpoint == "https://huggingface.co" and not settings.offline
    assert hub._settings({}).cache == Path("~/.cache/huggingface/hub").expanduser()


@pytest.mark.parametrize("file", [False, True])
def test_token(remote: Hub, file: bool) -> None:
    if file:
        remote.home.mkdir()
        (remote.home / "token").write_text("hf_secret\n")
    else:
        remote.environment["HF_TOKEN"] = "hf_secret"
    remote.fetch()
    assert {headers["Authorization"] for _, headers in remote.server.requests} == {"Bearer hf_secret"}


def test_token_stays_with_the_hub(remote: Hub) -> None:
    remote.environment["HF_TOKEN"] = "hf_secret"
    with contextlib.closing(ScriptedServer()) as store:
        store.files["/blob"] = WEIGHTS
        path = f"/org/name/resolve/{COMMIT}/model.safetensors"
        remote.server.scripts[path] = [redirect(store.url + "/blob?key=1")]
        remote.fetch()
        assert [headers["Authorization"] for _, headers in store.requests] == [None]


@pytest.mark.parametrize("endpoint", ["http://[", "mirror", "ftp://mirror", "https://a b"])
def test_wrong_endpoint(remote: Hub, endpoint: str) -> None:
    remote.environment["HF_ENDPOINT"] = endpoint
    remote.refused("(begins with https|not a valid address)")


# Offline


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no answer", "status"])
def test_cache_offline(remote: Hub, how: str) -> None:
    first = remote.fetch()
    remote.server.requests.clear()
    if how == "no answer":
        remote.fail()
    elif how == "status":
        remote.server.scripts["/api/models/org/name/revision/main"] = [answer(503)] * 10
    else:
        remote.environment[how] = "1"
    assert remote.fetch() == first
    assert len(remote.server.requests) == (0 if "OFFLINE" in how else 2)
    assert len(remote.notes) == (0 if "OFFLINE" in how else 1)


def test_cache_made_by_huggingface_hub(remote: Hub) -> None:
    """Written here as its documentation has it; also with copies, as on Windows."""
    snapshot = remote.folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (remote.folder / "blobs").mkdir()
    (remote.folder / "refs").mkdir()
    (remote.folder / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "vocab.json", "merges.txt"):
        (remote.folder / "blobs" / git_sha1(SMALL[name])).write_bytes(SMALL[name])
        (snapshot / name).symlink_to(f"../../blobs/{git_sha1(SMALL[name])}")
    (snapshot / "model.safetensors").write_bytes(WEIGHTS)
    assert remote.fetch()[0] == snapshot
    assert remote.downloaded() == []
    remote.environment["HF_HUB_OFFLINE"] = "1"
    assert remote.fetch()[0] == snapshot


@pytest.mark.parametrize("missing", ["config.json", "vocab.json", "model.safetensors", "refs"])
def test_incomplete_cache_offline(remote: Hub, missing: str) -> None:
    directory, _ = remote.fetch()
    if missing == "refs":
        shutil.rmtree(remote.folder / "refs")
    else:
        (directory / missing).resolve().unlink()  # leaves the link
    remote.environment["HF_HUB_OFFLINE"] = "1"
    remote.refused("HF_HUB_OFFLINE is set, and revision .* is not complete in")
    del remote.environment["HF_HUB_OFFLINE"]
    assert remote.fetch()[0] == directory
    remote.environment["HF_HUB_OFFLINE"] = "1"
    assert remote.fetch()[0] == directory


def test_incomplete_shards_offline(remote: Hub) -> None:
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    files = {"model.safetensors.index.json": index, "model-1.safetensors": b"1", "model-2.safetensors": b"2"}
    remote.publish({**SMALL, **files})
    directory, _ = remote.fetch()
    remote.environment["HF_HUB_OFFLINE"] = "1"
    assert remote.fetch()[0] == directory
    (directory / "model-2.safetensors").unlink()
    remote.refused("not complete")
    (directory / "model.safetensors.index.json").unlink()
    (directory / "model.safetensors.index.json").write_text("{}")
    remote.refused("not complete")


@pytest.mark.parametrize("content", [b"", b"../snapshots/%s" % COMMIT.encode(), b"\xff\xfe", b"main"])
def test_damaged_ref_offline(remote: Hub, content: bytes) -> None:
    remote.fetch()
    (remote.folder / "refs" / "main").write_bytes(content)
    remote.environment["HF_HUB_OFFLINE"] = "1"
    remote.refused("not complete")


def test_unreachable(remote: Hub) -> None:
    remote.fail()
    error = str(remote.refused("tried 6 times"))
    assert "/api/models/org/name/revision/main" in error
    assert f"  {remote.server.url}/org/name/resolve/main/model.safetensors\n" in error
    assert 'into a directory "name" and run\n  tools/convert_weights.py ./name -o name.safetensors' in error


# Refusals of the server


@pytest.mark.parametrize("status", [401, 403])
def test_no_access(remote: Hub, status: int) -> None:
    remote.server.scripts["/api/models/org/name/revision/main"] = [answer(status)] * 2
    error = remote.refused('"org/name", revision "main": no such repository, or a gated .* set HF_TOKEN')
    assert isinstance(error, DownloadError) and error.status == status
    remote.environment["HF_TOKEN"] = "hf_secret"
    error = remote.refused("the token in HF_TOKEN .* is not valid, or")
    assert "hf_secret" not in str(error)


def test_gated_file(remote: Hub) -> None:
    path = f"/org/name/resolve/{COMMIT}/config.json"
    remote.server.scripts[path] = [answer(403, X_Error_Message="Access to model org/name is restricted")]
    remote.refused('(?s)file "config.json": no such repository, or a gated.*org/name is restricted')


def test_not_found(remote: Hub) -> None:
    remote.refused('"org/other", revision "main": not found on http://127', "org/other")
    remote.refused('"org/name", revision "v9": not found', revision="v9")
    del remote.server.files[f"/org/name/resolve/{COMMIT}/vocab.json"]
    remote.refused('"org/name", revision "main", file "vocab.json": not found')


def test_not_found_is_not_offline(remote: Hub) -> None:
    """A repository that was deleted is not taken from the cache in silence."""
    remote.fetch()
    del remote.server.files["/api/models/org/name/revision/main"]
    remote.refused("not found")


def test_too_many_requests(remote: Hub) -> None:
    remote.server.scripts["/api/models/org/name/revision/main"] = [answer(429, Retry_After="3")] * 6
    remote.refused("(?s)more are allowed with an access token in HF_TOKEN.*answered 429")
    assert remote.sleeps == [3] * 5


# Lies of the server


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "a//x", "./x", "", "x\0y", ".."])
def test_path_traversal(remote: Hub, name: str, tmp_path: Path) -> None:
    listing = remote.publish({**SMALL, "model.safetensors": WEIGHTS})
    listing["siblings"].append(sibling(name, b"evil", False))
    remote.list(listing)
    assert isinstance(remote.refused("expected files of the repository"), SafetyError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", ".", "\x1b[2J", "a\\b"])
def test_path_traversal_in_an_index(remote: Hub, name: str, tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    remote.publish({**SMALL, "model.safetensors.index.json": index})
    error = remote.refused("expected files beside it, found")
    assert isinstance(error, SafetyError) and "\x1b" not in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}'])
def test_index_that_is_none(remote: Hub, index: bytes) -> None:
    remote.publish({**SMALL, "model.safetensors.index.json": index})
    remote.refused("model.safetensors.index.json.*: expected")


def test_shard_that_is_missing(remote: Hub) -> None:
    remote.publish({**SMALL, "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}'})
    remote.refused('expected its files in the repository, found no "model-1.safetensors"')


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b"1" * 10_000,
        [],
        {},
        {"sha": COMMIT},
        {"sha": "../..", "siblings": []},
        {"sha": COMMIT.upper(), "siblings": []},
        {"sha": 1, "siblings": []},
        {"sha": COMMIT, "siblings": {}},
        {"sha": COMMIT, "siblings": [1]},
        {"sha": COMMIT, "siblings": [{}]},
        {"sha": COMMIT, "siblings": [{"rfilename": 1}]},
    ],
)
def test_listing_that_is_none(remote: Hub, listing: Any) -> None:
    remote.list(listing)
    remote.refused("expected (JSON|a commit|the name of a file)")
    assert not remote.home.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": "22"},
        {"size": True},
        {"size": None},
        {"blobId": None},
        {"blobId": "../../../x"},
        {"blobId": "a" * 39},
        {"lfs": {"sha256": "x", "size": 1}},
        {"lfs": {"sha256": "../" * 21 + "x", "size": 22}},
    ],
)
def test_file_without_size_or_checksum(remote: Hub, change: dict[str, Any]) -> None:
    listing = remote.publish({**SMALL, "model.safetensors": WEIGHTS})
    listing["siblings"][0].update(change)
    remote.list(listing)
    remote.refused('"org/name": expected a file "config.json"')


def test_size_in_the_listing_differs(remote: Hub) -> None:
    listing = remote.publish({**SMALL, "model.safetensors": WEIGHTS})
    listing["siblings"][-1]["lfs"]["size"] = 10**15
    remote.list(listing)
    remote.refused(f"expected {10**15} bytes, found {len(WEIGHTS)} bytes announced")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_wrong_content(remote: Hub, name: str) -> None:
    path = f"/org/name/resolve/{COMMIT}/{name}"
    right = remote.server.files[path]
    remote.server.files[path] = right[::-1]
    remote.refused(f"{name}.*: (git sha1|sha256): expected .*, found .*deleted")
    remote.server.files[path] = right
    assert (remote.fetch()[0] / name).read_bytes() == right


def test_blob_with_another_size_is_fetched_again(remote: Hub) -> None:
    directory, _ = remote.fetch()
    blob = (directory / "model.safetensors").resolve()
    blob.write_bytes(b"short")
    assert contents(remote.fetch()[0])["model.safetensors"] == WEIGHTS


# The disk


@pytest.mark.parametrize("hard_links", [True, False])
def test_without_symbolic_links(remote: Hub, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    directory, _ = remote.fetch()
    assert not (directory / "model.safetensors").is_symlink()
    assert (directory / "model.safetensors").stat().st_nlink == (2 if hard_links else 1)
    assert contents(directory)["model.safetensors"] == WEIGHTS
    assert len(contents(directory)) == 4


def test_cache_that_cannot_be_written(remote: Hub) -> None:
    remote.home.write_bytes(b"a file")
    remote.refused("cannot be written: Not a directory")


def test_unreachable_is_told_from_refused() -> None:
    assert issubclass(Unreachable, DownloadError) and issubclass(DownloadError, ConvertError)
