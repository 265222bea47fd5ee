"""The one check of artifact paths: what a client names can't lead out of the store's root, in any spelling.

Names follow MLflow (``validate_path_is_safe``), which decodes percent signs until nothing changes, so that an artifact
has one name whichever route asks for it. Spaces, umlauts, emoji and a ``%`` that encodes nothing are fine.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import unquote

#: Bytes of one name: no common file system takes longer ones (NAME_MAX), so no client could keep it.
MAX_NAME = 255
#: Bytes of a whole path: what Cloud Storage and S3 allow a key.
MAX_PATH = 1024
# Unicode's own compatibility form (NFKC) knows the full-width and small forms, but not these.
_SLASHES = frozenset("\\\u2044\u2215\u2216\u29f5\u29f8")


class BadPath(ValueError):
    """A path that no artifact may have; the text says why, without repeating it."""


def check(path: str) -> str:
    """Return a relative path in its one form: no empty segments, and no ``.``; the empty string is the root.

    Raises:
        BadPath: if the path is absolute, leads upwards, has control characters or look-alikes of ``/`` and ``.``, or is
        too
            long.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise BadPath("Invalid path: it isn't UTF-8.") from None
    if "\ufffd" in path:  # what decoders leave of bytes that aren't UTF-8
        raise BadPath("Invalid path: it isn't UTF-8.")
    if size > MAX_PATH:
        raise BadPath(f"Invalid path: it is longer than {MAX_PATH} bytes.")
    if path.startswith("/"):
        raise BadPath("Invalid path: it must be relative.")
    for character in path:
        if unicodedata.category(character) == "Cc":
            raise BadPath("Invalid path: it has a control character in it.")
        if character in _SLASHES:
            raise BadPath("Invalid path: it has a character in it that looks like a slash, or a backslash.")
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    for segment in segments:
        if len(segment.encode()) > MAX_NAME:
            raise BadPath(f"Invalid path: a name in it is longer than {MAX_NAME} bytes.")
        plain = unicodedata.normalize("NFKC", segment)
        if plain in {".", ".."} or "/" in plain or "\\" in plain:
            raise BadPath("Invalid path: a name in it reads as '.', '..' or a path (Unicode NFKC).")
    return "/".join(segments)


def from_client(path: str) -> str:
    """Return the path that a client's spelling stands for, as MLflow reads it, in its one form.

    Raises:
        BadPath: as :func:`check`, and for what MLflow itself refuses (``#``, drive letters, ``file:`` URIs).
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import validate_path_is_safe

    check(path)
    try:
        safe = validate_path_is_safe(path)
    except (MlflowException, ValueError):  # MLflow lets its own parser's ValueError through
        raise BadPath("Invalid path: it is absolute, or has '..' or # in it.") from None
    # MLflow has escaped control characters that were encoded; unescaped, they are refused.
    return check(unquote(safe))
