# SPDX-License-Identifier: MIT
"""Engines that can be measured, and the processes that hold them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import install
import models
from workplace import HERE, CompareError, find_program

OURS = "gpt2"
#: llama.cpp's formats, and how many bits of its format a weight has
LLAMA_FORMATS = {"F32": 32, "F16": 16, "Q8_0": 8, "Q4_0": 4, "Q4_K_M": 4}


class EngineError(CompareError):
    pass


@dataclass(frozen=True)
class Engine:
    """One library with one file of weights."""

    library: str
    format: str
    bits: int  #: of a weight, which says with whom it is compared
    command: list[str]
    file_size: int  #: bytes
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.library} {self.format}"

    @property
    def is_ours(self) -> bool:
        return self.library == OURS

    def start(self, *options: str, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **self.environment},
            preexec_fn=before,
        )

    def cold_start(self, prompt: int, *options: str) -> float:
        """Seconds from the start of a process to its first token."""
        start = time.clock_gettime(time.CLOCK_MONOTONIC)
        with self.start("--cold-start", str(prompt), *options) as process:
            text, _ = process.communicate()
        if process.returncode != 0:
            raise EngineError(f"{self.name}: the driver ended with status {process.returncode}")
        return float(json.loads(text)["first_token"]) - start


def die_with_parent() -> None:
    """A stopped process would outlive a runner that is killed. (prctl(PR_SET_PDEATHSIG), Linux)"""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Driver:
    """A process that holds an engine. It is stopped but while it answers, so that threads that spin in wait
    for work take nothing from the engine whose turn it is."""

    def __init__(self, engine: Engine, *options: str) -> None:
        self.engine = engine
        self._process = engine.start(*options, before=die_with_parent)
        self.description = str(self._answer()["description"])
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, *words: object) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
            return self._answer()
        except BrokenPipeError as error:
            raise EngineError(f"{self.engine.name}: the driver has ended") from error
        finally:
            self._signal(signal.SIGSTOP)

    def seconds(self, *words: object) -> float:
        return float(self.ask(*words)["seconds"])

    def memory(self) -> dict[str, float]:
        """Resident bytes: all, and those of no file."""
        sizes = {}
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("VmRSS", "RssAnon"):
                sizes[key] = float(value.split()[0]) * 1024
        return sizes

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"{self.engine.name}: the driver ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{self.engine.name}: {answer['error']}")
        return answer


def bits_of(name: str) -> int:
    """Of a format of ours, by the number in its name."""
    digits = "".join(c for c in name.partition("-")[0] if c.isdigit())
    if digits not in ("32", "16", "8", "4"):
        raise CompareError(
            f'format "{name}": expected a name such as f16 or int4-wide, with 32, 16, 8 or 4 in it'
        )
    return int(digits)


def gpt2_engine(
    model: models.Model, programs: Path, threads: int, name: str, arguments: list[str], kv_dtype: str | None
) -> Engine:
    file = models.gpt2_file(model, name, arguments)
    command = [str(programs / "bench" / "compare" / "compare-gpt2"), "--model", str(file)]
    command += ["--threads", str(threads)] + (["--kv-dtype", kv_dtype] if kv_dtype else [])
    return Engine(OURS, name, bits_of(name), command, file.stat().st_size)


def llama_cpp_program(programs: Path, threads: int, llama: install.LlamaCpp) -> list[str]:
    program = [str(programs / "bench" / "compare" / "compare-llama-cpp"), "--threads", str(threads)]
    return [*program, "--backends", str(llama.libraries)]


def llama_cpp_engine(
    model: models.Model, programs: Path, threads: int, kind: str, llama: install.LlamaCpp
) -> Engine:
    program = llama_cpp_program(programs, threads, llama)
    file = models.gguf_file(model, kind, program)
    # A --positions that follows in a command replaces this one.
    command = [*program, "--model", str(file), "--positions", str(model.config["n_positions"])]
    return Engine("llama.cpp", kind, LLAMA_FORMATS[kind], command, file.stat().st_size)


def onnxruntime_engine(model: models.Model, threads: int) -> Engine:
    file = models.onnx_file(model)
    command = [find_program("node", install.NODE_HINT), str(HERE / "onnxruntime_driver.mjs")]
    command += ["--packages", str(install.PACKAGES), "--model", str(file), "--threads", str(threads)]
    return Engine("ONNX Runtime", "F32", 32, command, weights_size(model))


def pytorch_engine(model: models.Model, threads: int) -> Engine:
    environment = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    blas = install.openblas()
    if blas is not None:
        environment["LD_LIBRARY_PATH"] = f"{blas}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512bw" in flags and "OPENBLAS_CORETYPE" not in os.environ:
        # Newer processors than it knows it takes for older ones without AVX-512.
        environment["OPENBLAS_CORETYPE"] = "SkylakeX"
    command = [sys.executable, str(HERE / "pytorch_driver.py"), "--model", str(model.directory)]
    return Engine(
        "PyTorch", "F32", 32, [*command, "--threads", str(threads)], weights_size(model), environment
    )


def weights_size(model: models.Model) -> int:
    return (model.directory / "model.safetensors").stat().st_size
