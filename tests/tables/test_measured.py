"""Table 4's numbers and ceilings from a bench's report, by hand here."""

import json
from pathlib import Path
from typing import Any

from experiments.tables.measured import table4

REPORT: dict[str, Any] = {
    "machine": {"device": "A Card"},
    "setting": {"model": "opt-13b", "dtype": "bfloat16", "batch": 16, "length": 32, "repeats": 5},
    "steps": {
        "BSZO": {
            "published": {"median": 0.4},
            "ours": {"median": 0.15},
            "forwards": {"median": 0.1},
            "bytes": 5e10,
        }
    },
    "bandwidth": {"bytes_per_second": 1e12},
    "memory": {"BSZO": {"ours": 26.2e9, "published": 26.8e9}},
}


def put(folder: Path, name: str, report: Any) -> None:
    (folder / name).write_text(
        report if isinstance(report, str) else json.dumps(report), encoding="utf-8"
    )


def test_a_report_by_hand(tmp_path: Path):
    put(tmp_path, "opt-13b-bfloat16-cuda.json", REPORT)
    memory, time, ceilings = table4(tmp_path)
    (row,) = [row for row in memory.rows if row[:3] == ("OPT-13B", "bf16", "BSZO")]
    assert row[3:6] == ("30.1", "26.8", "26.2")
    (row,) = [row for row in time.rows if row[:3] == ("OPT-13B", "bf16", "BSZO")]
    assert row[3:8] == ("440.5", "400.0", "150.0", "0.91", "0.38")
    # 5e10 bytes at 1e12 a second are 50 ms beside 100 of forward passes
    assert ceilings.rows == (
        ("OPT-13B", "bf16", "BSZO", "1.50", "1.50", "2.67", "4.00", "2.67", "A Card"),
    )


def test_without_bytes_the_forward_passes_are_the_only_ceiling(tmp_path: Path):
    put(tmp_path, "opt-125m-float32-cpu.json", {**REPORT, "bandwidth": {}, "memory": None})
    *_, other, ceilings = table4(tmp_path)
    assert other.rows[0][3:5] == ("-", "-") and other.rows[0][-1] == "A Card (resident set)"
    assert ceilings.rows[0][3:8] == ("1.50", "-", "2.67", "4.00", "-")


def test_what_is_no_report_is_named(tmp_path: Path):
    put(tmp_path, "opt-13b-bfloat16-cuda.json", {"steps": {}})
    put(tmp_path, "opt-1.3b-float32-cuda.json", "{")
    memory, time = table4(tmp_path)
    assert all(row[4] == "-" for row in time.rows)
    notes = " ".join(memory.notes)
    assert (
        "opt-13b-bfloat16-cuda.json: not a report" in notes
        and "opt-1.3b-float32-cuda.json" in notes
    )
