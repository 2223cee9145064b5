# SPDX-License-Identifier: MIT
"""Whether the interpreter's lock is let go."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Callable, Iterable


def check_goes_on(
    calls: Iterable[Callable[[], Any]], attempts: int, prepare: Callable[[], Any] = lambda: None
) -> None:
    """While each of the calls computes, another thread runs; it gets the lock only where it is let go.

    attempts: how often a call may end before the thread had a turn
    prepare: called before each
    """
    done = threading.Event()
    count = [0]

    def work() -> None:
        while not done.is_set():
            count[0] += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    worker = threading.Thread(target=work)
    worker.start()
    sys.setswitchinterval(1000)
    try:
        for call in calls:
            before = count[0]
            for _ in range(attempts):
                prepare()
                before = count[0]
                call()
                if count[0] > before:
                    break
            assert count[0] > before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        worker.join()
