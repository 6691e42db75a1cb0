"""Writes what a full run found: docs/results/bench.json, the tables in docs/performance.md, and its plots.

The page's prose is written by hand. Only what stands between `<!-- measured: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duecourse.bench.plot import Bar, bars
from duecourse.local.state import REPOSITORY

DOCS = REPOSITORY / "docs"
BLOCK = "<!-- measured: {name} -->\n{body}\n<!-- end -->"
PLOTS = {
    "enqueue": ("Jobs ordered a second, batches of 1,000 with deduplication keys", r".*"),
    "overhead": ("Jobs claimed and settled, or processed, a second", r".*"),
    "refresh": ("Seconds to refresh the scores of all clients", r"(?!.*(growth|x the clients)).*"),
    "cold": ("Milliseconds of a first invocation, imports included", r".*"),
}
RIVALS = {"refresh": {"bare", "old"}, "cold": {"boto3 and Powertools"}}
"""Where our own bars do not bear our name: those that are not ours."""


def write(summary: Mapping[str, Any], titles: Mapping[str, str], docs: Path = DOCS) -> None:
    """Write all three. Sections that were not measured keep what the page says of them."""
    (docs / "results").mkdir(exist_ok=True)
    (docs / "results/bench.json").write_text(json.dumps(summary, indent=2) + "\n")
    page = docs / "performance.md"
    text = page.read_text()
    text = _replace(text, "machine", _machine(summary))
    text = _replace(text, "targets", _targets(summary["ratios"]))
    for name, result in summary["sections"].items():
        if name in PLOTS:
            title, wanted = PLOTS[name]
            shown = [
                Bar(
                    label,
                    figure["value"],
                    figure["least"],
                    figure["most"],
                    ours="duecourse" in label or label not in RIVALS.get(name, {label}),
                )
                for label, figure in result["figures"].items()
                if re.fullmatch(wanted, label)
            ]
            (docs / f"results/{name}.svg").write_text(bars(title, shown))
        text = _replace(text, name, _figures(name, titles[name], result))
    page.write_text(text)


def _replace(text: str, name: str, body: str) -> str:
    block = BLOCK.format(name=name, body=body)
    pattern = re.compile(rf"<!-- measured: {name} -->\n.*?<!-- end -->", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"docs/performance.md has no place for {name}")
    return pattern.sub(lambda _: block, text)


def _machine(summary: Mapping[str, Any]) -> str:
    machine, versions = summary["machine"], summary["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB, {machine['system']},"
        f" Python {machine['python']}. {named}."
    )


def _targets(ratios: Mapping[str, Any]) -> str:
    lines = ["| Ratio | Measured | Target | Against | |", "|---|---:|---:|---|---|"]
    for name, ratio in ratios.items():
        if ratio["target"] is not None:
            cells = (
                _words(name),
                _ratio(ratio),
                f"{ratio['sense']} {ratio['target']}",
                ratio["against"],
                "holds" if ratio["ok"] else "**missed**",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(name: str, title: str, result: Mapping[str, Any]) -> str:
    lines = [f"![{title}](results/{name}.svg)", ""] if name in PLOTS else []
    lines += ["| | Median | Least – most | Runs |", "|---|---:|---:|---:|"]
    for label, figure in result["figures"].items():
        spread = "" if figure["runs"] == 1 else f"{number(figure['least'])} – {number(figure['most'])}"
        lines.append(f"| {label} | {number(figure['value'])} {figure['unit']} | {spread} | {figure['runs']} |")
    informs = {key: ratio for key, ratio in result["ratios"].items() if ratio["target"] is None}
    if informs:
        lines += ["", "| Without a target | Measured | Against |", "|---|---:|---|"]
        lines += [f"| {_words(key)} | {_ratio(ratio)} | {ratio['against']} |" for key, ratio in informs.items()]
    facts = [f"{key.replace('_', ' ')}: {value}" for key, value in result["details"].items()]
    missing = [f"{key} was not measured ({why})" for key, why in result["missing"].items()]
    for group in (facts, missing):
        if group:
            lines += ["", f"{'; '.join(group)}."]
    return "\n".join(lines)


def _ratio(ratio: Mapping[str, Any]) -> str:
    return "–" if ratio["value"] is None else f"{ratio['value']:.2f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 0 if value == int(value) and abs(value) >= 1 else 2 if abs(value) < 1 else 1
    return f"{value:.{digits}f}" if abs(value) >= 0.01 else f"{value:.2g}"
