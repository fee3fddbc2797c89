"""Runs and what is made of them: compose, train, record, sweep, render."""

import os
from pathlib import Path

# A thread that waits for others sleeps. One that spins takes the core away from the others wherever
# another program wants one too, and a pass then takes ten times as long. OpenMP reads it once, when
# torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
RESULTS = ROOT / "results"
