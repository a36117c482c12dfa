"""One self-contained page of a results folder: what was run, claims with verdicts, figures, tables.

Everything is read from saved files; the page holds its pictures, needs no network and no script.
"""

import base64
import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import pandas as pd

from analysis import answers, claims, figure1
from analysis.answers import decimal, span
from analysis.gallery import TABLES, Item, read_index, read_manifest
from analysis.style import method_label, model_label, plural, section_label, short
from analysis.tables import TEXTS, AbsentError, read_markdown
from eval import verdicts
from rm.errors import InputError
from rm.files import atomic_write_text, read_json

FOLDER: Final = Path(__file__).parent
TEMPLATE: Final = "report.html.j2"
KINDS: Final = {"svg": "image/svg+xml", "png": "image/png"}
LONGEST: Final = 3000
"""Characters of a text that the page shows."""
BADGES: Final = {
    verdicts.SUPPORTED: "holds",
    verdicts.REFUTED: "fails",
    verdicts.EQUIVALENT: "same",
    verdicts.INCONCLUSIVE: "open",
    verdicts.NOT_TESTABLE: "none",
    claims.NOT_RUN: "none",
}


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI with its size in CSS pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Table:
    """A table's heading, column names, and rows of text cells."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[str]]


def write(results: Path) -> Path:
    """Write `results`/report.html and return its path.

    The same files give the same bytes: no date of the day is in it.

    Raises InputError: the manifest or the figures' index is missing or unreadable.
    """
    path = results / "report.html"
    atomic_write_text(path, render(context(results)))
    return path


def render(content: dict[str, Any]) -> str:
    """Fill the template; every text is escaped unless the template itself wrote it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(**content)


def context(results: Path) -> dict[str, Any]:
    """Return everything that the template shows.

    Raises InputError: the manifest or the figures' index is missing or unreadable.
    """
    manifest, items = read_manifest(results), read_index(results)
    place = f"results/{results.name}" if results.is_absolute() else results.as_posix()
    usual = f"results/{manifest['profile']}"
    listed = claims.read_claims()
    judged = claims.judge_all(results / "data", listed)
    asked = [one for one in judged if one.claim.question]
    length = answers.by_length(results / "data")
    rows = [claim_row(one) for one in judged]
    figures = [item for item in items if item.name.startswith("figure")]
    tables = [item for item in items if item.name in TABLES]
    return {
        "manifest": manifest,
        "place": place,
        "arguments": "" if place == usual else f" ARGS=results_dir={place}",
        "command": manifest.get("command") or f"make reproduce PROFILE={manifest['profile']}",
        "labels": labels(manifest),
        "answers": [
            (one.claim.question, one.claim.paper, answers.cell(one, length)) for one in asked
        ],
        "facts": facts(manifest) | best_of_n_fact(manifest, results / "data" / "best_of_n.json"),
        "runs": runs(manifest),
        "claims": {
            f"{kind.capitalize()} claims": [row for row in rows if row["kind"] == kind]
            for kind in claims.KINDS
        },
        "identities": listed.identities,
        "counts": {
            word: number
            for word in BADGES
            if (number := sum(one.verdict == word for one in judged))
        },
        "badges": BADGES,
        "figures": [(item, picture(results, item) if item.files else None) for item in figures],
        "tables": [(item, read_tables(results, item)) for item in tables],
        "pairs": pair_texts(results / "data"),
        "environment": json.dumps(manifest["environment"], indent=2),
    }


def labels(manifest: dict[str, Any]) -> list[str]:
    """Return what a reader must know before any number: scale, data, protocol."""
    config = manifest["runs"][0]["config"] if manifest["runs"] else {}
    model, data = config.get("model", {}), config.get("data", {})
    found = [early] if (early := answers.interim(manifest)) else []
    if model.get("tiny"):
        found.append(
            "Tiny random backbone: this profile tests the code. Its numbers mean nothing, and a "
            "verdict below says nothing about the paper."
        )
    else:
        found.append(
            f"Backbone {model.get('name')}: the paper used gemma-2b-it and Llama-3.2-3B-Instruct. "
            "A verdict holds at this scale only."
        )
    if data.get("kind") == "generated":
        found.append(
            "Generated preference pairs: templates make prompts, responses and labels, and code "
            "checks the labels of Reasoning and Chat Hard. They are not human preferences, and the "
            "benchmark is not RewardBench."
        )
    found.append(
        "The paper released no code. Settings that it does not state (ε, the first μ, schedules, "
        "sizes) are inferred; they are marked [inferred] in conf/."
    )
    return found


def facts(manifest: dict[str, Any]) -> dict[str, str]:
    """Return what was run, as names and values."""
    everyone = manifest["runs"]
    methods = list(dict.fromkeys(method_label(run["method"]) for run in everyone))
    seeds = sorted({run["seed"] for run in everyone})
    kinds = Counter(run["environment"].get("cpu_capability") for run in everyone)
    codes = Counter(code_of(run["environment"]) for run in everyone)
    machine = manifest["environment"]
    devices = ", ".join(machine.get("accelerators", [])) or "no GPU"
    return {
        "Profile": str(manifest["profile"]),
        "Backbone": ", ".join(dict.fromkeys(run["config"]["model"]["name"] for run in everyone)),
        "Training data": ", ".join(
            dict.fromkeys(run["config"]["data"]["name"] for run in everyone)
        ),
        "Benchmark": str(manifest.get("benchmark", "")),
        "Methods": ", ".join(methods),
        "Seeds": ", ".join(map(str, seeds)),
        "Training runs": str(len(everyone)),
        "Training time": f"{sum(run['seconds'] for run in everyone) / 60:.1f} minutes in all",
        "Machine": f"{machine.get('cpus')} CPUs, {devices}",
        "Vector instructions of the runs": "; ".join(
            f"{kind or 'not noted'}: {plural(count, 'run')}" for kind, count in kinds.most_common()
        ),
        "Code of the runs": "; ".join(
            f"{code}: {plural(count, 'run')}" for code, count in codes.most_common()
        ),
        "Code of tables and figures": code_of(manifest["environment"]),
    }


def best_of_n_fact(manifest: dict[str, Any], path: Path) -> dict[str, str]:
    """Return what Best-of-N on this page is of: an earlier call's has code of its own."""
    if not path.is_file():
        return {}
    made = read_json(path)
    settings = made["bon"]["name"] if "bon" in made else "unknown settings"
    said = f"{settings}, code {code_of(made['environment'])}"
    state = str(manifest.get("best_of_n", ""))
    return {"Best-of-N": said if state in ("", settings) else f"{said} ({state})"}


def code_of(environment: Mapping[str, Any]) -> str:
    """Return the commit that an environment names, and whether it had been changed."""
    code = environment.get("code", {})
    commit = str(code.get("commit") or "unknown")[:12]
    return commit + (" with uncommitted changes" if code.get("changed") else "")


def runs(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """Return every training run's method, seed, steps, time and fingerprints."""
    return [
        {
            "method": method_label(run["method"]),
            "seed": str(run["seed"]),
            "steps": f"{run['steps']:,}",
            "pairs": f"{run['tokens']['pairs']:,}",
            "seconds": f"{run['seconds']:,.0f}",
            "config": str(run["config_fingerprint"])[:12],
            "data": str(run["data_fingerprint"])[:12],
        }
        for run in manifest["runs"]
    ]


def claim_row(judged: claims.Judged) -> dict[str, Any]:
    """Return one claim's cells for the page."""
    measured, claim = judged.measured, judged.claim
    number = interval = basis = ""
    if measured is not None and np.isfinite(measured.estimate.value):
        number = decimal(measured.estimate.value, claim.unit)
        interval = span(measured, claim.unit)
        basis = measured.basis
    return {
        **{name: getattr(claim, name) for name in ("id", "kind", "text", "where", "paper", "says")},
        "rule": claim.margins.in_words(),
        "unit": claim.unit,
        "number": number,
        "interval": interval,
        "basis": basis,
        "verdict": judged.verdict,
        "badge": BADGES[judged.verdict],
        "reason": judged.reason,
    }


def picture(results: Path, item: Item) -> Picture:
    """Return a figure as a data URI: the SVG or the PNG, whichever is smaller."""
    paths = [results / name for name in item.files]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: draw the figures again (make figures)")
    smaller = min(paths, key=lambda path: path.stat().st_size)
    data = base64.b64encode(smaller.read_bytes()).decode()
    png = next(path for path in paths if path.suffix == ".png")
    width, height = struct.unpack(">II", png.read_bytes()[16:24])  # the IHDR chunk
    return Picture(f"data:{KINDS[smaller.suffix[1:]]};base64,{data}", width // 2, height // 2)


def read_tables(results: Path, item: Item) -> list[Table]:
    """Return the tables that an item's Markdown files hold."""
    tables = []
    for path in (results / name for name in item.files if name.endswith(".md")):
        caption, cells = read_markdown(path.read_text())
        shown, constant = without_constants(cells)
        columns = [*map(str, shown.columns)]
        tables.append(Table(path.stem, f"{caption}{constant}", columns, shown.values.tolist()))
    return tables


def without_constants(shown: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave out of a table of texts the columns that say the same in every row; name them.

    Columns without any text go too; the method's, the numbers with intervals and a table of one row
    keep theirs, but for those that say where the row was run.
    """
    place = {"Backbone", "Data", "Benchmark"}
    same = [
        name
        for name in map(str, shown.columns)
        if shown[name].nunique() == 1
        and name not in ("Method", "Minus")
        and (name in place or (len(shown) > 1 and "[" not in str(shown[name].iloc[0])))
    ]
    words = [f"{name.lower()} {shown[name].iloc[0]}" for name in same if shown[name].iloc[0]]
    text = f" The same in every row: {', '.join(words)}." if words else ""
    return shown.drop(columns=same), text


def pair_texts(data: Path) -> list[dict[str, str]]:
    """Return figure 1's two pairs with their whole texts; none where figure 1 cannot be drawn."""
    try:
        rows = figure1.pick_rows(figure1.collect(data))
        chosen = figure1.choose(rows)
    except AbsentError:
        return []
    return [
        {
            "name": f"{name} pair",
            "facts": f"{section_label(pair['section'])} · {pair['pair_id']} · distance "
            f"{short(pair['distance'])} · error {short(pair['error'])} · "
            f"{model_label(pair['method'])}",
            **{column: cut(pair[column]) for column in TEXTS},
        }
        for name, pair in zip(("Close", "Far"), chosen, strict=True)
    ]


def cut(text: str) -> str:
    """Return `text`, or its beginning and how much is left out."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({plural(len(text) - LONGEST, 'character')} more)"
