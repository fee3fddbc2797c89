"""Who may import whom: the design's table, held by parsing every import, also those inside
functions."""

import ast
import sys
from pathlib import Path

import pytest

from scripts.maintain import layers

ROOT = Path(__file__).resolve().parents[1]
OURS = ("bszo", "experiments")
PATHS = ("experiments.ROOT", "experiments.CONF", "experiments.RESULTS")  # said once, for all

# layer (the longest prefix that fits a module decides) -> what of ours, what of others' it may
# import
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bszo": (("bszo.optim", "bszo.errors"), ()),
    "bszo.errors": ((), ()),
    "bszo.costs": ((), ()),
    "bszo.half": ((), ("torch",)),
    "bszo.files": ((), ()),
    "bszo.cache": ((), ()),
    "bszo.allocator": ((), ()),
    "bszo.core": (("bszo.core", "bszo.errors"), ("torch",)),
    "bszo.perturb": (("bszo.perturb", "bszo.errors"), ("torch",)),
    "bszo.perturb.compiled": (
        ("bszo.perturb.compiled", "bszo.errors", "bszo.files", "bszo.cache"),
        ("torch",),
    ),
    "bszo.perturb.noise.kernels": (("bszo.perturb.noise",), ("torch", "triton")),
    "bszo.optim": (
        ("bszo.optim", "bszo.core", "bszo.perturb", "bszo.errors", "bszo.costs"),
        ("torch",),
    ),
    "bszo.trajectory": (
        ("bszo.trajectory", "bszo.core", "bszo.perturb", "bszo.errors", "bszo.files"),
        ("torch",),
    ),
    "bszo.integrations": (
        (
            "bszo.integrations",
            "bszo.models",
            "bszo.optim",
            "bszo.perturb",
            "bszo.errors",
            "bszo.half",
        ),
        ("torch", "transformers", "trl"),
    ),
    "bszo.__main__": (("bszo.cli",), ()),
    # the command, thin over all of the library
    "bszo.cli": (
        (
            "bszo.cli",
            "bszo.optim",
            "bszo.find_lr",
            "bszo.RangeTest",
            "bszo.__version__",
            "bszo.models",
            "bszo.tasks",
            "bszo.trajectory",
            "bszo.errors",
            "bszo.files",
            "bszo.allocator",
        ),
        ("torch", "transformers", "tqdm"),
    ),
    "bszo.tasks": (("bszo.tasks", "bszo.errors"), ("torch", "datasets")),
    "bszo.models": (
        (
            "bszo.models",
            "bszo.tasks",
            "bszo.perturb.noise",
            "bszo.errors",
            "bszo.files",
            "bszo.cache",
            "bszo.half",
        ),
        (
            "torch",
            "transformers",
            "peft",
            "safetensors",
            "tokenizers",
            "huggingface_hub",
            "gguf",
            "torchao",
        ),
    ),
    "experiments.config": (
        ("experiments.config", "bszo.models", "bszo.tasks", "bszo.errors"),
        ("hydra", "omegaconf", "pydantic", "torch", "yaml"),
    ),
    "experiments.records": (
        ("experiments.records", "bszo.errors", "bszo.costs", "bszo.files", "bszo.__version__"),
        ("filelock", "yaml"),
    ),
    "experiments.records.provenance": (
        (
            "experiments.records.privacy",
            "bszo.__version__",
            "bszo.half",
            "bszo.perturb.compiled",
        ),
        ("torch",),
    ),
    "experiments.training": (
        (
            "experiments.training",
            "experiments.config",
            "experiments.records",
            "bszo.models",
            "bszo.tasks",
            "bszo.trajectory",
            "bszo.costs",
            "bszo.errors",
            "bszo.files",
            "bszo.allocator",
        ),
        ("hydra", "torch", "safetensors", "filelock", "psutil", "tqdm", "wandb"),
    ),
    "experiments.sweeps": (
        (
            "experiments.sweeps",
            "experiments.records",
            "experiments.config.yaml_files",
            "bszo.errors",
        ),
        ("yaml",),
    ),
    "experiments.sweeps.estimate": (
        ("experiments.records", "experiments.sweeps", "experiments.config"),
        ("hydra", "omegaconf", "torch", "yaml"),
    ),
    "experiments.tables": (
        (
            "experiments.tables",
            "experiments.sweeps",
            "experiments.records",
            "bszo.costs",
            "bszo.files",
        ),
        ("yaml", "scipy", "numpy"),
    ),
    # what can be typed; the optimizers come through Hydra's instantiate alone
    "experiments": (
        (
            "experiments",
            "bszo.models",
            "bszo.tasks",
            "bszo.errors",
            "bszo.files",
        ),
        ("hydra", "omegaconf", "torch", "tqdm", "rich", "transformers"),
    ),
    "experiments.find_lr": (
        (
            "experiments",
            "bszo.cli.find_lr",
            "bszo.find_lr",
            "bszo.RangeTest",
            "bszo.models",
            "bszo.tasks",
            "bszo.errors",
            "bszo.files",
        ),
        ("matplotlib",),
    ),
    # the command with the names of conf/model
    "experiments.replay": (("experiments.sweeps", "bszo.cli"), ()),
    "hydra_plugins": (
        ("experiments", "bszo.errors"),
        ("hydra", "omegaconf", "psutil", "hydra_plugins.hydra_joblib_launcher", "joblib"),
    ),
    # what draws, studies and maintains reads records; what measures uses the library
    "scripts": (
        (
            "scripts",
            "experiments.records",
            "experiments.sweeps",
            "experiments.tables",
            "bszo.files",
        ),
        ("matplotlib", "rich", "numpy"),
    ),
    "scripts.bench": (
        ("scripts.bench", *OURS),
        ("torch", "transformers", "safetensors", "rich", "hydra", "psutil"),
    ),
    "scripts.study.agreement": (OURS, ("torch",)),
    "scripts.study.drift": (OURS, ("torch",)),
    "scripts.study.descent": (OURS, ("torch",)),
    "scripts.study.muon": (OURS, ("torch",)),
    "scripts.study.estimators": (OURS, ("torch",)),
    "scripts.study.find_lr": (OURS, ("torch",)),
    "scripts.study.gradient_signal": (("scripts.study.agreement", *OURS), ("torch",)),
    "scripts.study.heads": (
        ("scripts.study.agreement", "scripts.study.means", *OURS),
        ("torch",),
    ),
    "scripts.study.means": (("scripts.study.agreement", *OURS), ("torch",)),
    "scripts.study.reward": (OURS, ("torch", "examples.reward")),
    "scripts.study.sampled": (OURS, ("torch", "examples.reward")),
    "scripts.study.theory": (("scripts.study.descent", *OURS), ("torch",)),
    "scripts.maintain.no_number_changes": (OURS, ("torch", "hydra")),
    "scripts.maintain.layers": (("bszo.files",), ("tests.test_layers",)),
    "scripts.maintain.report": (
        ("bszo.files", "experiments.tables.artefacts"),
        ("nbclient", "nbconvert", "nbformat", "jinja2", "pygments", "traitlets"),
    ),
    "scripts.maintain.pretrain_tiny": (
        OURS,
        ("torch", "transformers", "safetensors", "tokenizers", "numpy", "tqdm"),
    ),
}
MODULES = sorted(
    path.relative_to(ROOT)
    for folder in ("bszo", "experiments", "hydra_plugins", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


def layer_of(module: str) -> str:
    """The longest name that the module lies in: `bszo.core` for `bszo.core.noise`."""
    fits = [name for name in LAYERS if module == name or module.startswith(f"{name}.")]
    return max(fits, key=len)


def imports(path: Path, module: str) -> set[str]:
    """Every imported name, dotted: `from a.b import c` gives `a.b.c`, relative imports resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def wrong_imports(path: Path, module: str) -> list[str]:
    ours, others = LAYERS[layer_of(module)]
    wrong = []
    for name in imports(path, module):
        top = name.split(".")[0]
        if top in OURS or top == "scripts":
            fine = within(name, (*ours, *PATHS))
        else:
            fine = top in sys.stdlib_module_names or within(name, others)
        if not fine:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path: Path):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    assert wrong_imports(ROOT / path, module) == []


def test_core_knows_no_network():
    for path in MODULES:
        if path.parts[:2] == ("bszo", "core"):
            names = imports(ROOT / path, "bszo.core.x")
            assert not any(within(name, ("torch.nn", "torch.optim")) for name in names), path


def test_the_design_page_shows_this_table():
    page = layers.PAGE.read_text(encoding="utf-8")
    assert page == layers.page_with(page, LAYERS), "python -m scripts.maintain.layers writes it"
    assert "| `bszo.core` | `bszo.core`, `bszo.errors` | `torch` |" in page


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bszo.core.noise", "from bszo.optim import BSZO"),
        ("bszo.tasks.task", "import bszo.models"),
        ("bszo.optim.mezo", "def f():\n    import hydra"),
        ("bszo.models.load", "from ..optim import base"),
        ("experiments.training.runner", "from bszo import BSZO"),
        ("experiments.records.record", "import torch"),
        ("scripts.figures.figure1", "import experiments.run"),
        ("scripts.maintain.status", "import torch"),
    ],
)
def test_the_table_can_fail(tmp_path: Path, module: str, line: str):
    path = tmp_path / "x.py"
    path.write_text(line)
    assert len(wrong_imports(path, module)) == 1
