"""The fuzz run in its short form, and that it notices what it is for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults import fuzz

pytestmark = pytest.mark.slow


def test_a_few_seconds_of_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "BATCH", 100)
    found = fuzz.main(["--minutes", "0.02", "--seed", "7", "--keep", str(tmp_path / "kept")])
    assert found["tried"] == found["runs"] == found["survived"] >= 100
    assert found["seed"] == 7 and not (tmp_path / "kept").exists()
    printed = capsys.readouterr().out
    assert "refused, 0 failed" in printed and found["fault"] in printed


def test_the_same_seed_gives_the_same_file_and_every_form_occurs(tmp_path: Path) -> None:
    names = set()
    for number in range(150):
        path = fuzz.write(tmp_path, f"0/{number}")
        first = path.read_bytes() if path.is_file() else b""
        again = fuzz.write(tmp_path, f"0/{number}")
        assert again == path and (not path.is_file() or again.read_bytes() == first)
        names.add(path.name.removeprefix("input."))
    assert names == {*fuzz.FORMS} - {"folder"} | {"set"}


def hang(_: Path) -> None:
    """As C code that no signal reaches."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(99)


@pytest.mark.parametrize(
    ("breaks", "trace"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: os._exit(9), "the process ended with 9"),
        (lambda _: None, "KeyError"),
        (hang, "the process ended with -9"),
    ],
)
def test_what_ends_otherwise_is_a_failure(
    breaks: object, trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def load(path: Path) -> str:
        seen.append(path)
        if len(seen) == 3:
            breaks(path)  # type: ignore[operator]
            raise KeyError(path)
        return "kept"

    monkeypatch.setattr(fuzz, "load", load)
    monkeypatch.setattr(fuzz, "BATCH", 4)
    monkeypatch.setattr(fuzz, "SECONDS", 1 if breaks is hang else 20)
    ends, failures = fuzz.fuzz(0.0001, 0, tmp_path / "kept")
    seeds: Sequence[str] = [seed for seed, _ in failures]
    assert seeds[0] == "0/2" and trace in failures[0][1]
    assert ends["failed"] >= 1 and len(list((tmp_path / "kept").iterdir())) >= 1
    assert fuzz.row(ends, 0)["survived"] < fuzz.row(ends, 0)["tried"]
