"""Helm and kubeconform, before anything asks for them."""

from __future__ import annotations

import pytest

from tests.kubernetes.charts import program


@pytest.fixture(scope="session", autouse=True)
def chart_tools() -> None:
    """Both programs, built once: five minutes of one processor with nothing cached."""
    for name in ("helm", "kubeconform"):
        program(name)
