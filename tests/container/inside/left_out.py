"""Runs in the image: prints, as JSON, which functions of MLflow's loaded modules import one of the packages given."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


def imports(node: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """Yield (package, function) of each import below a node of the syntax tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.partition(".")[0], function
        inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from imports(child, f"{function}.{getattr(child, 'name', '')}" if inner else function)


warnings.simplefilter("ignore")
os.environ.update(_MLFLOW_SERVER_FILE_STORE="sqlite:////tmp/unused.db", _MLFLOW_SERVER_SERVE_ARTIFACTS="true")
# The application, and what its handlers and jobs import when they first run.
for name in (
    "server.fastapi_app",
    "genai.evaluation.job",
    "genai.discovery.job",
    "genai.optimize.job",
    "genai.scorers.job",
):
    importlib.import_module(f"mlflow.{name}")
packages = set(sys.argv[1:])
found: dict[str, list[str]] = {package: [] for package in sorted(packages)}
for name, module in sorted(sys.modules.items()):
    if name.startswith("mlflow.") and getattr(module, "__file__", None):
        for package, function in sorted(set(imports(ast.parse(Path(str(module.__file__)).read_text())))):
            if package in packages:
                found[package].append(name + function)
print(json.dumps(found))
