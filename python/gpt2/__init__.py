# SPDX-License-Identifier: MIT
"""GPT-2 inference: the C++ library gpt2, from Python.

import gpt2

model = gpt2.Model("models/novella-f16.safetensors")
for token in model.stream("There was once a poor woodcutter who", max_new_tokens=80):
    print(token.text, end="", flush=True)
"""

from ._gpt2 import (
    BusyError,
    Cancellation,
    Config,
    Constraint,
    ContextError,
    Error,
    FileError,
    Flow,
    FormatError,
    Model,
    NumericError,
    OptionError,
    Recorder,
    Result,
    Session,
    Speculation,
    Stream,
    Timings,
    Token,
    Verification,
    __version__,
    forward,
)

__all__ = [
    "BusyError",
    "Cancellation",
    "Config",
    "Constraint",
    "ContextError",
    "Error",
    "FileError",
    "Flow",
    "FormatError",
    "Model",
    "NumericError",
    "OptionError",
    "Recorder",
    "Result",
    "Session",
    "Speculation",
    "Stream",
    "Timings",
    "Token",
    "Verification",
    "__version__",
    "forward",
]
