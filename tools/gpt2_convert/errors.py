# SPDX-License-Identifier: MIT
"""What goes wrong in a conversion."""


class ConvertError(Exception):
    """A file, a download or an option that cannot be used.

    The message names the thing, what was expected and what was found; the program prints it and exits
    with status 1, without a traceback.
    """


class SafetyError(ConvertError):
    """A file that tries to do more than hold data."""
