"""Text for a terminal: what a server or a model wrote, made harmless; tables no wider than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def printable(text: str) -> str:
    r"""The text with everything that is no printable character shown as an escape.

    >>> printable("a\x1b[2Jb\u202e")
    'a\\x1b[2Jb\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def left_out(
    columns: Mapping[str, Sequence[str]], spared: Sequence[str], room: int | None, gap: int = 1
) -> list[str]:
    r"""The headers of the columns that a table has to do without.

    Args:
        columns: cells by header, which may have several lines.
        spared: headers that may be left out, in this order.
        room: how wide all may be; None: as wide as they are.
        gap: blanks beside each column.

    >>> left_out({"n": ["10"], "wall\ns": ["1.5"], "p": ["0.03"]}, ["wall\ns", "p"], 9)
    ['wall\ns']
    """
    widths = {
        header: gap + max(map(len, [*header.split("\n"), *cells]))
        for header, cells in columns.items()
    }
    gone = []
    for header in spared:
        if room is None or sum(widths.values()) <= room:
            break
        if widths.pop(header, None) is not None:
            gone.append(header)
    return gone


def no_room(headers: Sequence[str], where: str) -> str | None:
    r"""What stands below a table that does without some columns.

    >>> no_room(["wall\ns"], "see summary.csv")
    'no room for wall s: see summary.csv'
    """
    if not headers:
        return None
    return f"no room for {', '.join(header.replace(chr(10), ' ') for header in headers)}: {where}"
