"""The report: the notebooks, executed, and the tables and figures, as pages that need no network.

    python -m scripts.maintain.report                           # make notebooks
    python -m scripts.maintain.report --results DIR --out DIR   # of other results

It writes outputs/report/index.html and the pages beside it. The same results give the same bytes:
there are no dates, no names of machines and no paths. The notebooks read records only.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jinja2 import Template
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from bszo.files import written_whole
from experiments import RESULTS, ROOT
from experiments.tables.artefacts import ARTEFACTS

NOTEBOOKS = ROOT / "notebooks"
PAGES = "[0-9]*.ipynb"
MOST_BYTES = 2 << 20
TITLE = "BSZO: what was measured"
ABOUT = (
    "BSZO fine-tunes language models from loss values alone. Here is what this suite measured of"
    " the paper's claims: three notebooks that ask and answer, every table beside the paper's,"
    " every figure. Each number comes from a record under <code>results/</code>; what was not run"
    " prints as <code>-</code>, a failure as what it was."
)
# nbconvert's plainest body: the code folded away, everything else in the page's own style
BODY = """{%- extends 'basic/index.html.j2' -%}
{% block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock input_group %}"""


class ReportError(Exception):
    """A notebook that cannot be run, or a page that cannot be published; the message is one
    line."""


@dataclass(frozen=True)
class Page:
    """A notebook as a page.

    Attributes:
        name: the stem of its file.
        title, question: taken from its first cell, as Markdown.
        answer: what its last cell computed, as Markdown.
        body: HTML.
        figures: PNG files by their names.
    """

    name: str
    title: str
    question: str
    answer: str
    body: str
    figures: dict[str, bytes]


# between two notebooks: the next one finds no name of the last one's
FRESH = "%reset -f\nfrom matplotlib import pyplot\npyplot.close('all')\ndel pyplot"


def execute(paths: Sequence[Path], results: Path) -> list[NotebookNode]:
    """Run notebooks on the records under `results` and return them with their outputs. One kernel
    serves them all, for one that starts and imports takes longer than a notebook.

    Raises:
        ReportError: a cell fails; the message names the notebook and the error.
    """
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    whole = nbformat.v4.new_notebook(metadata=notebooks[0].metadata)
    for notebook in notebooks:
        whole.cells += [*notebook.cells, nbformat.v4.new_code_cell(FRESH)]
    client = NotebookClient(
        whole,
        kernel_name="python3",
        timeout=600,
        startup_timeout=180,
        resources={"metadata": {"path": str(ROOT)}},  # where a kernel finds our packages
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        with _own_files():
            client.execute(
                env={**os.environ, "BSZO_RESULTS": str(results.resolve()), "MPLBACKEND": "agg"}
            )
    except CellExecutionError as error:
        failed = next(
            p for p, n in zip(paths, notebooks, strict=True) if any(map(_failed, n.cells))
        )
        line = error.evalue.splitlines()[0]
        raise ReportError(f"{failed.name}: {error.ename}: {line}") from error
    for path, notebook in zip(paths, notebooks, strict=True):
        notebook.metadata.language_info = whole.metadata.language_info  # which the kernel has told
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if output.get("name") == "stderr":  # a library's warning names this machine's paths
                    print(f"{path.name}: {output.text.strip().splitlines()[0]}", file=sys.stderr)
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebooks


def _failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


@contextmanager
def _own_files() -> Iterator[None]:
    """A folder of its own for what IPython and Jupyter write, for a home may be read-only."""
    names = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    with TemporaryDirectory() as folder:
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]
            os.environ.update(before)


def convert(notebook: NotebookNode, name: str) -> Page:
    """Turn an executed notebook into a page."""
    settings = Config({"ExtractOutputPreprocessor": {"enabled": True}})
    exporter = HTMLExporter(
        config=settings,
        template_name="basic",
        raw_template=BODY,
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, resources = exporter.from_notebook_node(
        notebook, {"unique_key": name, "output_files_dir": "figures"}
    )
    title, *rest = [part.strip() for part in notebook.cells[0].source.split("\n\n")]
    question = (
        next(part for part in rest if part.startswith("**Question.**"))
        .removeprefix("**Question.**")
        .strip()
    )
    answer = notebook.cells[-1].outputs[-1].data["text/markdown"].partition("\n")[2].strip()
    return Page(name, title.lstrip("# "), question, answer, body, dict(resources["outputs"]))


def tables(folder: Path) -> list[tuple[str, str]]:
    """Return (title, HTML) of every rendered table, in the order of their numbers."""
    found = []
    for file in sorted(
        folder.glob("*.md"), key=lambda file: (int(re.sub(r"\D", "", file.stem) or 1000), file.stem)
    ):
        text = re.sub(r"^<!--.*?-->\s*", "", file.read_text(encoding="utf-8"))
        title, _, rest = text.partition("\n")
        html = markdown2html(re.sub(r"^#+ (.*)$", r"### \1", rest, flags=re.MULTILINE))
        found.append(
            (title.lstrip("# "), scrollable(re.sub(r'<a class="anchor-link".*?</a>', "", html)))
        )
    return found


def state(results: Path) -> str:
    """Return the table of what was run, from the head of the results' README; empty where there is
    none."""
    file = results / "README.md"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = [
        line
        for line in lines[: next((i for i, line in enumerate(lines) if line.startswith("## ")), 0)]
        if line.startswith("|")
    ]
    return scrollable(markdown2html("\n".join(rows))) if rows else ""


def scrollable(html: str) -> str:
    """Let tables scroll by themselves where the page is too narrow."""
    return html.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )


def caption(stem: str) -> str:
    """Say what a figure shows; figure1_mini is figure1 of a profile."""
    name, _, profile = stem.rpartition("_")
    if stem in ARTEFACTS:
        return ARTEFACTS[stem].title or stem
    if name in ARTEFACTS:
        return f"{ARTEFACTS[name].title} (profile {profile})"
    return stem.replace("_", " ")


def index(
    pages: Sequence[Page], rendered: Sequence[tuple[str, str]], figures: Sequence[str], there: str
) -> str:
    """Return the body of the first page: each notebook's question and answer, what was run, the
    tables and the figures."""
    parts = [
        f"<h1>{TITLE}</h1>",
        f'<p class="lead">{ABOUT}</p>',
        '<h2 id="questions">Questions and answers</h2>',
    ]
    for page in pages:
        parts.append(
            f'<section class="card"><h3><a href="{page.name}.html">{escape(page.title)}</a></h3>'
            f'<div class="question">{markdown2html(page.question)}</div>'
            f"{markdown2html(page.answer)}"
            f'<p><a href="{page.name}.html">Curves, tables and code</a></p></section>'
        )
    parts += ['<h2 id="state">What was run</h2>', there] if there else []
    parts += ['<h2 id="tables">Tables</h2>']
    parts += [
        f"<details><summary>{escape(title)}</summary>{html}</details>" for title, html in rendered
    ]
    parts += [] if rendered else ["<p>No table was rendered yet.</p>"]
    parts += ['<h2 id="figures">Figures</h2>']
    for stem in figures:
        about = escape(caption(stem))
        parts.append(
            f'<figure><img src="figures/{stem}.png"'
            f' alt="{about}"><figcaption>{about}</figcaption></figure>'
        )
    return "\n".join(parts if figures else [*parts, "<p>No figure was drawn yet.</p>"])


def links() -> list[tuple[str, str]]:
    """Return (page, title) of every notebook."""
    first = [
        (path.stem, nbformat.read(path, as_version=4).cells[0].source)
        for path in sorted(NOTEBOOKS.glob(PAGES))
    ]
    return [(f"{stem}.html", source.partition("\n")[0].lstrip("# ")) for stem, source in first]


def html_page(title: str, body: str) -> bytes:
    """Put a page around a body, with links to all others; its style is in it, and nothing comes
    from elsewhere."""
    folder = Path(__file__).parent
    style = (folder / "report.css").read_text() + HtmlFormatter(style="friendly").get_style_defs(
        ".highlight"
    )
    template = Template((folder / "report.html.j2").read_text(), keep_trailing_newline=True)
    others = [(page, escape(name), name == title) for page, name in links()]
    text = template.render(title=escape(title), style=style, body=body, links=others)
    return (re.sub(r"[ \t]+\n", "\n", text)).encode()


def report(results: Path) -> dict[str, bytes]:
    """Return the content of every file of the report by its name."""
    paths = sorted(NOTEBOOKS.glob(PAGES))
    run = zip(paths, execute(paths, results), strict=True)
    pages = [convert(notebook, path.stem) for path, notebook in run]
    drawn = {file.stem: file.read_bytes() for file in sorted((results / "figures").glob("*.png"))}
    files = {f"{page.name}.html": html_page(page.title, page.body) for page in pages}
    first = index(pages, tables(results / "tables"), list(drawn), state(results))
    files["index.html"] = html_page(TITLE, first)
    files |= {name: png for page in pages for name, png in page.figures.items()}
    files |= {f"figures/{stem}.png": png for stem, png in drawn.items()}
    for name, content in files.items():
        if len(content) > MOST_BYTES:
            raise ReportError(f"{name}: {len(content):,} bytes, at most {MOST_BYTES:,} are valid")
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Execute the notebooks and write the report's pages."
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="folder with runs, tables and figures",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / "report", help="folder for the pages"
    )
    options = parser.parse_args(arguments)
    out = options.out
    try:
        files = report(options.results)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    for name, content in files.items():
        with written_whole(out / name) as temporary:
            temporary.write_bytes(content)
    for old in {*out.glob("figures/*.png")} - {out / name for name in files}:
        old.unlink()
    print(f"{len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB: {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
