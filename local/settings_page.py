"""Write docs/settings.md, the page of verdicts, from the tables: ``python -m local.settings_page``."""

from __future__ import annotations

from collections.abc import Mapping

from gatehouse.start.verdicts import MLFLOW, PREFIX, PROXY, Row, Verdict
from local.proxy_binary import ROOT

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# What becomes of each setting of oauth2-proxy and of MLflow
Made from `src/gatehouse/start/verdicts.py` by `python -m local.settings_page`; a test holds both against the pinned
programs. The README has Gatehouse's own settings. A variable that isn't here is an error, for it would be ignored
without a word. What Kubernetes adds for a Service named `mlflow…` or `oauth2-proxy…` (`MLFLOW_PORT=tcp://…`) is no
setting, and left out.

"""
PARTS = {
    Verdict.WORKS: "These work",
    Verdict.TIED: "These are tied: another value is an error",
    Verdict.REFUSED: "These are refused",
    Verdict.CLIENTS: "These are read by clients: a note says so, and nothing else happens",
}


def group(rows: Mapping[str, Row], verdict: Verdict) -> list[str]:
    """Return a table's lines: names with the same words share one."""
    together: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row.verdict is not verdict:
            continue
        words = row.why
        if row.value:
            words = f"`{row.value}`. {words}" + ("" if row.always else " (a file of your own may say otherwise)")
        if row.providers:
            providers = ", ".join(sorted(row.providers - {"google-groups"}))
            words = f"{words}{'; ' if words else ''}with the provider {providers}"
        if row.fix != "unset it":
            words += f". Fix: {row.fix}"
        together.setdefault(words, []).append(f"`{name}`")
    return [f"| {', '.join(names)} | {words} |" for words, names in together.items()]


def page() -> str:
    """Return the page's text."""
    text = HEAD
    for title, rows in (
        (f"oauth2-proxy: `{PREFIX}…`", {PREFIX + key.upper(): row for key, row in PROXY.items()}),
        ("MLflow", MLFLOW),
    ):
        text += f"## {title}\n"
        for verdict, head in PARTS.items():
            if lines := group(rows, verdict):
                text += "\n".join([f"### {head}", "| variable | |", "|---|---|", *lines, "", ""])
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
