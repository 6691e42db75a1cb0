"""The page and its plots: what is measured replaces what was, and the prose stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from duecourse.bench import report
from duecourse.bench.plot import Bar, bars
from duecourse.bench.run import SECTIONS
from duecourse.local.state import REPOSITORY

FIGURE = {"value": 30_500.0, "unit": "jobs/s", "least": 29_000.0, "most": 31_000.0, "runs": 5}
RATIO = {"value": 1.62, "against": "BullMQ addBulk", "sense": "at least", "target": 1.5, "ok": True}


def summary(**section: Any) -> dict[str, Any]:
    result = {
        "figures": {"duecourse": FIGURE},
        "ratios": {"over_bullmq": RATIO},
        "missing": {},
        "details": {},
    } | section
    machine = {"cores": 2, "processor": "EPYC", "memory_gb": 25, "system": "Linux", "python": "3.11.7"}
    return {
        "machine": machine,
        "versions": {"redis": "7.0.15"},
        "ratios": result["ratios"],
        "sections": {"enqueue": result},
    }


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "performance.md").write_text((REPOSITORY / "docs/performance.md").read_text())
    return tmp_path


def test_the_page_has_a_place_for_every_section() -> None:
    page = (REPOSITORY / "docs/performance.md").read_text()
    assert set(re.findall(r"<!-- measured: (\w+) -->", page)) == {*SECTIONS, "machine", "targets"}


def test_writing_replaces_the_tables_and_leaves_the_prose(docs: Path) -> None:
    before = (docs / "performance.md").read_text()
    report.write(summary(), SECTIONS, docs)
    page = (docs / "performance.md").read_text()
    assert "| duecourse | 30,500 jobs/s | 29,000 – 31,000 | 5 |" in page
    assert "| over bullmq | 1.62 | at least 1.5 | BullMQ addBulk | holds |" in page
    blocks = re.compile(r"(<!-- measured: \w+ -->).*?(<!-- end -->)", re.DOTALL)
    assert blocks.sub(r"\1\2", page) == blocks.sub(r"\1\2", before)
    report.write(summary(), SECTIONS, docs)
    assert (docs / "performance.md").read_text() == page


def test_the_results_are_kept_as_json(docs: Path) -> None:
    report.write(summary(), SECTIONS, docs)
    assert json.loads((docs / "results/bench.json").read_text()) == summary()


def test_what_is_missing_is_said_where_its_figure_would_be(docs: Path) -> None:
    missed = RATIO | {"value": None, "ok": False}
    report.write(summary(ratios={"over_bullmq": missed}, missing={"bullmq": "no npm"}), SECTIONS, docs)
    page = (docs / "performance.md").read_text()
    assert "| over bullmq | – | at least 1.5 | BullMQ addBulk | **missed** |" in page
    assert "bullmq was not measured (no npm)." in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30_512.4, "30,512"),
        (100, "100"),
        (10.04, "10.0"),
        (8, "8"),
        (1.62, "1.6"),
        (0.354, "0.35"),
        (0.00018, "0.00018"),
    ],
)
def test_numbers_have_as_many_digits_as_mean_something(value: float, text: str) -> None:
    assert report.number(value) == text


def test_what_we_are_compared_with_is_drawn_as_not_ours(docs: Path) -> None:
    found = summary(figures={"nothing changed": FIGURE, "old": FIGURE})
    found["sections"] = {"refresh": found["sections"]["enqueue"]}
    report.write(found, SECTIONS, docs)
    plot = ET.fromstring((docs / "results/refresh.svg").read_text())
    assert [bar.attrib["class"] for bar in plot.iter("{http://www.w3.org/2000/svg}rect")] == ["ours", "theirs"]


def test_a_plot_is_well_formed_and_its_bars_are_to_scale() -> None:
    plot = ET.fromstring(
        bars("Rates & more", [Bar("ours", 100, 90, 200, ours=True), Bar("theirs", 50, 40, 60, ours=False)])
    )
    widths = [float(item.attrib["width"]) for item in plot.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert "Rates & more" in "".join(plot.itertext())
