"""File names of any kind on a command line reach the configuration as they were typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pipeline.settings.configuration import CONF, compose_config
from pipeline.settings.words import LITERAL, literal

NAMES = [
    "pairs (1).jsonl",
    "数据.jsonl",
    "naïve ünd.jsonl",
    "a,b.jsonl",
    "[1].jsonl",
    "a{b}.jsonl",
    "lr=1e-3/pairs.jsonl",
    "it's.jsonl",
    'the "best".jsonl',
    "back\\slash.jsonl",
    "ends in \\",
    "a:b#c%d&e!.jsonl",
    "007",
    "1e5",
    "true",
    " leading",
    "(1)",
    "plain/path-1_2.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_taken_as_typed(name: str) -> None:
    words = ["data=files", f"data.train={name}", f"data.validation={name}", f"run_dir={name}"]
    cfg = compose_config("train", words)
    assert (cfg.data.train, cfg.data.validation, cfg.run_dir) == (name, name, name)
    own = [f"checkpoint={name}", f"benchmark_data={name}", f"output={name}"]
    cfg = compose_config("evaluate", own)
    assert (cfg.checkpoint, cfg.data, cfg.output) == (name, name, name)
    again = compose_config("evaluate", literal(own))  # words that were quoted once stay
    assert again == cfg


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00$"), min_size=1))
def test_any_text_is_taken_as_typed(name: str) -> None:
    if name.strip()[:1] in ("'", '"', "[", "{", "") or name.strip().lower() in ("null", "???"):
        return  # what Hydra itself writes so: quotes, lists, nothing
    assert compose_config("train", [f"run_dir={name}"]).run_dir == name


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("output=null", None),
        ("a=[x,y]", ["x", "y"]),
        ("a='x (1)'", "x (1)"),
        ('a="x,y"', "x,y"),
        ("a=${b}/c", "${b}/c"),
    ],
)
def test_what_is_written_for_hydra_stays(word: str, value: object) -> None:
    assert literal([word]) == [word]
    key = word.partition("=")[0]
    content = OmegaConf.to_container(compose_config("compare", [word, "b=z"]))
    assert isinstance(content, dict)
    assert content[key] == value or value == "${b}/c"


def test_other_keys_and_sweeps_are_hydras() -> None:
    for word in ("seed=1,2", "loss=bt", "training.epochs=(1)", "+training.lora.r=8", "--cfg"):
        assert literal([word]) == [word]
    assert literal(["-m", "data.train=a.jsonl,b.jsonl"]) == ["-m", "data.train=a.jsonl,b.jsonl"]
    assert literal(["-m", "data.train=a (1).jsonl,数.jsonl"]) == [
        "-m",
        "data.train='a (1).jsonl','数.jsonl'",
    ]


def leaves(section: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in section:
        inner = section._get_node(key)
        name = f"{prefix}{key}"
        found += leaves(inner, f"{name}.") if isinstance(inner, DictConfig) else [name]
    return found


def test_every_key_that_is_named_as_a_path_is_one() -> None:
    scripts = {path.stem for path in (CONF.parent / "scripts").glob("*.py")}
    commands = scripts & {path.stem for path in CONF.glob("*.yaml")}
    keys = {key for name in commands for key in leaves(compose_config(name))}
    keys |= set(leaves(compose_config("train", ["data=files"])))
    keys |= set(leaves(compose_config("train", ["launch=hostfile"])))
    ends = ("_dir", "path", "file", "folder", "output", "archive", "checkpoint")
    named = {key for key in keys if key.split(".")[-1].endswith(ends)}
    assert {"data.train", "model.path", "run_dir", "launch.hostfile"} <= keys
    assert {key for key in named if key.split(".")[-1] not in LITERAL} == set()


def test_the_command_line_trains_on_files_of_such_names(
    run: Callable[..., int], tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No."} for i in range(20)]
    for name in ("pairs (1).jsonl", "数据.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["profile=smoke", "data=files", f"data.train={path}", f"cache_dir={cache}"]
        folder = tmp_path / f"run of {name} (=)"
        assert run("train", *words, f"run_dir={folder}", "training.save_steps=0") == 0
        assert (folder / "manifest.json").is_file()
    assert "error" not in capsys.readouterr().err
