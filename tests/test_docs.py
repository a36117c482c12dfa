"""README and docs/: worked examples run, commands compose, paths exist, messages are the code's."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
import yaml

from eval import benchmarks
from eval.benchmarks import BENCHMARKS, Benchmark
from eval.methods import Method, methods
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.configuration import CONF, compose_config, hydra_words
from pipeline.settings.objective import objective_of
from rm.data.tokens import TokenPair
from rm.model.reward_model import RewardOutput
from rm.objective.losses import bt
from rm.objective.objective import Objective
from rm.objective.weights import NormBT
from rm.training.batches import PairCollator

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/extending.md").read_text()

PACKAGES = ("rm", "generated", "eval", "analysis", "pipeline", "scripts")
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted([*(ROOT / "results").rglob("README.md"), *(ROOT / "docs").glob("*.md")]),
]
TRACKING = (ROOT / "docs/tracking.md").read_text()
COMMANDS = re.findall(r"^python -m scripts\.(\w+) (.*)", TRACKING, re.MULTILINE)


def block(language: str, name: str) -> str:
    (found,) = re.findall(rf"```{language} {name}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The example's module under a name of its own."""
    module = ModuleType("example")
    sys.modules["example"] = module
    exec(block("python", request.param), module.__dict__)
    yield module
    del sys.modules["example"]


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Objective]:
    """Compose a loss of the page from a copy of conf/ that holds the page's files."""
    copied = tmp_path / "conf"
    shutil.copytree(CONF, copied)
    monkeypatch.setattr(configuration, "CONF", copied)
    for text in re.findall(r"```yaml \w+\n(.*?)```", TEXT, re.DOTALL):
        own = re.sub(r"rm\.objective\.\w+\.(exponential|LengthDifference)", r"example.\1", text)
        (copied / "loss" / f"{yaml.safe_load(text)['name']}.yaml").write_text(own)
    return lambda name: objective_of(compose_config("train", [f"loss={name}"]).loss)


@pytest.mark.parametrize("example", ["loss"], indirect=True)
def test_the_loss_and_normbts_weight_on_it(
    example: ModuleType, objective: Callable[[str], Objective]
) -> None:
    chosen, rejected = torch.tensor([0.0, 1.0]), torch.zeros(2)
    distance, losses = torch.tensor([1.0, 4.0]), [1, 0.36788]
    plain, ours = objective("exponential"), objective("normbt_exponential")
    found = plain.values(chosen, rejected, distance, None).value
    assert found.tolist() == pytest.approx(losses, rel=1e-4)
    found = ours.values(chosen, rejected, distance, 2.0).value
    assert found.tolist() == pytest.approx([2 * losses[0], 0.5 * losses[1]], rel=1e-4)
    assert not plain.needs_margin and not ours.whole_batch


@pytest.mark.usefixtures("objective")
def test_the_pages_losses_are_shown_as_it_says(tmp_path: Path) -> None:
    found = methods(tmp_path / "conf" / "loss")
    assert found["exponential"] == Method("exponential", "exponential", "bt", "rival")
    assert found["normbt_exponential"].base == "exponential"
    assert found["normbt_length"].role == "form"


@pytest.mark.parametrize("example", ["distance"], indirect=True)
def test_the_distance(example: ModuleType, objective: Callable[[str], Objective]) -> None:
    distance = objective("normbt_length").distance
    pairs = [TokenPair("a", (1, 2, 3), (1,)), TokenPair("b", (1,), (2,))]
    assert PairCollator(0, distance=distance.of_pair)(pairs)["distance"].tolist() == [3, 1]


@pytest.mark.parametrize("example", ["proxy"], indirect=True)
def test_the_proxy(example: ModuleType) -> None:
    hidden = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.5, 0.0], [0.0, 0.0]], requires_grad=True)
    output = RewardOutput(torch.zeros(4), hidden)
    distance = Objective(bt, NormBT(beta=0.9, epsilon=1e-6), example.Largest()).distance
    found = distance.measure(output, torch.zeros(2), [])
    assert found.tolist() == [2.0, 0.0] and not found.requires_grad


@pytest.mark.parametrize("example", ["benchmark"], indirect=True)
def test_the_benchmark_is_registered_by_one_line(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.benchmarks.BENCHMARKS", dict(BENCHMARKS))
    names = {"BENCHMARKS": benchmarks.BENCHMARKS, "Benchmark": Benchmark, "sums": example}
    exec(block("python", "register"), names)
    added = benchmarks.benchmark_of("sums")
    assert len(added.load("anywhere")) == 2 and added.in_pairs


@pytest.mark.parametrize("example", ["benchmark"], indirect=True)
def test_the_benchmark(example: ModuleType) -> None:
    rows = example.load("anywhere")
    scores = pd.DataFrame(
        {
            "pair_id": [row.pair_id for row in rows],
            "subset": [row.subset for row in rows],
            "section": [row.section for row in rows],
            "reward_chosen": [1.0, 0.0],
            "reward_rejected": [0.0, 1.0],
        }
    )
    assert example.summarize(scores)["average"] == pytest.approx(0.25)


def test_every_path_that_a_page_names_exists() -> None:
    rooms = "rm|generated|eval|analysis|pipeline|scripts|benchmarks|tests|conf|docs|results"
    for page in PAGES:
        for path in re.findall(rf"`((?:{rooms})/[\w/.-]+)`", page.read_text()):
            assert (ROOT / path).exists() or "/local" in path, f"{page.name}: {path}"
        for path in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


MAKE = ("MAKEFLAGS", "MFLAGS", "ARGS")
"""What the make that runs these tests hands down."""


def test_commands_about_tracking_are_there_and_make_knows_them() -> None:
    assert {"train", "evaluate", "tune", "jobs"} == {name for name, _ in COMMANDS}
    for words in re.findall(r"^make (.*)", TRACKING, re.MULTILINE):
        command = ["make", "--dry-run", *words.split()]
        outside = {key: value for key, value in os.environ.items() if key not in MAKE}
        done = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True)
        (line,) = re.findall(r"-m scripts\.dashboard (.*)", done.stdout)
        assert compose_config("dashboard", line.split()).project == "owner/normbt"


def messages_of_the_code() -> list[str]:
    """Every text in the code, … for what an f-string puts in."""
    found = []
    for path in chain.from_iterable(
        (ROOT / name).rglob("*.py") for name in ("rm", "generated", "eval", "pipeline", "scripts")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TROUBLE = (ROOT / "docs/troubleshooting.md").read_text()
QUOTED = re.findall(r"\*\*`(.+?)`\*\*", TROUBLE)
SHORTEST = 12
"""Letters of a message that the code has to spell out itself."""


def patterns(texts: list[str]) -> list[re.Pattern[str]]:
    """What messages made from the texts look like; `…` stands for what an f-string puts in."""
    spelt = [text.replace("`", "'") for text in texts if len(text.replace("…", "")) >= SHORTEST]
    return [re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL) for text in spelt]


def test_every_message_of_the_page_on_troubles_is_one_of_the_codes() -> None:
    made = patterns(messages_of_the_code())
    assert len(QUOTED) > 90
    assert [m for m in QUOTED if not any(pattern.search(m) for pattern in made)] == []
    assert not any(pattern.search("this message is nowhere") for pattern in made)


def first_job(word: str) -> str:
    """One value of a word that sweeps over several."""
    return re.sub(r"^([\w./]+)=([^\[(,]*),.*", r"\1=\2", word)


def commands() -> list[tuple[str, str]]:
    """Every command that a page shows, in a block or in a table: its name and its words."""
    found = []
    for page in PAGES:
        text = page.read_text()
        rows = "\n".join(re.findall(r"^\|.*", text, re.MULTILINE))
        found += re.findall(r"`python -m scripts\.(\w+) ([^`…]*=[^`…]*)`", rows)
        for table in re.findall(
            r"Arguments of `python -m scripts.reproduce.*\n((?:\|.*\n)+)", text
        ):
            arguments = re.findall(r"`([^`]*)` \|$", table, re.MULTILINE)
            found += [("reproduce", f"profile=cpu {words}") for words in arguments]
        found += re.findall(r"^(?:srun .*)?python -m scripts\.(\w+) ([^#\n]*)", text, re.MULTILINE)
        for words in re.findall(r"^make (?:reproduce|plan|status) (.*)", text, re.MULTILINE):
            profile = re.search(r"PROFILE=(\w+)", words)
            (arguments,) = re.findall(r"ARGS='?([^'#\n]*)", words) or [""]
            found.append(("reproduce", f"profile={profile[1] if profile else 'cpu'} {arguments}"))
    return found


def test_commands_in_tables_are_found() -> None:
    words = [words for _, words in commands()]
    assert "profile=cpu experiment=confirmatory matrix=rivals" in words
    assert any(" sweep=clip_norm" in w for w in words if w.startswith("profile=cpu experiment=rep"))


@pytest.mark.parametrize(("name", "words"), dict.fromkeys(commands()))
def test_every_command_composes(name: str, words: str) -> None:
    overrides = [first_job(word) for word in shlex.split(words) if word != "-m"]
    # Optuna chooses from an interval; tests/pipeline/test_sweep.py composes every file of a glob.
    left_out = ("interval(", "glob(", "…")
    kept = [w for w in overrides if not w.startswith("hydra") and not any(x in w for x in left_out)]
    cfg = compose_config(name, hydra_words(kept) if name == "evaluate" else kept)
    if name == "train":
        check(cfg)  # batch sizes fit the devices, and the like


def test_pages_are_short_and_the_index_lists_them() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 250, page.name
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_every_loss_has_its_formula() -> None:
    page = (ROOT / "docs/losses.md").read_text()
    names = [path.stem for path in (CONF / "loss").glob("[!_]*.yaml")]
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_requirement_is_explained() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    explained = set(
        re.findall(r"[\w-]+", " ".join(re.findall(r"^\| (.*?) \|", page, re.MULTILINE)))
    )
    for path in ROOT.glob("requirements*.txt"):
        names = re.findall(r"^([\w-]+)==", path.read_text(), re.MULTILINE)
        assert set(names) <= explained, path.name


def test_every_package_that_the_code_imports_is_pinned() -> None:
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    named = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    names |= {node.module for node in named if node.module}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - set(PACKAGES)
    assert {"torch", "yaml"} <= others
    pinned = "".join(path.read_text().lower() for path in ROOT.glob("requirements*.txt"))
    known = {line.split("==")[0].replace("-", "_") for line in pinned.splitlines()}
    distributions = packages_distributions()
    unpinned = {
        name
        for name in others
        if not known & {x.lower().replace("-", "_") for x in distributions.get(name, [name])}
    }
    assert unpinned == {"vllm"}  # optional, for sampling (docs/dependencies.md)


def test_every_results_folder_has_its_question() -> None:
    page = (ROOT / "results/README.md").read_text()
    made = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True)
    folders = {line.split("/")[1] for line in made.stdout.splitlines() if line.count("/") > 1}
    assert {name for name in folders if f"[`{name}`]" not in page} == set()


def test_the_image_takes_no_secrets_and_no_root() -> None:
    image = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git/config", ".env", "runs", "conf/local", "**/.netrc"} <= set(ignored)
    assert image.rindex("USER 1000") < image.index("COPY")
    assert not re.search(r"^(ARG|ENV).*(TOKEN|KEY|SECRET|PASSWORD)", image, re.MULTILINE)
