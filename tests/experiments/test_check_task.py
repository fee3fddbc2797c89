"""The page "your own task" is true: its YAML and rows, checked and run from a folder of the
user's."""

import json
import re
from pathlib import Path

import pytest

from bszo.errors import ConfigError
from experiments.check_task import main
from tests.experiments.conftest import Cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-own-task.md"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The page's own YAML and rows, in the page's own folders."""
    (task,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mood.yaml").write_text(task, encoding="utf-8")
    folder = tmp_path / "rows" / "mood"
    folder.mkdir(parents=True)
    examples = [json.loads(line) for line in rows.splitlines()]
    for split, count in (("train", 8), ("test", 4)):
        numbered = [
            examples[i % 2] | {"text": f"{split} {i} {examples[i % 2]['text']}"}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8"
        )
    return tmp_path


def arguments(mine: Path, *more: str) -> list[str]:
    return [
        "--config-dir",
        str(mine),
        "task=mood",
        "data=local",
        f"data.root={mine / 'rows'}",
        "device=cpu",
        *more,
    ]


@pytest.mark.parametrize("model", ["tiny-opt", "tiny-roberta"])
def test_one_example_is_shown_token_by_token(
    model: str, mine: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(mine, f"model={model}", "--row", "1")) == 0
    out = capsys.readouterr().out
    assert "train │ 6" in out.replace("  ", " ") or re.search(r"train\s+│ 6 ", out)
    tokens = re.findall(r"(\[?\d+\]?):(\S+)", out.split("bracketed] ones")[1].split("score =")[0])
    read = [token for mark, token in tokens if mark.startswith("[")]
    assert read == (["Ġwas"] if model == "tiny-opt" else ["<mask>"])
    assert "'" + " terrible" + "'" in out and "Ġgreat" in out
    assert out.count("right") == 1 and out.count("chosen") == 1
    scores = [float(score) for score in re.findall(r"-\d+\.\d{4}", out)]
    assert len(scores) == 2 and all(score < 0 for score in scores)


def test_scores_and_tokens_are_the_model_s(mine: Path, capsys: pytest.CaptureFixture[str]):
    from bszo.models import load_model
    from bszo.tasks import Example

    assert main(arguments(mine, "model=tiny-opt")) == 0
    out = capsys.readouterr().out
    pieces = re.findall(r"\[?\d+\]?:(\S+)", out.split("bracketed] ones")[1].split("score =")[0])
    text = "".join(pieces[1:]).replace("Ġ", " ")
    model = load_model("asset:tiny-opt", dtype="float32")
    encoded = model.encode([Example("x:0", text, (" terrible", " great"), 0)])
    expected = model.score_all(encoded, max_tokens=99)[0].tolist()
    assert [float(score) for score in re.findall(r"-\d+\.\d{4}", out)] == pytest.approx(
        expected, abs=1e-4
    )


def test_written_answers_are_shown_with_their_f1(capsys: pytest.CaptureFixture[str]):
    small = (
        "data.num_train=20",
        "data.num_test=4",
        "task.num_train=8",
        "task.num_validation=4",
        "device=cpu",
    )
    assert main(["task=squad", "model=tiny-opt", "task.max_new_tokens=5", *small]) == 0
    assert re.search(r"written: '.*'\ngold: +'.*'.*\ntoken F1 [01]\.\d{3}", capsys.readouterr().out)


def test_the_page_s_run_command_runs(mine: Path, cli: Cli):
    extra = (
        "model=tiny-opt",
        "optimizer=bszo",
        "protocol=smoke",
        "tracker=none",
        "tracker.progress=never",
    )
    outcome = cli(*arguments(mine, *extra, f"paths.results={mine / 'results'}"))
    assert outcome.code == 0, outcome.err
    assert len(list((mine / "results" / "runs").glob("mood-*.json"))) == 1


@pytest.mark.parametrize("flag", [("--config-dir={}",), ("--config-dir", "{}")])
def test_a_misspelt_choice_of_one_s_own_is_recognised_by_a_run(
    flag: tuple[str, ...], mine: Path, cli: Cli
):
    outcome = cli(
        *(part.format(mine) for part in flag), "task=mod", f"paths.results={mine / 'results'}"
    )
    assert outcome.code == 1 and outcome.err.startswith(
        "task=mod: no such choice; choose one of boolq,"
    )
    assert "(did you mean mood?)" in outcome.err


def test_a_file_with_the_name_of_one_of_the_project_s_is_refused(mine: Path):
    """It would not be read, and nothing would say so."""
    from experiments.config.compose import compose

    (mine / "protocol").mkdir()
    (mine / "protocol" / "mini.yaml").write_text("num_steps: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="protocol=mini is a choice of this project's, which"):
        compose(["task=mood"], folders=[mine])


@pytest.mark.parametrize(
    ("right", "slip", "says"),
    [
        ('"{text} It was"', "{text} It was", "mood.yaml:12: .* write prompt: '{text} It was'"),
        ('"{text} It was"', "Review: {text}", "mood.yaml:12: .* write prompt: 'Review: {text}'"),
        ("  prompt", "\tprompt", "mood.yaml:12: a tab"),
        ("version: 1 ", "name: 1 ", "mood.yaml:3: the key name stands in line 2 already"),
        (
            "[sad, happy]",
            "[no, yes]",
            "task.label_names=False: .*string; YAML reads no, .*write 'no'",
        ),
        ("[sad, happy]", "[1, 2]", "task.label_names=1: .*string; write '1' in quotes"),
        ("_target_: bszo.tasks.Task", "[a, b]", "mood.yaml:1: not of the form key: value"),
        (None, "", "mood.yaml: is empty"),
        (None, "- a\n", "mood.yaml:1: not of the form key: value"),
    ],
)
def test_a_slip_in_one_s_own_yaml_is_one_line_in_both_commands(
    mine: Path, cli: Cli, capfd: pytest.CaptureFixture[str], right: str | None, slip: str, says: str
):
    yaml = mine / "task" / "mood.yaml"
    text = yaml.read_text(encoding="utf-8")
    yaml.write_text(slip if right is None else text.replace(right, slip, 1), encoding="utf-8")
    assert main(arguments(mine)) == 1
    (checked,) = capfd.readouterr().err.splitlines()
    outcome = cli(*arguments(mine, "tracker=none", f"paths.results={mine / 'results'}"))
    assert outcome.code == 1
    (ran,) = outcome.err.splitlines()
    assert re.search(says, checked) and checked == ran
    assert not (mine / "results").exists()


def test_the_names_of_other_models_are_not_borrowed(mine: Path, capsys: pytest.CaptureFixture[str]):
    """A table goes by the name: other weights under it would be a silent wrong number."""
    assert main(arguments(mine, "model=tiny-opt", "model.path=asset:tiny-mistral")) == 1
    assert capsys.readouterr().err.startswith(
        "model.path=asset:tiny-mistral: the name tiny-opt stands for asset:tiny-opt; take"
    )


def test_mistakes_are_one_line(mine: Path, capsys: pytest.CaptureFixture[str]):
    rows = mine / "rows" / "mood" / "train.jsonl"
    good = rows.read_text(encoding="utf-8")
    yaml = mine / "task" / "mood.yaml"
    text = yaml.read_text(encoding="utf-8")

    def says(*more: str) -> str:
        assert main(arguments(mine, "model=tiny-opt", *more)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert says("--row", "6") == "--row 6: must be 0 to 5, the training rows"
    assert re.match(
        r"task=moods: no such choice; choose one of .*sst2.*\(did you mean mood\?\)$",
        says("task=moods"),
    )
    assert says("model=null").startswith("model=null: no such choice; choose one of")
    assert main(["--config-dir", str(mine / "none")]) == 1
    assert (
        "none: there is no such folder; one with task/<name>.yaml is needed"
        in capsys.readouterr().err
    )
    rows.write_text(good.replace('"sad"', '"glad"', 1), encoding="utf-8")
    assert says().endswith("train.jsonl:1: field 'mood' is 'glad'; valid: 0 (sad), 1 (happy)")
    rows.write_text(good, encoding="utf-8")
    yaml.write_text(text.replace("columns: [text]", "columns: [words]"), encoding="utf-8")
    assert says() == "task.causal uses text; task.columns has words"
    yaml.write_text(text.replace("num_train: 6", "num_trains: 6"), encoding="utf-8")
    assert says().startswith("task.num_trains: no such key; choose one of")
