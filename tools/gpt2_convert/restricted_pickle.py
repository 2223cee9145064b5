# SPDX-License-Identifier: MIT
"""Reads the part of the pickle format that holds data. Nothing in it can run code.

A pickle is a program for a small stack machine; its instructions are described in the standard library's
pickletools.py. Python's own machine, even where the functions that a pickle may name are restricted, can be
made to allocate without bounds (an index of the memo is the size of an array) and to compute for ever (the
hash of nested tuples). This one has no more than the instructions that picklers write for plain containers,
and a pickle can only name what is in a table: everything else is refused by name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from .byte_reader import ByteReader
from .errors import ConvertError, SafetyError
from .messages import quoted, shown

_INT64 = range(-(2**63), 2**63)
#: Of dictionaries. Hashing them takes no time worth mentioning, which is not so of tuples.
_KEY_TYPES = (str, bytes, int, bool, type(None))


class Malformed(Exception):
    """What a stand-in for a function raises about its arguments: what was expected and what was found."""


@dataclass(frozen=True)
class Global:
    """Something that a pickle names."""

    name: str
    call: Callable[..., Any] | None = None  #: what stands in for it; None: it can be named, not called


def load(reader: ByteReader, allowed: Mapping[str, Global], persistent_load: Callable[[Any], Any]) -> Any:
    """Runs one pickle, from the reader's position to its end.

    :param allowed: by names like "collections.OrderedDict"
    :param persistent_load: turns what a pickle says about an object outside of it into that object
    """
    machine = _Machine(reader, allowed, persistent_load)
    try:
        return machine.run()
    except Malformed as error:
        raise machine.fail(*error.args) from None
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise machine.fail("a valid pickle", f"one that is damaged ({_first_line(error)})") from None


def ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Stands in for collections.OrderedDict: Python 3 pickles an empty one and adds the items, Python 2 gives
    it a list of pairs."""
    if not isinstance(items, (list, tuple)):
        raise Malformed("a list of pairs for an OrderedDict", shown(items))
    result: dict[Any, Any] = {}
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise Malformed("pairs for an OrderedDict", shown(item))
        _set(result, item[0], item[1])
    return result


def _set(target: dict[Any, Any], key: Any, value: Any) -> None:
    if type(key) not in _KEY_TYPES or (isinstance(key, int) and key not in _INT64):
        raise Malformed("keys that are text or whole numbers", shown(key))
    if key in target:
        raise Malformed("every key once in a dictionary", f"{shown(key)} twice")
    target[key] = value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:80] or type(error).__name__


class _Machine:
    def __init__(
        self,
        reader: ByteReader,
        allowed: Mapping[str, Global],
        persistent_load: Callable[[Any], Any],
    ) -> None:
        self.reader, self.allowed, self.persistent_load = reader, allowed, persistent_load
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.copies_left = len(reader.data)  # of items that calls may copy: see reduce()

    def fail(self, expected: str, found: str) -> ConvertError:
        return self.reader.fail(f"{expected} at byte {self.reader.position}", found)

    def run(self) -> Any:
        while True:
            opcode = self.reader.take(1)
            if opcode == b".":
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(opcode)
            if instruction is None:
                raise self.fail("an instruction for plain data", f"{opcode!r}")
            instruction(self)

    # What instructions are made of.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.reader.take(struct.calcsize(layout)))[0]

    def bytes_of(self, length_layout: str) -> bytes:
        length = self.number(length_layout)
        if length < 0:
            raise self.fail("a length", f"{length}")
        return self.reader.take(length)

    def text(self, length_layout: str) -> str:
        return self.bytes_of(length_layout).decode("utf-8")

    def line(self) -> str:
        end = self.reader.data.find(b"\n", self.reader.position)
        if end < 0:
            raise self.fail("a line", "no end of it")
        return self.reader.take(end + 1 - self.reader.position)[:-1].decode("utf-8")

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise self.fail(f"a {kind.__name__} to fill", shown(self.stack[-1]))
        return self.stack[-1]

    # The instructions that are more than a line.

    def protocol(self) -> None:
        version = self.number("<B")
        if version > 5:
            raise self.fail("a pickle protocol of at most 5", f"{version}")

    def long(self) -> None:
        self.push(int.from_bytes(self.bytes_of("<B"), "little", signed=True))

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def tuple_of(self, n: int) -> None:
        if len(self.stack) < n:
            raise self.fail(f"{n} values", f"{len(self.stack)}")
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2 != 0:
            raise self.fail("pairs of keys and values", f"{len(items)} of them")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2]):
            _set(target, key, value)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def global_of(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise self.fail("the name of a global", shown(name))
        full_name = f"{module}.{name}"
        if full_name not in self.allowed:
            raise SafetyError(
                f"{self.reader.name}: expected only tensors and plain containers, found the name "
                f"{quoted(full_name)}, which is not among what they are made of (nothing was executed)"
            )
        self.push(self.allowed[full_name])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.global_of(module, name)

    def reduce(self) -> None:
        """Calls a stand-in."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or function.call is None or type(arguments) is not tuple:
            name = quoted(function.name) if type(function) is Global else shown(function)
            raise SafetyError(
                f"{self.reader.name}: expected calls of what builds tensors and containers, found a call of "
                f"{name} (nothing was executed)"
            )
        # A list could be copied again and again. No pickle needs more copies than it has bytes.
        self.copies_left -= sum(len(value) for value in arguments if type(value) in (list, tuple))
        if self.copies_left < 0:
            raise self.fail("every list to be used once", "one that is copied many times")
        self.push(function.call(*arguments))

    def build(self) -> None:
        """Attributes. The only ones are those of a state dictionary, `_metadata`; nobody needs them."""
        self.stack.pop()
        self.top(dict)

    def persistent(self) -> None:
        self.push(self.persistent_load(self.stack.pop()))

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


#: By the bytes that stand for them; the names in the comments are those of pickletools.
_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.protocol,  # PROTO
    b"\x95": lambda m: m.number("<Q"),  # FRAME: a hint for buffering
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"K": lambda m: m.push(m.number("<B")),  # BININT1
    b"M": lambda m: m.push(m.number("<H")),  # BININT2
    b"J": lambda m: m.push(m.number("<i")),  # BININT
    b"\x8a": _Machine.long,  # LONG1
    b"G": lambda m: m.push(m.number(">d")),  # BINFLOAT
    b"\x8c": lambda m: m.push(m.text("<B")),  # SHORT_BINUNICODE
    b"X": lambda m: m.push(m.text("<I")),  # BINUNICODE
    b"\x8d": lambda m: m.push(m.text("<Q")),  # BINUNICODE8
    b"U": lambda m: m.push(m.text("<B")),  # SHORT_BINSTRING, the str of Python 2
    b"T": lambda m: m.push(m.text("<i")),  # BINSTRING
    b"C": lambda m: m.push(m.bytes_of("<B")),  # SHORT_BINBYTES
    b"B": lambda m: m.push(m.bytes_of("<I")),  # BINBYTES
    b"\x8e": lambda m: m.push(m.bytes_of("<Q")),  # BINBYTES8
    b"]": lambda m: m.push([]),  # EMPTY_LIST
    b"}": lambda m: m.push({}),  # EMPTY_DICT
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"(": _Machine.mark,
    b"t": lambda m: m.push(tuple(m.pop_mark())),  # TUPLE
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),  # SETITEMS
    b"0": lambda m: m.stack.pop(),  # POP
    b"1": _Machine.pop_mark,  # POP_MARK
    b"q": lambda m: m.memoize(m.number("<B")),  # BINPUT
    b"r": lambda m: m.memoize(m.number("<I")),  # LONG_BINPUT
    b"\x94": lambda m: m.memoize(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.push(m.memo[m.number("<B")]),  # BINGET
    b"j": lambda m: m.push(m.memo[m.number("<I")]),  # LONG_BINGET
    b"c": lambda m: m.global_of(m.line(), m.line()),  # GLOBAL
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.persistent,  # BINPERSID
}
