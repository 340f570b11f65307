"""Text that a server or a model wrote, made harmless for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with everything that is no printable character shown as an escape.

    >>> printable("a\x1b[2Jb\u202e")
    'a\\x1b[2Jb\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
