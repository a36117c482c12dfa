"""`scripts.figures` and `scripts.report` on the results of a smoke run."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis import answers, claims, gallery, report
from rm.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000"),
]
FIGURES = {f"figure{k}" for k in (*range(1, 11), 12)}
DRAWN = FIGURES | {f"table{k}" for k in (1, 2, 3, 4)} | {"best_of_n"}


def call(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"scripts.{module}", "profile=smoke", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_smoke_run_draws_all_that_it_has_data_for(smoke_results: Path) -> None:
    items = {item.name: item for item in gallery.read_index(smoke_results)}
    assert {name for name, item in items.items() if item.files} == DRAWN
    assert items["figure11"].missing == "the sensitivity sweep was not run in this profile"
    for item in items.values():
        assert all((smoke_results / name).stat().st_size > 100 for name in item.files)
        assert len(item.about) > 20 and item.about.endswith(".")
    assert len(list((smoke_results / "figures").iterdir())) == 2 * len(FIGURES) + 2
    assert "Reasoning" in items["figure2"].title
    for name in FIGURES:  # a message, and a caption for the page
        assert 5 <= len(items[name].title.split()) <= 12, items[name].title
        assert 15 <= len(items[name].caption.split()) <= 70, items[name].caption


def test_redrawing_from_saved_files_gives_the_same_bytes(
    smoke_results: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(smoke_results, copy, ignore=shutil.ignore_patterns("figures", "tables"))
    done = call("figures", f"results_dir={copy}")
    assert done.returncode == 0, done.stderr
    assert "figure11  missing: the sensitivity sweep was not run" in done.stdout
    for folder in ("figures", "tables"):
        assert contents(copy / folder) == contents(smoke_results / folder)
    done = call("report", f"results_dir={copy}")
    assert done.returncode == 0, done.stderr
    assert (copy / "report.html").read_bytes() == (smoke_results / "report.html").read_bytes()


def test_drawing_needs_no_torch() -> None:
    code = "import sys; import scripts.figures, scripts.report; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_what_is_missing_is_named_and_stale_files_go(smoke_results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    (copy / "data").mkdir(parents=True)
    shutil.copy(smoke_results / "manifest.json", copy)
    (copy / "figures").mkdir()
    stale = copy / "figures" / "figure2.svg"
    stale.write_text("old")
    (copy / "figures" / "figure2x.svg").write_text("another file")
    items = {item.name: item for item in gallery.draw_all(copy)}
    assert {name for name, item in items.items() if item.files} == {"table3"}
    assert "gradients.csv is missing" in items["figure2"].missing and not stale.exists()
    assert (copy / "figures" / "figure2x.svg").exists()
    page = report.write(copy).read_text()
    claimed = len(claims.read_claims().claims)
    assert f">{claimed} not run<" in page and "<img" not in page


def test_damaged_data_are_an_error_and_no_reason_to_remove_what_was_drawn(
    smoke_results: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(smoke_results, tmp_path / "results"))
    scores = pd.read_parquet(copy / "data/scores.parquet")
    scores.loc[scores.index[-1], "reward_chosen"] = float("nan")
    scores.to_parquet(copy / "data/scores.parquet")
    table = (copy / "tables/table1.csv").read_bytes()
    for module in ("figures", "report"):
        done = call(module, f"results_dir={copy}")
        assert done.returncode == 2 and "have a NaN or infinite reward" in done.stderr
    assert (copy / "tables/table1.csv").read_bytes() == table


def test_without_results_the_command_says_what_to_do(tmp_path: Path) -> None:
    for module in ("figures", "report"):
        done = call(module, f"results_dir={tmp_path}")
        assert done.returncode == 2 and "make reproduce" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is not a manifest of the pipeline"):
        gallery.draw_all(tmp_path)


class Page(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_report_is_one_file_that_asks_for_nothing(smoke_results: Path) -> None:
    text = (smoke_results / "report.html").read_text()
    page = Page(text)
    images = page.all("img")
    assert len(images) == len(FIGURES)
    assert len(page.all("details")) == 1  # the list of runs is folded
    tables = {str(heading.get("id")) for heading in page.all("h3")}
    assert {"table1", "table4", "best_of_n"} <= tables
    assert "<th>NormBT</th>" in text  # of table 4
    for image in images:
        assert str(image["src"]).startswith(
            ("data:image/svg+xml;base64,", "data:image/png;base64,")
        )
        assert len(str(image["alt"])) > 80 and int(str(image["width"])) == 700
    assert not page.all("script")
    links = [link["href"] for link in page.all("link")]
    assert links == ["data:,"]
    assert "Its numbers mean nothing" in text and "not human preferences" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {str(link["href"])[1:] for link in page.all("a") if str(link["href"])[0] == "#"}
    assert targets <= set(identifiers)


def test_report_opens_with_the_answer_and_prints_captions(smoke_results: Path) -> None:
    text = html.unescape((smoke_results / "report.html").read_text())
    names = ("answer", "figures", "claims", "tables", "method", "run", "rerun")
    places = [text.index(f'<section id="{name}">') for name in names]
    assert places == sorted(places)
    asked = [claim for claim in claims.read_claims().claims if claim.question]
    answer = text[places[0] : places[1]]
    assert answer.count("<tr>") == 1 + len(asked)
    found = claims.judge_all(smoke_results / "data", claims.read_claims())
    judged = {one.claim.id: one for one in found}
    for claim in (one.claim for one in found):
        here = answers.cell(judged[claim.id], answers.by_length(smoke_results / "data"))
        row = f'row">{claim.question}</th><td>{claim.paper}</td><td>{here}</td>'
        assert (row in answer) == bool(claim.question)
    captions = [item.caption for item in gallery.read_index(smoke_results) if item.caption]
    assert len(captions) == len(FIGURES)
    assert all(f"<figcaption>{caption}</figcaption>" in text for caption in captions)


def test_report_shows_the_numbers_of_the_files(smoke_results: Path) -> None:
    text = html.unescape((smoke_results / "report.html").read_text())
    table = pd.read_csv(smoke_results / "tables/table1.csv").set_index("method")
    row = table.loc["normbt_no_ema"]
    cell = f"{row['average']:.1f} [{row['average_low']:.1f}, {row['average_high']:.1f}]"
    assert f"<td>{cell}</td>" in text
    assert "Here: too few pairs for an interval." in text and "[–, –]" not in text
    manifest = json.loads((smoke_results / "manifest.json").read_text())
    assert len(re.findall(r"<tr><td>(?:BT|NormBT[^<]*)</td><td>0</td><td>12</td>", text)) == len(
        manifest["runs"]
    )


def test_texts_of_pairs_are_escaped(smoke_results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(smoke_results, copy)
    evil = '<script>alert(1)</script><img src=x onerror=alert(2)> $x_1$ 漢 & "quoted"'
    pairs = pd.read_parquet(copy / "data/pairs.parquet")
    pairs.assign(chosen=evil, prompt=evil).to_parquet(copy / "data/pairs.parquet")
    assert gallery.draw_figure("figure1", copy, "note").files
    text = report.write(copy).read_text()
    assert "<script" not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not Page(text).all("script")


def browse(page: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium to open the report with")
def test_chromium_opens_it_without_error_and_loads_every_image(
    smoke_results: Path, tmp_path: Path
) -> None:
    opened = browse(smoke_results / "report.html", tmp_path / "a", "--dump-dom")
    assert opened.returncode == 0 and "<h1>NormBT, reproduced" in opened.stdout
    assert "CONSOLE" not in opened.stderr, opened.stderr
    probe = """<script>addEventListener("load", () => { const all = [...document.images];
      document.title = all.filter(i => i.complete && i.naturalWidth > 0).length + " of " +
      all.length + ", " + (document.documentElement.scrollWidth <= innerWidth); });</script>"""
    text = (smoke_results / "report.html").read_text()
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', probe, text)
    copy = tmp_path / "probe.html"
    copy.write_text(text)
    opened = browse(copy, tmp_path / "b", "--window-size=500,900", "--dump-dom")
    assert f"<title>{len(FIGURES)} of {len(FIGURES)}, true</title>" in opened.stdout


def test_the_report_names_the_code_of_every_run_and_of_an_earlier_best_of_n(
    smoke_results: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(smoke_results, tmp_path / "own"))
    manifest = json.loads((copy / "manifest.json").read_text())
    code = {"commit": "a" * 40, "changed": True}
    manifest["runs"][0]["environment"]["code"] = code
    manifest["best_of_n"] = "left out: best_of_n=false"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    made = {"bon": {"name": "paper"}, "environment": {"code": code}}
    (copy / "data" / "best_of_n.json").write_text(json.dumps(made))
    text = html.unescape(report.write(copy).read_text())
    assert f"{'a' * 12} with uncommitted changes: 1 run" in text
    said = f"paper, code {'a' * 12} with uncommitted changes (left out: best_of_n=false)"
    assert said in text
    assert "make figures PROFILE=smoke ARGS=results_dir=results/own " in text
    assert "results/own/</code>" in text
