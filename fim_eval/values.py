"""Values out of the jail: JSON in, Python values out. Knows no process and no test.

The other end is `encode` in `fim_eval.sandbox.zygote`. Scalars that JSON has are themselves (floats
by `repr`, which is exact; NaN and the infinities as Python's `json` writes them); all else is
`[tag, part, ...]`. Only the types below can come out, whatever is sent: nothing is imported, called
by name or unpickled.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

MOST_COLLISIONS = 50
"""Members of one set or dict that share one hash. Honest ones are few (powers of two repeat theirs
after 61); chosen ones cost the square of their number."""

MOST_FRACTION_BITS = 65_536
"""Of a numerator or denominator: to reduce a fraction costs the square of its length, seven seconds
for one of a megabyte. A longer one equals no literal."""


class MalformedValueError(ValueError):
    """The text is no value that `encode` writes."""


class Opaque:
    """A value that equals nothing but itself: a function, an iterator, a plain object."""

    def __repr__(self) -> str:
        return "<object>"


def decode(encoded: object) -> Any:
    """The value that `encode` was given, as far as `==`, `<`, `in` and `math.isclose` can tell.

    Raises:
        MalformedValueError: it was not written by `encode`.
    """
    try:
        return _decode(encoded)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MalformedValueError(f"{type(error).__name__}: {error}"[:200]) from error


def parse_line(line: bytes) -> list[Any]:
    """One line from a program's process: a JSON array.

    Raises:
        MalformedValueError: it is none.
    """
    try:
        # `float`: each NaN an object of its own, as it was inside.
        message = json.loads(line, parse_constant=float)
    except (ValueError, RecursionError) as error:
        raise MalformedValueError(f"{type(error).__name__}: {error}"[:200]) from error
    if not isinstance(message, list) or not message:
        raise MalformedValueError("no message")
    return message


def _decode(encoded: object) -> Any:
    if not isinstance(encoded, list):
        if isinstance(encoded, dict):
            raise MalformedValueError("no value is a JSON object")
        return encoded
    tag, *parts = encoded
    if not isinstance(tag, str) or (tag not in _BUILDERS and tag not in _HASHED):
        raise MalformedValueError("no value is tagged so")
    values = [_decode(part) for part in parts]
    if tag in _BUILDERS:
        return _BUILDERS[tag](values)
    members = values if tag in ("set", "frozenset", "keys") else values[::2]
    alike = Counter(map(hash, members)).most_common(1)
    if alike and alike[0][1] > MOST_COLLISIONS:
        raise MalformedValueError("members of a set or dict were chosen to collide")
    return _HASHED[tag](values)


def _pairs(parts: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _integers(parts: Sequence[Any]) -> Sequence[int]:
    """The parts, seen to be integers: other numbers, and texts, may cost a power of ten to read."""
    if any(type(part) is not int for part in parts):
        raise MalformedValueError("parts are integers")
    return parts


def _fraction(parts: Sequence[Any]) -> Fraction | Opaque:
    numerator, denominator = _integers(parts)
    if max(numerator.bit_length(), denominator.bit_length()) > MOST_FRACTION_BITS:
        return Opaque()
    return Fraction(numerator, denominator)


def _decimal(parts: Sequence[Any]) -> Decimal:
    (text,) = parts
    if not isinstance(text, str):
        raise MalformedValueError("a decimal number is a text")
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise MalformedValueError("no decimal number") from error


def _complex(parts: Sequence[Any]) -> complex:
    real, imaginary = parts
    if type(real) is not float or type(imaginary) is not float:
        raise MalformedValueError("parts of a complex number are floats")
    return complex(real, imaginary)


_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "object": lambda _parts: Opaque(),
    "str": lambda parts: bytes.fromhex(parts[0]).decode("utf-32-le", "surrogatepass"),
    "int": lambda parts: int(parts[0], 16),
    "bytes": lambda parts: bytes.fromhex(parts[0]),
    "bytearray": lambda parts: bytearray.fromhex(parts[0]),
    "complex": _complex,
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "range": lambda parts: range(*_integers(parts)),
    "Fraction": _fraction,
    "Decimal": _decimal,
}

_HASHED: dict[str, Callable[[list[Any]], Any]] = {
    "set": set,
    "frozenset": frozenset,
    "dict": lambda parts: dict(_pairs(parts)),
    "OrderedDict": lambda parts: OrderedDict(_pairs(parts)),
    "Counter": lambda parts: Counter(dict(_pairs(parts))),
    "keys": lambda parts: dict.fromkeys(parts).keys(),
    "items": lambda parts: dict(_pairs(parts)).items(),
}
