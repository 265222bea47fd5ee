"""Where MLflow will send a request: its own routers are asked.

A path is never compared with a pattern of ours: MLflow's own routers say where it leads, so no spelling of a
path (encoded, doubled or trailing slashes, dots, letter case) can be judged as one thing and served as
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatehouse.operations.classes import Access
from gatehouse.operations.table import OPERATIONS, SAFE_METHODS
from gatehouse.upstream.routing import native_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import Scope


@dataclass(frozen=True)
class Route:
    """Where MLflow's routers send a request: the operation, its class, and the variables in the path.

    ``operation`` is None where no operation runs: nothing matched, the method isn't allowed, or the answer is
    a redirect to the path's proper spelling.
    """

    operation: str | None
    access: Access
    variables: Mapping[str, Any]


class Router:
    """Finds the route of a request by asking MLflow's own routers, in their order.

    Args:
        app: MLflow's FastAPI application, which has its Flask application mounted as the last route.
        flask_app: that Flask application.
    """

    def __init__(self, app: Any, flask_app: Any) -> None:
        *self._natives, _mount_of_flask = app.router.routes
        self._contexts = [context for native in self._natives for context in native.effective_route_contexts()]
        # Trying the native patterns one by one takes 0.2 ms; most requests are for Flask, and this tells so in 2 us.
        self._any_native = native_paths(app)
        self._flask = flask_app.url_map.bind("localhost")
        # Only routes without a variable are kept here, so a client can't make it grow.
        self._known: dict[tuple[str, str], Route] = {}

    def operations(self) -> Iterator[tuple[str, str, str]]:
        """Yield (method, path template, operation) of each route, for tests and documents."""
        for context in self._contexts:
            for method in sorted(context.methods):
                yield method, context.path, operation_name(context.original_route.endpoint.__name__)
        for rule in self._flask.map.iter_rules():
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, rule.rule, operation_name(rule.endpoint)

    def find(self, scope: Scope) -> Route:
        """Return the route of an HTTP request."""
        key = (scope["method"], scope["path"])
        route = self._known.get(key)
        if route is None:
            route = self._find_native(scope) or self._find_flask(*key)
            if route.operation is not None and not route.variables:
                self._known[key] = route
        return route

    def _find_native(self, scope: Scope) -> Route | None:
        """Return the FastAPI route, or None if the request goes on to Flask."""
        from starlette.routing import Match

        if not self._any_native.match(scope["path"]):
            return None
        probe = {
            "type": "http",
            "method": scope["method"],
            "path": scope["path"],
            "root_path": scope.get("root_path", ""),
        }
        for native in self._natives:
            if native.matches({**probe, "headers": []})[0] is not Match.FULL:
                continue
            # The included router took it; which of its routes did is told by the same patterns in the same
            # order.
            for context in native.effective_route_contexts():
                match = context.path_regex.match(scope["path"])
                if match and scope["method"] in context.methods:
                    return _route(operation_name(context.original_route.endpoint.__name__), match.groupdict())
            return Route("unknown", Access.ADMIN, {})
        return None

    def _find_flask(self, method: str, path: str) -> Route:
        """Return the Flask route."""
        from werkzeug.exceptions import HTTPException
        from werkzeug.routing import RequestRedirect

        try:
            rule, variables = self._flask.match(path, method, return_rule=True)
        except RequestRedirect:
            return Route(None, Access.READ, {})
        except HTTPException:
            # Not found or not allowed: MLflow says so to whoever could have done it. Asking is harmless; a
            # viewer's attempt to write hears the same refusal as for a route that exists.
            return Route(None, Access.READ if method in SAFE_METHODS else Access.WRITE, {})
        if method == "OPTIONS" and rule.provide_automatic_options:
            return Route(None, Access.READ, {})  # Flask answers it without running the operation
        return _route(operation_name(rule.endpoint), variables)


def operation_name(function: str) -> str:
    """Return MLflow's name of the operation from that of the function that handles it."""
    return function.lstrip("_").removesuffix("_handler")


def _route(operation: str, variables: Mapping[str, Any]) -> Route:
    return Route(operation, OPERATIONS.get(operation, Access.ADMIN), variables)
