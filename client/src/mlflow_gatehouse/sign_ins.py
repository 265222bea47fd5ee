"""Where ``mlflow-gatehouse login`` keeps its result: the system's keyring if there is one, else a private file.

One record for each server: the provider's endpoints as they were at sign-in (a server that changes its mind
can't have the refresh token sent elsewhere), the refresh token, and the current identity token, so that many
processes share one renewal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow_gatehouse.errors import ConfigurationError

KEYRING_SERVICE = "gatehouse"
WINDOWS = os.name == "nt"


def folder() -> Path:
    """The private folder: ``GATEHOUSE_CONFIG``, or ``gatehouse`` where the system keeps such things."""
    if named := os.environ.get("GATEHOUSE_CONFIG"):
        return Path(named)
    if WINDOWS:
        return Path(os.environ.get("APPDATA", "~")).expanduser() / "gatehouse"
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "gatehouse"


def _file(origin: str, suffix: str) -> Path:
    return folder() / (quote(origin, safe="") + suffix)


def _keyring() -> Any:
    """The ``keyring`` module if it is installed and has somewhere to keep things, else None."""
    if os.environ.get("GATEHOUSE_KEYRING", "").lower() in {"off", "false", "0"}:
        return None
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    try:
        backend = keyring.get_keyring()
    except Exception:  # a broken backend is no keyring, whatever it raises
        return None
    return None if isinstance(backend, fail.Keyring | null.Keyring) else keyring


def _private_folder() -> Path:
    path = folder()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error) from None
    return path


def _unusable(error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"sign-ins can't be kept in {folder()}: {error.strerror or error}",
        "export GATEHOUSE_CONFIG=/a/folder/that/you/can/write/to",
    )


def save(origin: str, record: dict[str, Any]) -> str:
    """Keep a record, in place of the one before; return where, in words."""
    text = json.dumps(record)
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(Exception):  # locked, too long for the backend: the file will do
            keyring.set_password(KEYRING_SERVICE, origin, text)
            if keyring.get_password(KEYRING_SERVICE, origin) == text:
                _file(origin, ".json").unlink(missing_ok=True)
                return "the system's keyring"
    path = _file(origin, ".json")
    _private_folder()
    try:
        write_private(path, text)
    except OSError as error:
        raise _unusable(error) from None
    return f"{path} (readable by you alone)"


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, in place of the one before:

    who reads it sees the old or the new, whole.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(origin: str) -> dict[str, Any] | None:
    """Return the record for a server, or None.

    Raises:
        ConfigurationError: the file isn't private any more, or is damaged.
    """
    path = _file(origin, ".json")
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigurationError(f"{path} can be read by others", f"chmod 600 {path}, then sign in anew")
            text: str | None = file.read()
    except FileNotFoundError:
        keyring = _keyring()
        text = None
        if keyring is not None:
            with contextlib.suppress(Exception):  # locked: as if there were none
                text = keyring.get_password(KEYRING_SERVICE, origin)
    if not text:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ConfigurationError(f"the sign-in kept for {origin} is damaged", f"mlflow-gatehouse login {origin}")
    return record


def exists(origin: str) -> bool:
    """True if there may be a record for a server; makes nothing."""
    return _file(origin, ".json").exists() or _keyring() is not None


def delete(origin: str) -> bool:
    """Forget the record for a server; True if there was one."""
    path = _file(origin, ".json")
    found = path.exists()
    path.unlink(missing_ok=True)
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(Exception):  # nothing there
            keyring.delete_password(KEYRING_SERVICE, origin)
            found = True
    return found


@contextlib.contextmanager
def locked(origin: str) -> Iterator[None]:
    """Hold the record of a server against other processes.

    A provider that rotates refresh tokens takes the second use of one for theft, and ends the sign-in.
    """
    _private_folder()
    try:
        handle = os.open(_file(origin, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(error) from None
    try:
        try:
            _lock(handle)
        except OSError as error:
            raise ConfigurationError(
                f"{_file(origin, '.lock')} is locked by another process, or can't be locked: {error.strerror or error}",
                "end the other mlflow-gatehouse or training process that renews this sign-in, then try again; on a "
                "network "
                "drive without locks, export GATEHOUSE_CONFIG=/a/local/folder",
            ) from None
        yield
    finally:
        os.close(handle)  # which also lets go of the lock


def _lock(handle: int) -> None:
    """Wait for the lock: as long as it takes, on Windows for half a minute, after which it is an OSError."""
    if WINDOWS:
        import msvcrt

        for attempt in (1, 2, 3):  # ten seconds each: who holds it may wait that long for the provider
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]
            except OSError as error:
                if attempt == 3 or error.errno != errno.EDEADLK:
                    raise
            else:
                return
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
