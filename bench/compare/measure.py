# SPDX-License-Identifier: MIT
"""What is measured, and how the engines take turns."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from engines import Driver, EngineError
from workplace import say

#: A slow engine takes fewer steps of a measurement, so that none takes longer than this; seconds.
LONGEST = 6.0
FEWEST_STEPS = 8
TOP_K = 40
#: For the engines that make room for the whole context at once: enough for the founding case.
SHORT_CONTEXT = ("--positions", "128")

#: Root mean square of the logits' differences from the reference, as a share of the reference's standard
#: deviation, that a format of so many bits may have. Much more, and it is another function.
TOLERANCES = {32: 0.003, 16: 0.02, 8: 0.1, 4: 0.6}


@dataclass(frozen=True)
class Case:
    key: str
    title: str
    unit: str
    more_is_better: bool
    measure: Callable[[Driver], float]


@dataclass
class Results:
    cases: list[Case]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)  #: by case and engine, by round
    errors: dict[str, float] = field(default_factory=dict)  #: of the logits, by engine
    same_choices: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    anonymous: dict[str, float] = field(default_factory=dict)  #: resident bytes of no file
    failures: list[str] = field(default_factory=list)


def make_cases(positions: int, results_anonymous: dict[str, float]) -> list[Case]:
    """For a model of so many positions; a small one shortens them."""
    shallow = min(128, positions // 2)
    deep = min(900, positions * 7 // 8)
    deep_steps = min(64, positions - deep)
    long = min(512, positions)
    prompt, batch_steps = min(16, positions // 4), min(32, positions // 4)
    n_new = min(87, positions - 13)

    def memory(driver: Driver) -> float:
        with Driver(driver.engine, *SHORT_CONTEXT) as fresh:
            fresh.seconds("generate", 13, n_new, TOP_K, 1)
            sizes = fresh.memory()
        results_anonymous[driver.engine.name] = sizes["RssAnon"] * 1e-6
        return sizes["VmRSS"] * 1e-6

    def cold_start(driver: Driver) -> float:
        return 1e3 * driver.engine.cold_start(13, *SHORT_CONTEXT)

    def founding(driver: Driver) -> float:
        return driver.seconds("generate", 13, n_new, TOP_K, 1)

    return [
        Case("decode", f"decode, {shallow} tokens", "tok/s", True, lambda d: decode(d, 0, shallow)),
        Case("deep", f"decode at depth {deep}", "tok/s", True, lambda d: decode(d, deep, deep_steps)),
        Case("prefill", f"prefill {long}", "tok/s", True, lambda d: long / d.seconds("prefill", long)),
        Case("batch", "16 sequences", "tok/s", True, lambda d: batch(d, 16, prompt, batch_steps)),
        Case("founding", f"13 + {n_new} tokens, top_k {TOP_K}", "s", False, founding),
        Case("cold", "cold start to first token", "ms", False, cold_start),
        Case("memory", f"memory after 13 + {n_new}", "MB", False, memory),
    ]


CASE_KEYS = [case.key for case in make_cases(1024, {})]


def steps_within(time_of_few: float, steps: int) -> int:
    """How many steps fit into LONGEST, when a few take so long."""
    fitting = int(LONGEST * min(FEWEST_STEPS, steps) / max(time_of_few, 1e-9))
    return min(steps, max(FEWEST_STEPS, fitting))


def decode(driver: Driver, depth: int, steps: int) -> float:
    few = min(FEWEST_STEPS, steps)
    steps = steps_within(driver.seconds("decode", 0, few), steps)
    return steps / driver.seconds("decode", depth, steps)


def batch(driver: Driver, sequences: int, prompt: int, steps: int) -> float:
    few = min(FEWEST_STEPS, steps)
    steps = steps_within(driver.seconds("batch", sequences, prompt, few), steps)
    return sequences * steps / driver.seconds("batch", sequences, prompt, steps)


def verify(drivers: Sequence[Driver], results: Results, prompt: int = 16, steps: int = 8) -> None:
    """Lets every engine compute the logits after a prompt and after single tokens, and compares them with
    those of a reference: the first float32 engine that is there, a peer's rather than ours."""
    rows: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for driver in drivers:
            path = Path(folder) / "logits"
            driver.ask("logits", prompt, steps, path)
            rows[driver.engine.name] = np.fromfile(path, np.float32).astype(np.float64).reshape(steps + 1, -1)
    best = min(drivers, key=lambda d: (-d.engine.bits, d.engine.library == "llama.cpp", d.engine.is_ours))
    reference = rows[best.engine.name]
    say(f"logits are compared with those of {best.engine.name}")
    for driver in drivers:
        name = driver.engine.name
        found = rows[name]
        if found.shape != reference.shape or not np.isfinite(found).all():
            results.failures.append(f"{name}: expected finite logits {reference.shape}, found {found.shape}")
            continue
        error = float(np.sqrt(np.mean((found - reference) ** 2)) / reference.std())
        same = int((found.argmax(1) == reference.argmax(1)).sum())
        results.errors[name] = error
        results.same_choices[name] = f"{same}/{steps + 1}"
        if error > TOLERANCES[driver.engine.bits]:
            results.failures.append(
                f"{name}: expected logits within {TOLERANCES[driver.engine.bits]:.1%} of those of "
                f"{best.engine.name}, found {error:.1%}: this engine computes another function"
            )


def take_turns(drivers: Sequence[Driver], cases: Sequence[Case], rounds: int, results: Results) -> None:
    """In each round of a case every engine is measured once, each round beginning with another one."""
    for case in cases:
        say(case.title)
        broken: set[str] = set()
        for number in range(rounds + 1):  # the first is for warming up
            for i in range(len(drivers)):
                driver = drivers[(i + number) % len(drivers)]
                name = driver.engine.name
                if name in broken:
                    continue
                try:
                    value = case.measure(driver)
                except EngineError as error:
                    results.failures.append(f"{case.title}: {error}")
                    broken.add(name)
                    results.samples.pop((case.key, name), None)
                    continue
                if number > 0:
                    results.samples.setdefault((case.key, name), []).append(value)
