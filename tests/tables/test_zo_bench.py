"""The field side by side: rates of a tuning scheme, which record answers what, and the table from
records by hand."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.sweeps.grid import Grid, GridError, Point, load, parse
from experiments.sweeps.selection import Shelf
from experiments.tables.layout import Section
from experiments.tables.memory import by_scheme
from experiments.tables.zo_bench import OF_BENCH, OF_RUNS, allocated, label, of_setting
from scripts.bench import memory
from tests.tables.conftest import Make

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "model_type": "opt",
    "vocab_size": 30000,
    "hidden_size": 144,
    "word_embed_proj_dim": 144,
    "ffn_dim": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
SWEEP = {
    "name": "toy",
    "title": "A toy",
    "axes": {
        "settings": ["model=small precision=fp32"],
        "tasks": ["task=sst2", "task=copa"],
        "methods": [
            "optimizer=sgd",
            "optimizer=forward-grad",
            "optimizer=mezo",
            "optimizer=mezo directions.blocks=transformer",
        ],
        "tunings": ["tuning=full", "tuning=lora"],
        "seeds": ["seed=0"],
    },
    "without": ["tuning=lora directions.blocks=transformer"],
    "select": "seed=0",
    "profiles": {"mini": {"fixed": "data=mini protocol=quick fidelity=corrected"}},
}
FILES = {
    "config.yaml": "directions:\n  sparsity: 0.0\n  blocks: none\n",
    "rates/small.yaml": "sgd: [1.0e-2]\nforward-grad: [1.0e-3]\nmezo: [1.0e-3]\n",
    "rates/small+lora.yaml": "sgd: [1.0]\nforward-grad: [1.0e-1]\nmezo: [1.0e-1]\n",
    "optimizer/sgd.yaml": "algorithm:\n  lr: 1.0e-2\n",
    "optimizer/forward-grad.yaml": "_target_: bszo.ForwardGrad\nlr: 1.0e-6\n",
}
PEAKS = {"full": {"SGD": 30 << 20, "ZO-SGD (MeZO)": 2 << 20, "ZO-SGD (MeZO), block-wise": 9 << 19}}
SCHEME = (
    "method",
    "SST-2",
    "COPA",
    "AVG",
    "forward passes",
    "backward passes",
    "MiB",
    "seconds a step",
    "at equal passes",
    "rank",
)


@pytest.fixture
def bench(conf: Path) -> Grid:
    for name, text in FILES.items():
        (conf / name).write_text(text)
    return parse(SWEEP, "mini", conf)


def record_of(
    make: Make, grid: Grid, point: Point, scores: tuple[float, float], **more: Any
) -> dict[str, Any]:
    """Ten steps, evaluated after five and ten with these validation accuracies; the test's is the
    last one's."""
    (run,) = grid.candidates(point)
    sgd, blocks = point["optimizer"] == "sgd", "directions.blocks" in point
    a_step = 4 if blocks else 2 if point["optimizer"] == "mezo" else 1
    made = make(
        point,
        0.0,
        test=scores[1],
        validation=scores[1],
        num_forwards=10 * a_step,
        num_backwards=10 * sgd,
        peak_memory_bytes=(300 if sgd else 200) * 10**6,
        step_ms=4.0,
        tuning=point["tuning"],
        model={"num_parameters": 50 if point["tuning"] == "lora" else 9000},
        **more,
    )
    made["curve"] = [
        {
            "step": s,
            "num_forwards": s * a_step,
            "train_loss": 0.5,
            "validation_accuracy": v,
            "train_seconds": 1.0,
        }
        for s, v in zip((0, 5, 10), (0.5, *scores), strict=True)
    ]
    rate = float(run["optimizer.algorithm.lr" if sgd else "optimizer.lr"])
    made["config"]["optimizer"] = {"algorithm": {"lr": rate}} if sgd else {"lr": rate}
    if point["optimizer"] == "forward-grad":
        made["config"]["optimizer"]["_target_"] = "bszo.ForwardGrad"
    made["config"]["directions"] = {"sparsity": 0.0, "blocks": "transformer" if blocks else "none"}
    made["choices"]["tuning"] = point["tuning"]
    made["signature"] = f"{len(label(point))}-{point['task']}-{point['tuning']}"
    return made


def made_of(grid: Grid, records: list[dict[str, Any]]) -> list[Section]:
    return of_setting(grid, Shelf(records, grid.conf), grid.settings[0], "Small", PEAKS)


def test_a_scheme_has_its_own_rates_and_only_the_whole_model_has_the_model_s(
    bench: Grid, conf: Path
):
    rates = {(p["tuning"], p["optimizer"]): bench.candidates(p)[0] for p in bench.points}
    assert (
        rates["full", "mezo"]["optimizer.lr"] == "0.001"
        and rates["lora", "mezo"]["optimizer.lr"] == "0.1"
    )
    assert rates["lora", "sgd"]["optimizer.algorithm.lr"] == "1"
    (conf / "rates" / "small+lora.yaml").unlink()
    poor = parse(SWEEP, "mini", conf)
    with pytest.raises(
        GridError, match=r"conf/rates/small\+lora\.yaml: no learning rates for sgd, which toy needs"
    ):
        poor.candidates(next(point for point in poor.points if point["tuning"] == "lora"))


def test_a_run_of_another_scheme_or_with_other_directions_answers_nothing(bench: Grid, make: Make):
    plain, blocks = (
        next(
            p
            for p in bench.points
            if p["optimizer"] == "mezo" and ("directions.blocks" in p) is there
        )
        for there in (False, True)
    )
    # a sweep that knows no schemes
    unnamed = {key: value for key, value in plain.items() if key != "tuning"}
    record = record_of(make, bench, plain, (0.6, 0.6))
    found = Shelf([record], bench.conf)
    assert (
        found.find(plain) is record and found.find(unnamed) is record and found.find(blocks) is None
    )
    for part, key, value in (("choices", "tuning", "lora"), ("directions", "sparsity", 0.5)):
        other = copy.deepcopy(record)
        (other["config"][part] if part == "directions" else other[part])[key] = value
        assert (
            Shelf([other], bench.conf).find(plain)
            is Shelf([other], bench.conf).find(unnamed)
            is None
        )
    older = copy.deepcopy(record)  # from before there were schemes and directions
    del older["choices"]["tuning"], older["config"]["directions"]
    assert Shelf([older], bench.conf).find(unnamed) is older


def test_ranks_are_at_equal_passes_and_the_rest_is_of_whole_runs(bench: Grid, make: Make):
    """MeZO's 20 forwards are the least: SGD's 5 steps are 5 + 2 x 5, its 10 are 30, and 20 lies
    between; forward mode's 5 are 15."""
    scores = {
        "SGD": (0.7, 0.9),
        "Forward-Grad": (0.8, 0.95),
        "ZO-SGD (MeZO)": (0.5, 0.75),
        "ZO-SGD (MeZO), block-wise": (0.75, 0.6),
    }
    records = [
        record_of(make, bench, point, scores[label(point)])
        for point in bench.points
        if point["tuning"] == "full"
    ]
    full, lora, ranks, memory = made_of(bench, records)
    assert full.columns == SCHEME and full.title == "Small: tuning=full"
    assert full.rows == (
        ("before training", "50.00", "50.00", "50.00", "-", "-", "-", "-", "-", "-"),
        ("SGD", "90.00", "90.00", "90.00", "10", "10", "30.0", "0.0040", "76.67", "2"),
        ("Forward-Grad", "95.00", "95.00", "95.00", "10", "0", "-", "0.0040", "85.00", "1"),
        ("ZO-SGD (MeZO)", "75.00", "75.00", "75.00", "20", "0", "2.0", "0.0040", "75.00", "3"),
        (
            "ZO-SGD (MeZO), block-wise",
            "60.00",
            "60.00",
            "60.00",
            "40",
            "0",
            "4.5",
            "0.0040",
            "75.00",
            "3",
        ),
    )
    assert full.bold == {(1, 9), (2, 9)}
    assert all(cell == "-" for row in lora.rows for cell in row[1:])
    assert [row[0] for row in ranks.rows] == list(scores) and {row[-1] for row in ranks.rows} == {
        "-"
    }
    assert "Trained parameters: 9,000." in full.notes[0]
    assert memory.rows == (("full", "30.0", "-", "2.0 - 4.5"), ("lora", "-", "-", "-"))
    assert (
        memory.notes[1:] == (OF_BENCH,)
        and full.notes[-1] == OF_BENCH
        and OF_BENCH not in lora.notes
    )


def test_the_equal_passes_are_each_task_s_own(bench: Grid, make: Make):
    """COPA's runs take half of the passes and cut none of SST-2's."""
    points = [point for point in bench.points if point["tuning"] == "full"]
    records = [record_of(make, bench, point, (0.6, 0.8)) for point in points]
    for record in records:
        if record["choices"]["task"] == "copa":
            for place in (record, *record["curve"]):
                place["num_forwards"] /= 2
    full, *_ = made_of(bench, records)
    assert full.rows[3][0] == "ZO-SGD (MeZO)" and full.rows[3][-2] == "80.00"


def test_the_seconds_of_a_step_are_the_mean_over_the_runs(bench: Grid, make: Make):
    seeds = tuple({**bench.points[0], "seed": str(seed)} for seed in range(3))
    grid = replace(bench, points=seeds)
    records = [record_of(make, bench, point, (0.6, 0.8)) for point in grid.points]
    for record, milliseconds in zip(records, (1.0, 2.0, 9.0), strict=True):
        record["step_ms"] = milliseconds
    full, *_ = made_of(grid, records)
    assert dict(zip(full.columns, full.rows[1], strict=True))["seconds a step"] == "0.0040"


def test_on_a_gpu_memory_is_the_runs_own(bench: Grid, make: Make):
    records = [record_of(make, bench, point, (0.6, 0.7)) for point in bench.points]
    for record in records:
        record["peak_memory_kind"] = "cuda_allocated"
    full, _, _, memory = made_of(bench, records)
    assert [row[6] for row in full.rows[1:]] == ["286.1", "190.7", "190.7", "190.7"] and full.notes[
        -1
    ] == OF_RUNS
    assert memory.rows == (("full", "286.1", "190.7", "190.7"), ("lora", "286.1", "190.7", "190.7"))


def test_failures_are_said_and_rank_nothing(bench: Grid, make: Make):
    records = [
        record_of(
            make,
            bench,
            point,
            (0.6, 0.6) if point["tuning"] == "full" else (0.7, 0.7),
            status="diverged" if (point["optimizer"], point["task"]) == ("sgd", "copa") else "ok",
        )
        for point in bench.points
    ]
    full, lora, ranks, memory = made_of(bench, records)
    assert full.rows[1][1:4] == ("60.00", "diverged (1 of 1)", "-") and full.rows[1][-2:] == (
        "-",
        "-",
    )
    assert lora.rows[4][1:] == ("-",) * 9  # block-wise: nothing to move
    assert ranks.columns == ("method", "full", "lora", "mean")
    assert ranks.rows == (
        ("Forward-Grad", "1", "1", "1.00"),
        ("ZO-SGD (MeZO)", "1", "1", "1.00"),
        ("SGD", "-", "-", "-"),
        ("ZO-SGD (MeZO), block-wise", "1", "-", "-"),
    )
    assert memory.rows[1] == ("lora", "-", "-", "-")  # nothing was measured with an adapter


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_every_method_meets_every_scheme_once(profile: str):
    points = load("zo_bench", profile).points
    tasks = {point["task"] for point in points}
    cells = [(point["task"], point["tuning"], label(point)) for point in points]
    # no blocks among virtual tokens
    assert len(set(cells)) == len(cells) == len(tasks) * (4 * 14 - 2)
    for point in points:
        has_eps = point["optimizer"] not in ("sgd", "adamw", "forward-grad")
        wants = ("1e-1" if point["tuning"] == "prefix" else "1e-4") if has_eps else None
        assert point.get("optimizer.eps") == wants


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schemes": {}}', '{"setting": {}, "schemes": {"full": {}}}']
)
def test_a_damaged_measurement_is_named(tmp_path: Path, text: str):
    (tmp_path / "memory.json").write_text(text)
    (section,) = by_scheme(tmp_path / "memory.json")
    assert section.rows == () and section.notes[0].startswith(
        "Left out: 1 (memory.json: not a report of scripts.bench"
    )
    assert allocated(tmp_path / "memory.json") == {}


def test_memory_is_shown_by_scheme(tmp_path: Path):
    assert by_scheme(tmp_path / "none.json") == []
    file = tmp_path / "memory.json"
    setting = {"model": "opt-125m", "dtype": "float32", "device": "cpu", "batch": 4, "length": 64}
    schemes = {
        "full": {"trained": 1000, "bytes": {"SGD": 3 * 2**20, "MeZO": 2**19}},
        "lora": {"trained": 10, "bytes": {"SGD": 2**20}},
    }
    file.write_text(json.dumps({"setting": setting, "schemes": schemes}))
    assert allocated(tmp_path / "none.json") == {}
    assert allocated(file) == {"full": {"SGD": 3 * 2**20, "MeZO": 2**19}, "lora": {"SGD": 2**20}}
    (section,) = by_scheme(file)
    assert section.columns == ("method", "full", "lora")
    assert section.rows == (
        ("trained parameters", "1,000", "10"),
        ("SGD", "3.0", "1.0"),
        ("MeZO", "0.5", "-"),
    )
    assert "OPT-125M's shape, float32, 4 rows of 64 tokens" in section.notes[0]


def test_what_is_counted_is_a_step_s_own(tmp_path: Path):
    """First-order steps hold all gradients, MeZO none; Adam's moments are two more; adapters have
    small ones."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    methods = ("SGD", "AdamW", "ZO-SGD (MeZO)", "ZO-Adam (MeZO-Adam)")
    schemes = {}
    for scheme, measured in ("full", methods), ("lora", methods[:2]):
        out = tmp_path / f"{scheme}.json"
        arguments = ["--model", str(tmp_path), "--schemes", scheme, "--methods", *measured]
        memory.main([*arguments, "--batch", "2", "--length", "16", "--out", str(out)])
        schemes |= json.loads(out.read_text())["schemes"]
    full, lora = schemes["full"]["bytes"], schemes["lora"]["bytes"]
    n = 4 * schemes["full"]["trained"]  # bytes of the parameters
    assert full["AdamW"] - full["SGD"] >= 2 * n and full["SGD"] > n > full["ZO-SGD (MeZO)"]
    assert full["ZO-Adam (MeZO-Adam)"] >= 2 * n
    assert lora["SGD"] < full["SGD"] and lora["AdamW"] - lora["SGD"] < n / 10


def test_all_of_the_sweep_s_methods_are_measured():
    wanted = {label(point) for point in load("zo_bench", "mini").points}
    text = (ROOT / "scripts" / "bench" / "memory.py").read_text()
    assert [name for name in wanted if f'    "{name}": (' not in text] == []
