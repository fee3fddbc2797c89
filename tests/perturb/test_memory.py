"""What a step may add to the resident set: streaming one layer's weights, copies all of them."""

import subprocess
import sys

import pytest

WIDTH, LAYERS = 1024, 16
LAYER_BYTES = 4 * WIDTH * (WIDTH + 1)

STEP = f"""
import re, resource
from pathlib import Path
import torch
from torch import nn
from bszo import BSZO
from bszo.perturb import Gaussian

torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

# A kernel may take a library's idle pages back at any moment, and the peak of the resident set
# then grows by less than the step took. What was allocated it cannot take: read while a layer runs,
# where perturbed weights exist.
def allocated():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s*(\\d+) kB", status).group(1)) * 1024

class Layer(nn.Linear):
    def forward(self, x):
        held.append(allocated())
        return super().forward(x)

# +1 and -1 by the eager kernel: the memory is that of any family, and no compiler's
class Signs(Gaussian):
    def __init__(self, params):
        super().__init__(params, "rademacher")
        self.fused = False

BSZO.make_family = lambda self, params: Signs(params)
module = nn.Sequential(*(Layer({WIDTH}, {WIDTH}) for _ in range({LAYERS})))
x = torch.randn(2, {WIDTH})
small = nn.Linear(8, 8)  # whatever a first step loads
warm_up = BSZO(small.parameters(), lr=1e-6, k=1, m=1, module=small)
warm_up.step(lambda: small(torch.ones(1, 8)).square().mean())
for how in ("streaming", "copy"):  # what the first adds must be the smaller: a peak never falls
    optimizer = BSZO(module.parameters(), lr=1e-6, k=1, m=1, module=module, perturbation=how)
    with torch.no_grad():
        held = []
        module(x)
        before, held = peak(), [allocated()]
        optimizer.step(lambda: module(x).square().mean())
    print(max(peak() - before, max(held) - held[0]))
"""


@pytest.fixture(scope="module")
def growth() -> dict[str, int]:
    """Bytes that a fresh process holds at most in one step, over those before it."""
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(("streaming", "copy"), map(int, done.stdout.split()), strict=True))


def test_a_streaming_step_adds_one_layer(growth: dict[str, int]) -> None:
    # buffers of a layer and the kernel's chunks
    assert growth["streaming"] < 4 * LAYER_BYTES + 8_000_000


def test_a_step_with_copies_adds_the_model(growth: dict[str, int]) -> None:
    """So that the bound above is known to see what a copy adds."""
    assert growth["copy"] > 0.7 * LAYERS * LAYER_BYTES
