"""Runs and what is made of them: compose, train, record, sweep, render."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
RESULTS = ROOT / "results"
