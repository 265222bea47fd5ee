"""MLflow's own checks of Host and Origin, taken off its application to stand once in front of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.middleware import Middleware


def take_off(fastapi_app: Any) -> list[Middleware]:
    """Take off what ``init_fastapi_security`` put around MLflow's application; return it, the outermost first.

    Relies on Starlette's list ``user_middleware``, which counts until the application serves its first request, and on
    the module that MLflow keeps these layers in. tests/dispatch/test_dispatch.py compares the answers with MLflow's
    own.
    """
    from starlette.middleware.cors import CORSMiddleware

    mlflows = "mlflow.server.fastapi_security"
    taken = [
        each for each in fastapi_app.user_middleware if each.cls is CORSMiddleware or each.cls.__module__ == mlflows
    ]
    fastapi_app.user_middleware[:] = [each for each in fastapi_app.user_middleware if each not in taken]
    if fastapi_app.middleware_stack is not None:
        raise RuntimeError("MLflow's application has served a request already: its layers can't be moved any more")
    return taken
