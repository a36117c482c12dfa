"""The samples file: marks, resuming, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.best_of_n.prompts import Prompt
from eval.best_of_n.sampling import (
    Response,
    Sampled,
    Sampler,
    marks,
    marks_line,
    read_samples,
    respond,
    sample_all,
    sample_share,
)
from rm.errors import InputError


def prompt(name: str, words: str = "Say hi.") -> Prompt:
    return Prompt(name, ({"role": "user", "content": words},), "gen2-counts-far")


def answering(text: str, calls: list[str] | None = None) -> Sampler:
    responses = (Response(text, 3, True, not text), Response("é\n\u2028cut", 8, False, False))

    def sample(asked: Sequence[Prompt]) -> list[Sampled]:
        if calls is not None:
            calls.extend(one.prompt_id for one in asked)
        return [Sampled(one, responses) for one in asked]

    return sample


def test_prompts_that_are_there_are_not_sampled_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "samples.jsonl", []
    first = sample_all([prompt("a"), prompt("b")], lambda: answering("x", calls), path)
    again = sample_all(
        [prompt("c"), prompt("b"), prompt("a")], lambda: answering("x", calls), path, at_once=2
    )
    assert calls == ["a", "b", "c"]
    assert [one.prompt.prompt_id for one in again] == ["c", "b", "a"]
    assert again[1:] == first[::-1]
    sample_all([prompt("a")], lambda: pytest.fail("the policy was loaded"), path)
    sample_all([prompt("a", "Say ho.")], lambda: answering("x", calls), path)
    assert calls[-1] == "a"  # the same id with another text is another prompt
    with pytest.raises(InputError, match="two prompts have the same id"):
        sample_all([prompt("a"), prompt("a", "Say ho.")], lambda: answering("x"), path)


def test_ranks_give_the_policy_the_groups_of_one_process(tmp_path: Path) -> None:
    asked, groups = [prompt(name) for name in "abcdefg"], list[str]()

    def opened() -> Sampler:
        def sample(group: Sequence[Prompt]) -> list[Sampled]:
            groups.append("".join(one.prompt_id for one in group))
            return [Sampled(one, (Response(groups[-1], 3, True, False),)) for one in group]

        return sample

    one = sample_all(asked, opened, tmp_path / "one.jsonl", at_once=2)
    path, alone = tmp_path / "two.jsonl", groups.copy()
    groups.clear()

    def by_ranks() -> None:
        for rank in (1, 0):
            sample_share(asked, opened, path, 2, rank, ranks=2)

    assert sample_all(asked, lambda: pytest.fail("not a rank"), path, 2, by_ranks) == one
    assert groups == ["cd", "g", "ab", "ef"] and sorted(groups) == alone
    assert [file.name for file in tmp_path.iterdir() if "rank" in file.name] == []


def test_what_ranks_wrote_before_a_kill_is_not_sampled_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "samples.jsonl", list[str]()
    asked = [prompt(name) for name in "abcd"]
    sample_share(asked, lambda: answering("x", calls), path, 1, rank=1, ranks=2)
    with (tmp_path / "samples.rank1.jsonl").open("a") as file:
        file.write('{"prompt_id"')  # the kill
    sample_all(asked, lambda: answering("x", calls), path)
    assert calls == ["b", "d", "a", "c"]
    assert path.read_bytes().count(b"\n") == 4 and len(list(tmp_path.iterdir())) == 1


def test_a_line_cut_by_a_kill_is_sampled_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "samples.jsonl", []
    whole = sample_all([prompt("a"), prompt("b")], lambda: answering("x"), path)
    text = path.read_text()
    path.write_text(text[:-40])
    assert list(read_samples(path).values()) == whole[:1]
    again = sample_all([prompt("a"), prompt("b")], lambda: answering("x", calls), path)
    assert again == whole and calls == ["b"] and path.read_text() == text
    path.write_text(text.replace("x", "y", 1))
    with pytest.raises(InputError, match="line 1 is not a prompt with its responses"):
        read_samples(path)
    path.write_text("{}\n" + text)
    with pytest.raises(InputError, match="line 1 is not a prompt with its responses"):
        read_samples(path)


def test_cut_and_empty_responses_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    sampled = sample_all([prompt("a")], lambda: answering(""), path)
    counts = marks(sampled)
    assert (counts["responses"], counts["cut"], counts["empty"], counts["tokens"]) == (2, 1, 1, 11)
    assert "1 cut at the token limit, 1 empty; 0 prompts skipped" in marks_line(counts)
    record = json.loads(path.read_text())
    assert record["responses"][0] == {"text": "", "tokens": 3, "finished": True, "empty": True}


def test_marks_by_hand() -> None:
    same = Response("x", 3, True, False)
    one = Sampled(prompt("a"), (same, same, Response("", 1, True, True)))
    two = Sampled(prompt("b"), (Response("cut", 8, False, False),))
    assert marks([one, two, Sampled(prompt("c"), (), "too long")]) == {
        **{"prompts": 2, "skipped": 1, "responses": 4, "empty": 1, "cut": 1},
        **{"tokens": 15, "distinct": 3},
    }


@pytest.mark.parametrize(
    ("ids", "finished"), [((5, 6, 0), True), ((5, 6, 7), False), ((0, 5), False), ((), False)]
)
def test_a_response_is_finished_by_a_stop_token_at_its_end(
    ids: tuple[int, ...], finished: bool
) -> None:
    words = SimpleNamespace(decode=lambda ids, skip_special_tokens: f" {len(ids)} words ")
    found = respond(SimpleNamespace(tokenizer=words, stops={0}), ids)  # type: ignore[arg-type]
    assert found == Response(f"{len(ids)} words", len(ids), finished, False)


def test_a_policy_that_answers_nothing_at_all_is_named(tmp_path: Path) -> None:
    def silent(asked: Sequence[Prompt]) -> list[Sampled]:
        return [Sampled(one, (Response("", 1, True, True),) * 2) for one in asked]

    with pytest.raises(InputError, match="answered all 2 prompts with empty text: check its chat"):
        sample_all([prompt("a"), prompt("b")], lambda: silent, tmp_path / "samples.jsonl")
