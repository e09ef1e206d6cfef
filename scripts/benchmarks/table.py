"""The figures as text: a table for each case, and the bars."""

from __future__ import annotations

from scripts.benchmarks.bars import Verdict
from scripts.benchmarks.rounds import Result


def number(value: float | None) -> str:
    """Write a figure with three significant digits or more."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def rows(result: Result) -> list[list[str]]:
    """Return a table with its head: medians, spread, and the ratio of medians to the baseline."""
    figures = list(dict.fromkeys(name for found in result.samples.values() for name in found))
    base = result.median(result.baseline)
    head = ["peer", *figures, "range", *([f"/ {result.baseline}"] if base else []), "runs"]
    table = [head]
    order = sorted(
        result.samples,
        key=lambda peer: (result.median(peer) or 0) * (-1 if result.more_is_better else 1),
    )
    for peer in order:
        main = result.samples[peer][result.main]
        median = result.median(peer)
        row = [peer, *(number(result.median(peer, name)) for name in figures)]
        row.append(f"{number(min(main))} to {number(max(main))}")
        if base:
            row.append(number(median / base if median is not None else None))
        table.append([*row, str(len(main))])
    return table


def remarks(result: Result) -> list[str]:
    """Return who is not in the table, or only in part, and why."""
    return [f"{peer}: {why}" for peer, why in result.remarks.items()]


def verdict_rows(verdicts: list[Verdict]) -> list[list[str]]:
    """Return the table of bars with its head."""
    table = [["case", "bar", "measured", ""]]
    for verdict in verdicts:
        met = {True: "met", False: "NOT MET", None: "not measured"}[verdict.met]
        table.append([verdict.bar.text, verdict.bar.limit_text, number(verdict.measured), met])
    return table


def plain(table: list[list[str]]) -> str:
    """Align a table for a terminal."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(table: list[list[str]]) -> str:
    """Write a table in Markdown; figures stand right."""
    head, *body = table
    rule = ["---", *("---:" for _ in head[1:])]
    lines = [head, rule, *body]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
