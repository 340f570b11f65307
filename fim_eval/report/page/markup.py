"""HTML that can hold nothing but what it was built of: every text is escaped, once."""

from __future__ import annotations

import html
import re

from fim_eval.terminal import printable

_LINES = re.compile(r"[\n\t]")


class Html(str):
    """Markup that is safe to join; every other string is text."""

    __slots__ = ()


Piece = Html | str | None
"""Part of an element: markup, text to escape, or nothing."""


def text(words: str) -> Html:
    r"""Text as a person is meant to see it: what does not print shown as an escape.

    >>> text("<b>\x1b[2J\u202e")
    '&lt;b&gt;\\x1b[2J\\u202e'
    """
    if isinstance(words, Html):
        return words
    kept = "".join(
        part if _LINES.fullmatch(part) else printable(part) for part in re.split(r"([\n\t])", words)
    )
    return Html(html.escape(kept))


def join(*pieces: Piece) -> Html:
    """Pieces one after the other."""
    return Html("".join(text(piece) for piece in pieces if piece is not None))


def tag(name: str, *pieces: Piece, **attributes: str | bool | int | None) -> Html:
    """An element. An attribute's `_` is a hyphen, a leading or trailing one is dropped.

    >>> tag("td", "a < b", class_="n", aria_label='"')
    '<td class="n" aria-label="&quot;">a &lt; b</td>'
    >>> tag("details", open=True, hidden=False)
    '<details open></details>'
    """
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.strip("_").replace("_", "-")
        words.append(f" {attribute}" if value is True else f' {attribute}="{text(str(value))}"')
    return Html(f"<{name}{''.join(words)}>{join(*pieces)}</{name}>")
