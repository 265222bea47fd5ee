"""How MLflow's two applications are put together, and how a request is handed to the inner one."""

from __future__ import annotations

import io
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
    """Return the WSGI environment (PEP 3333) of a request, as Starlette's deprecated WSGI middleware makes it.

    FastAPI mounts MLflow's Flask application by that middleware, so Flask sees the same on both ways;
    tests/upstream/test_names.py compares. Text is decoded as Latin-1, as PEP 3333 has it, also where Starlette raises.
    """
    script_name = scope.get("root_path", "").encode().decode("latin-1")
    path_info = scope["path"].encode().decode("latin-1")
    if path_info == script_name or path_info.startswith(script_name.rstrip("/") + "/"):
        path_info = path_info[len(script_name) :]
    host, port = scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"] = scope["client"][0]
    for raw_name, raw_value in scope.get("headers", []):
        header, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        prefix = "" if header in {"content-length", "content-type"} else "HTTP_"
        name = prefix + header.upper().replace("-", "_")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ
