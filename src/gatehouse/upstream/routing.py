"""How MLflow's two applications are put together, and how a request is handed to the inner one."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Scope


def native_paths(fastapi_app: Any) -> re.Pattern[str]:
    """Return one pattern for the paths of all routes that FastAPI serves itself; Flask never sees those."""
    *native, mount = fastapi_app.router.routes
    if getattr(mount, "path", None) != "" or not hasattr(mount, "app"):
        raise RuntimeError("MLflow's Flask application isn't mounted last: this version of MLflow isn't supported")
    contexts = [context for router in native for context in router.effective_route_contexts()]
    patterns = (re.sub(r"\?P<\w+>", "?:", context.path_regex.pattern) for context in contexts)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def build_environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """Return the WSGI environment that Starlette makes of a request, so that Flask sees the same on both ways."""
    from starlette.middleware.wsgi import build_environ as starlettes

    environ: dict[str, Any] = starlettes(scope, body)
    environ["wsgi.errors"] = sys.stderr
    return environ
