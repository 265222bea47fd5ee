"""Which workspace a place in the artifact store belongs to: the one wall between teams' artifacts.

MLflow keeps the artifacts of a workspace below ``workspaces/NAME``; whatever lies elsewhere is of the workspace
``default``, which was there before there were others. Asked where a path of the store is made of whatever a client or
a row names (repository.py, layer.py), and for addresses that a row names past the server's own routes (guard.py).
"""

from __future__ import annotations

from gatehouse.artifacts.paths import BadPath
from gatehouse.upstream import workspaces

#: MLflow's folder of them (``WORKSPACES_DIR_NAME``).
FOLDER = "workspaces"
#: What holds all that lies in no workspace's folder.
OLDEST = "default"


def owns(workspace: str | None, path: str) -> bool:
    """Return whether a path of the store, in its one form, is below what a workspace owns."""
    first, _, rest = path.partition("/")
    if first == FOLDER:
        return bool(rest) and rest.partition("/")[0] == workspace
    return workspace == OLDEST


def check(path: str) -> str:
    """Return a path of the store, in its one form, if it is within the workspace of the request at hand.

    Raises:
        BadPath: if it isn't; the text doesn't tell whether anything is there.
    """
    if workspaces.enabled() and not owns(workspaces.current(), path):
        raise BadPath("Invalid path: it isn't within the workspace of this request.")
    return path


def hides(folder: str, name: str) -> bool:
    """Return whether an entry of a folder is left out of its list: the folder of all workspaces, seen from the root."""
    return folder == "" and name == FOLDER and workspaces.enabled()
