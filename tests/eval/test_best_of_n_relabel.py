"""Prompts, relabelling, and the settings' errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.best_of_n.gold import Candidates, Verifier, require_all
from eval.best_of_n.prompts import Prompt, choose, prompts_of_pairs
from eval.best_of_n.relabel import relabel
from eval.best_of_n.settings import (
    BonSettings,
    GoldSettings,
    PolicySettings,
    PromptSettings,
    ProxySettings,
)
from rm.data.preferences import PreferencePair, load_preferences, write_pairs
from rm.errors import InputError

TURNS = ({"role": "user", "content": "Say hi."},)


def pair(name: str) -> PreferencePair:
    return PreferencePair(name, TURNS, "good " + name, "bad " + name, margin=9.0)


def test_gold_scores_replace_order_and_margin(tmp_path: Path) -> None:
    pairs = [pair(name) for name in "abcde"]
    scores = [(2.0, 0.5), (0.25, 1.0), (3.0, 3.0), (None, 1.0), (-1.0, -4.0)]
    kept, report = relabel(pairs, scores)
    assert [one.pair_id for one in kept] == ["a", "b", "e"]
    assert [one.margin for one in kept] == [1.5, 0.75, 3.0]
    assert (kept[0].chosen, kept[1].chosen, kept[1].rejected) == ("good a", "bad b", "good b")
    assert (report.pairs, report.kept, report.turned, report.ties, report.unscored) == (
        *(5, 3, 1, 1, 1),
    )
    assert report.disagreement == pytest.approx(1 / 3)
    assert report.mean_margin == pytest.approx(1.75)
    assert "33.3% disagreement" in report.line()
    path = tmp_path / "relabelled.jsonl"  # what scripts.train data=files reads
    write_pairs(kept, path)
    read, _ = load_preferences(path)
    assert [(one.chosen, one.rejected, one.margin) for one in read] == [
        (one.chosen, one.rejected, one.margin) for one in kept
    ]


def test_nothing_left_and_broken_scores_are_errors() -> None:
    with pytest.raises(InputError, match="no training pair is left after relabelling: 0 of 1"):
        relabel([pair("a")], [(1.0, 1.0)])
    with pytest.raises(InputError, match="pair a are not finite"):
        relabel([pair("a")], [(float("nan"), 1.0)])


def test_the_verifier_scores_right_and_wrong_and_names_what_it_cannot_check() -> None:
    prompt = ({"role": "user", "content": "What is 2 + 3 * 4? Show the steps."},)
    item = Candidates(prompt, "gen2-arithmetic-close", ("The answer is 14.", "It is 20.", ""))
    assert require_all(Verifier().score([item]), [item]) == [[1.0, 0.0, 0.0]]
    chat = Candidates(prompt, "gen2-ideas-far", ("some text",))
    alien = Candidates(prompt, "", ("some text",))
    with pytest.raises(
        InputError, match=r"gen2-ideas-far \(1\), prompts that were not generated \(1\)"
    ):
        require_all(Verifier().score([chat, alien]), [chat, alien])


def test_prompts_are_distinct_and_balanced_over_subsets() -> None:
    assert len(prompts_of_pairs([pair("a"), pair("b")])) == 1
    prompts = [Prompt(str(i), TURNS, "x" if i < 6 else "y") for i in range(8)]
    assert [one.prompt_id for one in choose(prompts, 4)] == ["0", "1", "6", "7"]
    assert [one.prompt_id for one in choose(prompts, 6)] == ["0", "1", "2", "3", "6", "7"]
    with pytest.raises(InputError, match="number=9: only 8 prompts are available"):
        choose(prompts, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"golds": ["human"]}, "choose from verifier, reward_model"),
        ({"policy": PolicySettings(0, 1.0, 1.0, 8)}, "samples=0: must be 1 or more"),
        ({"policy": PolicySettings(4, -1.0, 1.0, 8)}, "temperature=-1.0"),
        ({"policy": PolicySettings(4, 1.0, 1.5, 8)}, r"top_p=1.5: must lie in \(0, 1\]"),
        ({"policy": PolicySettings(4, 1.0, 1.0, 8, engine="gguf")}, "choose auto, synthetic, "),
        ({"proxy": ProxySettings([], [0], 4)}, "name at least one of each"),
        ({"proxy": ProxySettings(["bt"], [0], 0)}, "pairs=0"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: dict, message: str) -> None:
    own = {
        "name": "t",
        "golds": ["verifier"],
        "policy": PolicySettings(4, 1.0, 1.0, 8),
        "prompts": PromptSettings(2),
        "gold": GoldSettings(),
        "proxy": ProxySettings(["bt"], [0], 4),
    }
    BonSettings(**own).check()
    with pytest.raises(InputError, match=message):
        BonSettings(**{**own, **change}).check()
