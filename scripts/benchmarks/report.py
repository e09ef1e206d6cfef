"""A whole run, as text, JSON, Markdown or a picture."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from scripts.benchmarks import table
from scripts.benchmarks.bars import Verdict
from scripts.benchmarks.chart import draw
from scripts.benchmarks.rounds import Result


@dataclass(slots=True)
class Report:
    """What was measured, where, and what could not be."""

    machine: dict[str, object]
    versions: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def text(self) -> str:
        """Write it for a terminal."""
        parts = []
        for result in self.results.values():
            lines = [f"== {result.case}: {result.title}"]
            if result.samples:
                lines.append(table.plain(table.rows(result)))
            lines += [f"({remark})" for remark in table.remarks(result)]
            parts.append("\n".join(lines))
        parts += [f"== {case}: not run: {why}" for case, why in self.not_run.items()]
        parts.append("== bars\n" + table.plain(table.verdict_rows(self.verdicts)))
        parts.append("\n".join(f"{name}: {value}" for name, value in self._conditions().items()))
        return "\n\n".join(parts)

    def _conditions(self) -> dict[str, object]:
        versions = ", ".join(f"{name} {text}" for name, text in self.versions.items())
        return {**self.machine, **self.settings, "versions": versions}

    def markdown(self) -> str:
        """Write it as a part of a Markdown page."""
        parts = ["### Bars", table.markdown(table.verdict_rows(self.verdicts))]
        for result in self.results.values():
            parts.append(f"### {result.title} (`{result.case}`)")
            if result.samples:
                parts.append(table.markdown(table.rows(result)))
            parts += [f"- {remark}" for remark in table.remarks(result)]
        parts += [f"- `{case}` was not run: {why}" for case, why in self.not_run.items()]
        parts.append("### The machine")
        parts.append("\n".join(f"- {name}: {value}" for name, value in self._conditions().items()))
        return "\n\n".join(parts) + "\n"

    def document(self) -> dict[str, object]:
        """Return everything, every single sample included, for JSON."""
        return {
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "cases": {
                result.case: {
                    "title": result.title,
                    "main": result.main,
                    "baseline": result.baseline,
                    "wrong bytes": result.wrong,
                    "peers": {
                        peer: {
                            name: {"median": statistics.median(values), "samples": values}
                            for name, values in figures.items()
                        }
                        for peer, figures in result.samples.items()
                    },
                    "remarks": result.remarks,
                }
                for result in self.results.values()
            },
            "not run": self.not_run,
            "bars": [
                {
                    "text": verdict.bar.text,
                    "bar": verdict.bar.limit_text,
                    "measured": verdict.measured,
                    "met": verdict.met,
                }
                for verdict in self.verdicts
            ],
        }

    def svg(self) -> str:
        """Draw it."""
        return draw(self.results)
