"""The benchmark's figures as a table, as JSON and as a chart."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: Set-up → figure → one value for each round; infinity where the set-up failed.
Figures = dict[str, dict[str, list[float]]]


def ratio(figure: str, reference: float, subject: float) -> float:
    """Return how many times better the subject is."""
    if "requests/s" in figure or "MiB/s" in figure:
        return subject / reference if reference else math.inf
    return reference / subject if subject else math.inf


def cell(values: list[float] | None) -> str:
    """Return median and range."""
    if not values:
        return "–"
    median = statistics.median(values)
    if math.isinf(median):
        return "fails"
    return f"{median:.4g} ({min(values):.4g}–{max(values):.4g})" if len(values) > 1 else f"{median:.4g}"


def show(figures: Figures, references: tuple[str, ...], subjects: tuple[str, ...], console: Console) -> None:
    """Print the table of medians, ranges and ratios."""
    table = Table(title="medians (lowest–highest); × = how many times better than each reference")
    table.add_column("figure")
    names = [name for name in (*references, *subjects) if name in figures]
    for name in names:
        table.add_column(name, justify="right")
    for figure in dict.fromkeys(figure for name in names for figure in figures[name]):
        cells = []
        for name in names:
            values = figures[name].get(figure)
            text = cell(values)
            for reference in references if name in subjects and values else ():
                theirs = figures.get(reference, {}).get(figure)
                if theirs:
                    times = ratio(figure, statistics.median(theirs), statistics.median(values or [math.inf]))
                    text += f" ×{times:.1f}" if math.isfinite(times) else " ×∞"
            cells.append(text)
        table.add_row(figure, *cells)
    console.print(table)


def write(figures: Figures, rounds: int, path: Path) -> None:
    """Write machine and figures as JSON; null where a set-up failed."""
    machine = {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rounds": rounds,
    }
    finite = {
        name: {figure: [value if math.isfinite(value) else None for value in values] for figure, values in rows.items()}
        for name, rows in figures.items()
    }
    path.write_text(json.dumps({"machine": machine, "figures": finite}, indent=2) + "\n")


def chart(figures: Figures, references: tuple[str, ...], subject: str, path: Path) -> None:
    """Draw how many times better the subject is than each reference, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in figures[subject] if "p99" not in name and "failed" not in name and "straight" not in name]
    _, axes = plt.subplots(figsize=(9, 0.42 * len(names) + 1))
    height = 0.8 / len(references)
    for place, (reference, colour) in enumerate(zip(references, ("#0e538b", "#7fa8c9", "#c9a27f"), strict=False)):
        values = []
        for name in names:
            theirs = figures.get(reference, {}).get(name)
            times = ratio(name, statistics.median(theirs), statistics.median(figures[subject][name])) if theirs else 0
            values.append(times if math.isfinite(times) else 0)
        rows = [len(names) - 1 - row - place * height for row in range(len(names))]
        bars = axes.barh(rows, values, height, color=colour, label=f"than {reference}")
        axes.bar_label(bars, labels=[f"{value:.1f}×" if value else "" for value in values], padding=3, fontsize=7)
    axes.set_yticks([len(names) - 1 - row - height / 2 for row in range(len(names))], names, fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="#44546a", linewidth=1)
    axes.set_xlabel("times better than the plain set-up (1 = the same)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(path, bbox_inches="tight")


def markdown(figures: Figures, references: tuple[str, ...], subjects: tuple[str, ...], path: Path) -> None:
    """Write the table of medians for a document; the last columns are how many times better the first subject is."""
    names = [*references, *subjects]
    lines = [
        f"| figure | {' | '.join(names)} | × {' | × '.join(references)} |",
        "|---" * (1 + len(names)) + "|---" * len(references) + "|",
    ]
    for figure in dict.fromkeys(figure for name in names for figure in figures[name]):
        medians = {name: statistics.median(figures[name][figure]) for name in names if figures[name].get(figure)}
        cells = [
            ("fails" if math.isinf(medians[name]) else f"{medians[name]:.3g}") if name in medians else "–"
            for name in names
        ]
        for reference in references:
            both = reference in medians and subjects[0] in medians
            times = ratio(figure, medians[reference], medians[subjects[0]]) if both else math.nan
            cells.append("–" if math.isnan(times) else "∞" if math.isinf(times) else f"**{times:.1f}**")
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n")
