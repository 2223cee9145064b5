# SPDX-License-Identifier: MIT
"""Gets the peers and builds the programs; everything lies in the build folder of the repository."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workplace import HERE, REPOSITORY, WORK, CompareError, execute, find_program, hash_of, make, say

PACKAGES = WORK / "npm"
NODE_HINT = "install Node.js 20 or newer with npm"
#: ONNX Runtime's install script would download CUDA libraries; its documentation names this way to say no.
NO_DOWNLOADS = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}


@dataclass(frozen=True)
class LlamaCpp:
    source: Path
    libraries: Path
    description: str


def package_json() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((HERE / "package.json").read_text())
    return result


def install_npm_packages() -> None:
    """What package-lock.json names, without running anybody's install scripts."""
    npm = find_program("npm", NODE_HINT)

    def install() -> None:
        say("installing ONNX Runtime and llama.cpp's libraries from npm")
        PACKAGES.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, PACKAGES / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        execute(command, "npm", PACKAGES, NO_DOWNLOADS)

    make(PACKAGES / "node_modules", hash_of(HERE / "package-lock.json"), install)


def llama_cpp_source() -> Path:
    """The source of llama.cpp, which node-llama-cpp carries as a git bundle."""
    npm, git = find_program("npm", NODE_HINT), find_program("git", "apt-get install git")
    config = package_json()["config"]
    name, integrity = config["llama_cpp_source"], config["llama_cpp_source_integrity"]
    folder = WORK / "llama.cpp"
    source = folder / "source"

    def unpack() -> None:
        say(f"getting llama.cpp's source from npm's {name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        execute([npm, "pack", name, "--pack-destination", folder], "npm-pack", folder)
        (archive,) = folder.glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != integrity:
            raise CompareError(f"{archive}: expected {integrity}, found sha512-{digest}")
        execute(["tar", "-xzf", archive, "package/llama/gitRelease.bundle"], "tar", folder)
        execute([git, "clone", "--quiet", "package/llama/gitRelease.bundle", source], "clone", folder)

    return make(source, integrity, unpack)


def native_llama_cpp(source: Path) -> Path:
    """Built for this processor, as its documentation advises. Returns the folder of the libraries."""
    build = WORK / "llama.cpp" / "native"
    options = [
        *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF"),
        *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "TOOLS", "SERVER", "COMMON")),
    ]

    def compile_libraries() -> None:
        say("building llama.cpp for this processor (some minutes)")
        execute(["cmake", "-S", source, "-B", build, "-G", generator(), *options], "llama.cpp-configure")
        execute(["cmake", "--build", build, "--target", "llama", *parallel()], "llama.cpp-build")

    recipe = " ".join([package_json()["config"]["llama_cpp_source_integrity"], cpu_flags(), *options])
    make(build / "bin" / "libllama.so", recipe, compile_libraries)
    return build / "bin"


def prebuilt_llama_cpp() -> Path:
    architecture = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"linux-{architecture}"
    folder = PACKAGES / "node_modules" / "@node-llama-cpp" / name / "bins" / name
    if not folder.is_dir():
        raise CompareError(f"expected llama.cpp's libraries for this machine in {folder}, found none")
    return folder


def llama_cpp(build: str) -> LlamaCpp:
    source = llama_cpp_source()
    if build == "native":
        return LlamaCpp(source, native_llama_cpp(source), "built with -march=native")
    install_npm_packages()
    return LlamaCpp(source, prebuilt_llama_cpp(), "prebuilt, from npm")


def build_programs(llama: LlamaCpp | None) -> Path:
    """make-random-model and the drivers. Returns CMake's folder."""
    say("building the drivers")
    build = WORK / "cmake"
    targets = ["make-random-model", "compare-gpt2"]
    options = ["-DGPT2_LLAMA_CPP_SOURCE="]
    if llama is not None:
        targets.append("compare-llama-cpp")
        options = [
            f"-DGPT2_LLAMA_CPP_SOURCE={llama.source}",
            f"-DGPT2_LLAMA_CPP_LIBRARIES={llama.libraries}",
        ]
    common = ["-DCMAKE_BUILD_TYPE=Release", "-DGPT2_BUILD_TESTS=OFF"]
    execute(["cmake", "-S", REPOSITORY, "-B", build, "-G", generator(), *common, *options], "configure")
    execute(["cmake", "--build", build, "--target", *targets, *parallel()], "build")
    return build


def openblas() -> Path | None:
    """The folder of Debian's OpenBLAS: without it, Debian's PyTorch computes with the reference BLAS."""
    machine = platform.machine()
    for library in (f"/usr/lib/{machine}-linux-gnu/openblas-pthread/libblas.so.3",):
        if Path(library).exists():
            return Path(library).parent
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return None
    folder = WORK / "openblas"

    def unpack() -> None:
        say("getting OpenBLAS from Debian, for PyTorch")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        execute(["apt-get", "download", "libopenblas0-pthread"], "openblas", folder)
        (package,) = folder.glob("*.deb")
        execute(["dpkg", "-x", package, folder / "root"], "openblas", folder)

    root = make(folder / "root", "libopenblas0-pthread", unpack)
    return next(root.rglob("libblas.so.3")).parent


def has_torch() -> bool:
    command = [sys.executable, "-c", "import torch"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def parallel() -> list[str]:
    """As many jobs as there are cores, unless the environment says how many."""
    return [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel", str(os.cpu_count() or 1)]


def generator() -> str:
    return "Ninja" if shutil.which("ninja") else "Unix Makefiles"


def cpu_flags() -> str:
    """What the processor can do: a library built for it serves processors that can do the same."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return hashlib.sha256(line.encode()).hexdigest()[:16]
    return platform.processor()
