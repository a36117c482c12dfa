"""Results whose names and texts were made to break what shows them: figures, tables, the report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import gallery, report, style, tables
from eval.spreadsheet import csv_text, read_csv
from rm.errors import visible

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
RUN = "document.title='RAN'"
SCRIPT = (
    f'</pre></td><script>{RUN}</script><img src=x onerror="{RUN}"><svg onload={RUN}></svg>'
    f"<iframe src=\"javascript:parent.{RUN}\"></iframe>' onmouseover='{RUN}' \" autofocus onfocus="
    f'"{RUN}" <style>body{{display:none}}</style><base href="https://evil.example/">{{{{7*7}}}}--><!--'
)
NAMES = [
    r"$\alpha$",
    r"$\frac{",
    r"$\frac{$",
    r"$\mathdefault{\nope}$ 5 $",
    r"a\b_c^d{e}~&%#",
    "=HYPERLINK(1)|`x`*y*",
    "\x1b[31mred\x07\x00",
    "two\nlines\r\tand \u202e\u2028more",
    "[x](javascript:alert)",
    "<script>",
    "漢字 𝔘 عربى",
    "-->",
]


def evil(name: str, number: int) -> str:
    """A hostile name that is as distinct as `name`, and that sorts anywhere."""
    return f"{NAMES[number % len(NAMES)]} {name}"


def renamed(frame: pd.DataFrame, columns: dict[str, dict[str, str]]) -> pd.DataFrame:
    known = {name: words for name, words in columns.items() if name in frame}
    return frame.assign(
        **{name: frame[name].map(lambda x, w=words: w.get(x, x)) for name, words in known.items()}
    )


@pytest.fixture(scope="module")
def hostile(smoke_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke results with hostile names and texts everywhere, drawn, with their report."""
    results = tmp_path_factory.mktemp("hostile")
    data = Path(shutil.copytree(smoke_results / "data", results / "data"))
    pairs = pd.read_parquet(data / "pairs.parquet")
    words = {
        column: {name: evil(name, i) for i, name in enumerate(sorted(set(pairs[column])))}
        for column in ("pair_id", "subset", "section")
    }
    words |= {"pair_a": words["pair_id"], "pair_b": words["pair_id"]}
    words |= {name: {one: evil(one, 0) for one in ("generated",)} for name in ("data", "benchmark")}
    for path in data.glob("*.parquet"):
        known = {k: v for k, v in words.items() if (k, path.stem) != ("section", "scores")}
        frame = pd.read_parquet(path)
        renamed(frame[frame["seed"] == 0] if "seed" in frame else frame, known).to_parquet(path)
    texts = pd.read_parquet(data / "pairs.parquet")
    texts.assign(**dict.fromkeys(("prompt", "chosen", "rejected"), SCRIPT)).to_parquet(
        data / "pairs.parquet"
    )
    scores = pd.read_parquet(data / "scores.parquet")
    swept = scores[scores["method"].isin(["bt", "normbt"])]
    swept.assign(parameter=evil("β", 0), value=0.5).to_parquet(data / "sweep_scores.parquet")
    gradients = renamed(pd.read_csv(data / "gradients.csv"), words)
    (data / "gradients.csv").write_text(csv_text(gradients))
    manifest = json.loads((smoke_results / "manifest.json").read_text())
    for run in manifest["runs"]:
        run["config"]["model"]["name"] = run["config"]["data"]["name"] = SCRIPT
        run["config"]["data"]["kind"] = run["config_fingerprint"] = run["data_fingerprint"] = SCRIPT
    manifest["label"] = f"{SCRIPT} · {' · '.join(NAMES)}"
    manifest["profile"] = manifest["benchmark"] = manifest["environment"]["system"] = SCRIPT
    manifest["environment"]["accelerators"] = [SCRIPT]
    (results / "manifest.json").write_text(json.dumps(manifest))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph.*missing from font")
        gallery.draw_all(results)
    report.write(results)
    return results


def test_every_figure_and_table_is_drawn(hostile: Path) -> None:
    missing = {item.name: item.missing for item in gallery.read_index(hostile) if item.missing}
    assert {*missing} <= {"figure11", "table2"}, missing
    for path in (hostile / "figures").glob("*.svg"):
        ElementTree.parse(path)  # well-formed, whatever the names


def test_formulas_of_names_are_not_interpreted_and_ours_are() -> None:
    @style.styled
    def draw() -> Figure:
        figure = style.new_figure(3)
        axes = figure.subplots()
        axes.set_xticks(range(len(NAMES)), NAMES)
        axes.bar(range(len(NAMES)), 1, label=r"$\frac{$")
        axes.legend(title="$x$")
        axes.set_yscale("log")
        axes.set_xlabel(r"$\Vert h_w - h_l\Vert_2$")
        axes.annotate("$a$ and $b", (0, 1))
        style.add_text(figure, r"$\frac{", r"$\mu$ and $\nope$", "\x1b[31m$1 and $2")
        return figure

    figure = draw()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph.*missing from font")
        style.freeze_layout(figure)
        style.figure_bytes(figure, "png")
    texts = [text for text in figure.findobj(Text) if text.get_parse_math()]
    parsed = {text.get_text() for text in texts if text.get_text().count("$") > 1}
    ours = {text for text in parsed if not text.startswith(r"$\mathdefault{")}
    assert ours == {r"$\Vert h_w - h_l\Vert_2$"} and len(parsed) > 1  # and the log axis


def test_every_formula_in_the_code_is_known() -> None:
    for path in (ROOT / "analysis").glob("figure*.py"):
        for line in path.read_text().splitlines():
            for found in re.findall(r"\$[^$]+\$", line.replace("\\\\", "\\")):
                assert found in style.FORMULAS, path


def test_tables_hold_names_as_text(hostile: Path) -> None:
    table = read_csv(hostile / "tables/table4.csv")
    subsets = set(pd.read_parquet(hostile / "data/scores.parquet")["subset"])
    assert set(table["subset"]) == subsets
    lines = (hostile / "tables/table4.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == len(table) + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"\|", rows[0]))}
    text = (hostile / "tables/table4.tex").read_text()
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(table) and all(row.endswith(r" \\") for row in body)
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]", "", text)
    ours = re.sub(r"\$-\$|\$\\(cdot|to|ge|le)\$|\\\w+|\{\}", "", bare)
    assert not re.search(r"[$#%^~\x00-\x09\x0b-\x1f]", ours) and ours.count("{") == ours.count("}")


def test_latex_cells_that_the_row_before_would_take() -> None:
    assert tables.escape("[2cm]") == "{}[2cm]" and tables.escape("*x") == "{}*x"
    assert tables.escape("a\n\nb") == r"a\textbackslash{}n\textbackslash{}nb"
    assert tables.escape("67.3 [64.1, 70.2]") == "67.3 [64.1, 70.2]"


class Page(HTMLParser):
    """Tags with attributes, and the text outside of style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


KNOWN_TAGS = set(
    [
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "header",
        "main",
        "p",
        "a",
        "h1",
        "h2",
        "h3",
        "nav",
        "section",
        "dl",
        "dt",
        "dd",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "article",
        "details",
        "summary",
        "span",
        "figure",
        "img",
        "figcaption",
        "pre",
        "code",
        "ul",
        "li",
        "strong",
        "sub",
    ]
)
KNOWN_ATTRIBUTES = set(
    [
        "lang",
        "charset",
        "name",
        "content",
        "http-equiv",
        "rel",
        "href",
        "class",
        "id",
        "tabindex",
        "role",
        "aria-label",
        "src",
        "width",
        "height",
        "alt",
        "scope",
    ]
)


def test_no_text_of_a_pair_is_markup_attribute_url_or_script(hostile: Path) -> None:
    text = (hostile / "report.html").read_text()
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= KNOWN_TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= KNOWN_ATTRIBUTES
    for tag, attributes in page.tags:
        for name in ("href", "src"):
            value = str(attributes.get(name, "data:"))
            assert value.startswith(("data:", "#", "https://arxiv.org/abs/")), (tag, value[:80])
    assert [tag for tag, _ in page.tags].count("style") == 1
    shown = "".join(page.words)
    assert shown.count(SCRIPT) >= 7  # two pairs of three texts, the label: to the character
    assert "49" not in re.findall(r"example/\">(.*?)-->", shown)


def test_the_index_and_the_lines_for_people_hold_no_control_character(hostile: Path) -> None:
    for item in gallery.read_index(hostile):
        assert item.line() == visible(item.line())


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium to open the report with")
def test_chromium_runs_nothing_of_a_pair_that_bears_scripts(hostile: Path, tmp_path: Path) -> None:
    page = tmp_path / "open.html"  # without the policy that would stop scripts even if they were in
    text = (hostile / "report.html").read_text()
    page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text))
    control = tmp_path / "control.html"
    control.write_text(f"<!DOCTYPE html><title>none</title><body><pre>{SCRIPT}</pre>")
    titles = []
    for number, path in enumerate((page, control)):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--virtual-time-budget=3000", "--dump-dom"]
        flags += [f"--user-data-dir={tmp_path / str(number)}"]
        done = subprocess.run(
            [str(CHROMIUM), *flags, path.as_uri()], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        titles.append(re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0])
    assert titles[0].startswith("NormBT, reproduced: ") and titles[0] != "RAN"
    assert titles[1] == "RAN"  # the same text unescaped does run: the check can fail
