# SPDX-License-Identifier: MIT
"""usage: at_terminal.py QUESTION LINE... -- PROGRAM [ARGUMENT...]

Runs a program at a terminal of its own. Each time that it asks QUESTION it gets the next line, which may have
keys in it, and at last the end of input. Prints all that the terminal showed; the status is the program's.
"""

import os
import pty
import select
import sys

PATIENCE = 120  # seconds without a sign of life
SETTLED = 0.3  # seconds after which a question is one, and not part of a line that is drawn again


def main() -> int:
    split = sys.argv.index("--")
    question, lines, command = sys.argv[1].encode(), sys.argv[2:split], sys.argv[split + 1 :]
    keys = [line.encode() + b"\r" for line in lines] + [b"\x04"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    shown = b""
    while True:
        asked = shown.endswith(question) and bool(keys)
        if not select.select([terminal], [], [], SETTLED if asked else PATIENCE)[0]:
            if not asked:
                sys.exit(f"at_terminal.py: {command[0]} has been silent for {PATIENCE} s")
            os.write(terminal, keys.pop(0))
            shown += b"\n"
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the program has ended
            break
        if not part:
            break
        shown += part
    sys.stdout.buffer.write(shown.replace(b"\r", b""))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
