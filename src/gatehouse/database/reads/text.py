"""JSON as MLflow prints it, as expressions of SQL.

MLflow prints an answer with ``json.dumps(…, indent=2)``: fields in the order of their numbers in protobuf, those that
aren't set left out, everything that isn't ASCII escaped. PostgreSQL's own json functions print it otherwise, and take
four times as long as ``||``. The little that SQL can't print as Python does, it marks, and :func:`finished` replaces:
numbers from 10^15 on, and characters beyond ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Stands around what Python must print. JSON escapes this character, so no text of a user's has it.
_MARK = "\x01"
_MARKED = re.compile(f"{_MARK}([^{_MARK}]*){_MARK}")
_NOT_PLAIN = re.compile("[^\\x00-\\x7e]")
#: The most that is put together before it is sent, in characters.
CHUNK = 1024 * 1024


class Unprintable(Exception):
    """There is a value that MLflow has no JSON for."""


@dataclass(frozen=True)
class Field:
    """A field of an object.

    Args:
        value: an expression of SQL that is the field's JSON as text; NULL leaves the field out if it is optional.
    """

    name: str
    value: str
    optional: bool = False


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def string(expression: str) -> str:
    """Return JSON's string of a text."""
    return f"to_json({expression})::text"


def required_string(expression: str) -> str:
    """Return JSON's string of a text that may be NULL in the table and not in MLflow's answer."""
    return f"COALESCE(to_json({expression})::text, chr(1) || chr(1))"


def plain_string(expression: str) -> str:
    """Return JSON's string of a text that has nothing to escape, as ids have."""
    return f"""'"' || {expression} || '"'"""


def integer(expression: str) -> str:
    """Return JSON's number of an integer."""
    return f"{expression}::text"


def number(value: str, is_nan: str) -> str:
    """Return JSON's number of a ``double precision``, as Python prints it (``repr``), or "NaN" as protobuf does.

    Both print the shortest digits that are read back as the same number. PostgreSQL leaves ``.0`` out, and it has other
    digits and exponents from 10^15 on.
    """
    whole = f"CASE WHEN {value} = trunc({value}) THEN '.0' ELSE '' END"
    return (
        f"""CASE WHEN {is_nan} THEN '"NaN"' WHEN abs({value}) < 1e15 THEN {value}::text || {whole} """
        f"ELSE chr(1) || {value}::text || chr(1) END"
    )


def obj(fields: Sequence[Field], level: int) -> str:
    """Return an object, ``level`` steps of indentation deep."""
    pad = "\n" + "  " * (level + 1)
    end = literal("\n" + "  " * level + "}")
    names = [f'"{field.name}": ' for field in fields]
    if fields[0].optional:
        # Perhaps nothing is left.
        named = ", ".join(f"{literal(name)} || {field.value}" for name, field in zip(names, fields, strict=True))
        inside = f"NULLIF(concat_ws({literal(',' + pad)}, {named}), '')"
        return f"COALESCE({literal('{' + pad)} || {inside} || {end}, {literal('{}')})"
    parts: list[str] = []
    for name, field in zip(names, fields, strict=True):
        part = f"{literal((',' if parts else '{') + pad + name)} || {field.value}"
        parts.append(f"COALESCE({part}, '')" if field.optional else part)
    return f"({' || '.join(parts)} || {end})"


def array(item: str, source: str, level: int) -> str:
    """Return an array, or NULL if it would be empty, which MLflow leaves out.

    Args:
        item: the item's JSON.
        source: what follows FROM.
    """
    pad = "\n" + "  " * (level + 1)
    end = literal("\n" + "  " * level + "]")
    return f"(SELECT {literal('[' + pad)} || string_agg({item}, {literal(',' + pad)}) || {end} FROM {source})"


def _replaced(match: re.Match[str]) -> str:
    """Print a number that SQL couldn't."""
    if not match[1]:
        raise Unprintable
    value = float(match[1])
    if value != value:
        return '"NaN"'
    if value in {float("inf"), float("-inf")}:
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return repr(value)


def _escaped(match: re.Match[str]) -> str:
    """Escape a character as ``json.dumps`` does: in UTF-16."""
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


def finished(text: str) -> bytes:
    """Return the bytes of JSON from SQL.

    Raises:
        Unprintable: if there is a value that MLflow has no JSON for.
    """
    if _MARK in text:
        text = _MARKED.sub(_replaced, text)
    if not text.isascii() or "\x7f" in text:
        text = _NOT_PLAIN.sub(_escaped, text)
    return text.encode("ascii")


def listing(name: str, rows: Sequence[Sequence[str | None]], token: str | None) -> list[bytes]:
    """Return the parts of a whole answer:

    ``{"NAME": [items], "next_page_token": token}``, either left out if there is none.

    Args:
        rows: of each item its JSON, two steps of indentation deep.

    Raises:
        Unprintable: if there is a value that MLflow has no JSON for.
    """
    items = [row[0] for row in rows if row[0] is not None]
    if len(items) != len(rows):
        raise Unprintable
    if not items and token is None:
        return [b"{}"]
    parts = list(_chunks(items))
    if items:
        parts[0] = f'{{\n  "{name}": [\n    '.encode() + parts[0]
        parts.append(b"\n  ]")
    if token is not None:
        parts.append((",\n  " if items else "{\n  ").encode() + f'"next_page_token": "{token}"'.encode())
    parts.append(b"\n}")
    return parts if len(items) > 1 and sum(map(len, parts)) > CHUNK else [b"".join(parts)]


def page(name: str, rows: Sequence[Sequence[str | None]], limit: int, offset: int) -> list[bytes]:
    """Return the parts of one page as :func:`listing` does, with MLflow's token of the next if there is one.

    Args:
        rows: those of the page, and one more if there is a next page.
        offset: of the page's first row.

    Raises:
        Unprintable: if there is a value that MLflow has no JSON for.
    """
    from mlflow.utils.search_utils import SearchUtils

    more = len(rows) == limit + 1
    token = SearchUtils.create_page_token(offset + limit).decode() if more else None
    return listing(name, rows[:limit] if more else rows, token)


def _chunks(items: Sequence[str]) -> Iterable[bytes]:
    """Yield the items, put together to chunks of a size that is good to send."""
    first = size = 0
    separator = ""
    for number, item in enumerate(items):
        size += len(item)
        if size > CHUNK or number == len(items) - 1:
            yield finished(separator + ",\n    ".join(items[first : number + 1]))
            first, size, separator = number + 1, 0, ",\n    "
