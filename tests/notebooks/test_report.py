"""The report: what it says of hand-made records and of none, its links, its bytes, its look in a
browser."""

import html.parser
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from experiments.sweeps.grid import load
from scripts.maintain import report

NAMES = sorted(path.stem for path in report.NOTEBOOKS.glob("*.ipynb"))
QUIETLY = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")


def text_of(page: Path) -> str:
    """What a reader sees, on one line."""
    text = re.sub(
        r"<style>.*?</style>|<details class=\"code\">.*?</details>",
        "",
        page.read_text(),
        flags=re.DOTALL,
    )
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


class Links(html.parser.HTMLParser):
    """Every href and src of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_links_resolve_and_nothing_comes_from_elsewhere(pages: Path):
    for page in pages.glob("*.html"):
        links = [link for link in Links(page).found if link != "data:,"]
        assert "index.html" in links
        assert all((pages / link.partition("#")[0]).is_file() for link in links), page.name
        # the way to the others
        assert {"index.html#tables", *(f"{name}.html" for name in NAMES)} <= set(links)
        assert "<script" not in page.read_text() and "@import" not in page.read_text()
    index = (pages / "index.html").read_text()
    anchors = {
        link.partition("#")[2]
        for page in pages.glob("*.html")
        for link in Links(page).found
        if "#" in link
    }
    assert all(f'id="{anchor}"' in index for anchor in anchors)


def test_index_has_questions_answers_tables_and_figures(pages: Path):
    text = text_of(pages / "index.html")
    for path in sorted(report.NOTEBOOKS.glob("*.ipynb")):
        source = nbformat.read(path, as_version=4).cells[0].source
        assert source.split("**Question.** ")[1].split("\n")[0] in text
    assert "Table 9 never run" in text and "More" not in text
    assert "Table 9: a title" in text and "A part" in text and "Training loss under bf16" in text


def test_the_answers_are_the_records_numbers(pages: Path):
    """BEST of conftest.py by hand: at 400 forward passes BSZO is two thirds of the way and MeZO at
    its end."""
    text = text_of(pages / "1-learning-curves.html")
    # seed 0; seed 1 has 0.01 more at its end
    sst2, rte = (0.5 + 2 / 3 * 0.42) - 0.82, (0.5 + 2 / 3 * 0.12) - 0.72
    mean = 100 * (sst2 + rte) / 2 + 0.5 * (2 / 3 - 1)
    assert f"BSZO is behind MeZO by {-mean:.2f} points (2 tasks" in text
    assert (
        "over 4 pairs of task and model" in text and "+5.00 points at the end of each run" in text
    )
    text = text_of(pages / "2-posterior-and-noise.html")
    # 1 / (1 + 3)
    assert "the median gain is 0.25" in text and "1.00 times the γ of the run's own" in text
    text = text_of(pages / "3-low-precision.html")
    # BSZO's run of table 5 c with k = 2 is table 3's of RTE
    each = "MeZO +2.00 (1 better, 0 worse of 1); BSZO +2.00 ± 0.00 (2 better, 0 worse of 2) points"
    setting = "The walk alone in bf16, ε = 0.0001 (tiny-opt, bf16 (mini))"
    assert f"{setting}: exact restoration changes test accuracy by {each}" in text
    grid = load("figure1", "mini")
    # three of table 3, figure 1 at every rate
    warned = 3 + sum(
        len(grid.candidates(point))
        for point in grid.points
        if point["optimizer"] in ("mezo", "bszo") and point["fidelity"] == "official"
    )
    assert f"Swallowed updates : runs that warned of them: {warned} of" in text
    assert "Drift of small after 10 steps at lr 0: bfloat16, ε = 0.001: three-leg 0.1 %" in text
    assert "Perplexity of small: at most 2.25 times what it was" in text  # 8 + 10 over 8


# tests/tables/test_artefacts.py asks the same of tables and figures
@pytest.mark.exhaustive
def test_the_same_records_give_the_same_bytes(pages: Path, results: Path):
    name = NAMES[-1]
    (alone,) = report.execute([report.NOTEBOOKS / f"{name}.ipynb"], results)
    page = report.convert(alone, name)
    assert report.html_page(page.title, page.body) == (pages / f"{name}.html").read_bytes()
    assert all((pages / figure).read_bytes() == png for figure, png in page.figures.items())


def test_no_path_and_no_machine_is_named(pages: Path, results: Path):
    for page in pages.glob("*.html"):
        for name in (str(Path.home()), str(report.ROOT), str(results), "ipykernel"):
            assert name not in page.read_text(), page.name


@pytest.mark.parametrize("name", NAMES)
def test_without_records_it_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In this process: three kernels more would cost as much as all the rest."""
    monkeypatch.setenv("BSZO_RESULTS", str(tmp_path))
    monkeypatch.delitem(sys.modules, "notebooks.reading", raising=False)
    reading, shown = importlib.import_module("notebooks.reading"), []
    monkeypatch.setattr(reading, "display", shown.append)
    monkeypatch.delitem(sys.modules, "notebooks.reading")  # so that no other test finds it
    monkeypatch.setitem(sys.modules, "notebooks.reading", reading)
    names: dict[str, object] = {}
    for cell in nbformat.read(report.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    texts = [output.data for output in shown]
    assert texts[-1] == "## Answer\n\n- Nothing was run yet: there are no records to answer from."
    assert texts[0].startswith("Nothing was run of ") and len(texts) > 3
    assert all("Nothing was run" in text or text.startswith("**") for text in texts)


def test_an_empty_index_says_so():
    body = report.index([], [], [], "")
    assert "No table was rendered yet" in body and "No figure was drawn yet" in body


def test_a_broken_notebook_is_one_line_and_no_page(tmp_path: Path, monkeypatch, capsys):
    cells = [
        nbformat.v4.new_markdown_cell("# 1. A\n\n**Question.** Why?"),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "1-a.ipynb")
    monkeypatch.setattr(report, "NOTEBOOKS", tmp_path)
    # handlers that earlier tests left complain on stderr
    monkeypatch.setattr("logging.raiseExceptions", False)
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == "1-a.ipynb: ZeroDivisionError: division by zero"
    assert not (tmp_path / "out").exists()


PROBE = """<script>
addEventListener("load", () => {
  const wide = document.documentElement.clientWidth;
  const scrolls = e => e && (getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement));
  const out = [...document.querySelectorAll("main *")].filter(
    e => e.getBoundingClientRect().right > wide + 1 && !scrolls(e)
  ).map(e => e.tagName + "." + e.className);
  const headings = [...document.querySelectorAll("h1, h2")].filter(
    e => e.offsetHeight > 0
  ).map(e => e.textContent);
  const broken = [...document.images].filter(e => !e.naturalWidth).map(e => e.src);
  const report = {out, headings, broken, scroll: document.documentElement.scrollWidth - wide};
  document.body.innerHTML = "<pre id=probe></pre>";
  document.getElementById("probe").textContent = JSON.stringify(report);
});
</script></body>"""


# what overflows does so first where the page is narrow
@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.exhaustive), 500])
def test_in_a_browser_headings_show_and_nothing_overflows(pages: Path, tmp_path: Path, width: int):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no headless browser: none of {', '.join(BROWSERS)} is installed")
    shutil.copytree(pages, tmp_path / "pages")
    for page in sorted((tmp_path / "pages").glob("*.html")):
        page.write_text(
            page.read_text().replace("</body>", PROBE).replace("<details", "<details open")
        )
        command = [
            browser,
            *QUIETLY,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1200",
            "--virtual-time-budget=4000",
            "--dump-dom",
            page.as_uri(),
        ]
        dom = subprocess.run(
            command, capture_output=True, text=True, timeout=600, check=True
        ).stdout
        found = re.search(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
        assert found, dom[-500:]
        seen = json.loads(html.unescape(found[1]))
        parts = {"Questions and answers", "What was run", "Tables", "Figures"}
        wanted = parts if page.stem == "index" else {"Answer"}
        assert wanted <= set(seen["headings"]) and seen["out"] == [] and seen["scroll"] <= 0, (
            page.name
        )
        assert seen["broken"] == [], page.name
