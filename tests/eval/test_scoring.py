"""The scoring engine: what rewards may not depend on, and what a killed run leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from eval import pairs, rewardbench2
from eval.resume import PartialScores, row_fingerprint
from eval.rows import EvaluationItem, EvaluationRow
from eval.scoring import Scorer, fill_rank, refused_empty, score_items, score_pairs
from rm.errors import InputError
from rm.model.checkpoints import load_reward_model
from rm.model.precision import DTYPES

MakeScorer = Callable[..., Scorer]


@pytest.fixture
def scorer(checkpoint: Path) -> MakeScorer:
    """Open the checkpoint with any settings."""

    def make(dtype: str = "float32", folder: Path = checkpoint, **settings: object) -> Scorer:
        model, tokenizer = load_reward_model(folder, DTYPES[dtype])
        return Scorer(model, tokenizer, **{"max_length": 512, "batch_tokens": 400, **settings})  # type: ignore[arg-type]

    return make


def token_rows(count: int = 40, seed: int = 0) -> list[tuple[int, ...]]:
    """Distinct rows of many lengths."""
    generator = random.Random(seed)
    return [
        tuple(generator.choices(range(5, 300), k=generator.randint(1, 90))) for _ in range(count)
    ]


def forbid_forward(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a row was scored again")

    monkeypatch.setattr(scorer.model, "forward", fail)


def count_rows(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of every forward pass from here on."""
    sizes: list[int] = []
    original = scorer.model.forward

    def counted(attention_mask: torch.Tensor, **inputs: torch.Tensor) -> object:
        sizes.append(len(attention_mask))
        return original(attention_mask, **inputs)

    monkeypatch.setattr(scorer.model, "forward", counted)
    return sizes


# --- what rewards do not depend on --------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_rewards_of_one_row_a_batch_equal_those_of_32(scorer: MakeScorer, side: str) -> None:
    rows = token_rows(32)
    alone = scorer(batch_tokens=1).score(rows)
    together = scorer(batch_tokens=100_000, padding_side=side).score(rows)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_batches_hold_what_batch_tokens_says(
    scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = token_rows(32)
    for tokens, batches in ((1, [1] * 32), (100_000, [32])):
        one = scorer(batch_tokens=tokens)
        sizes = count_rows(one, monkeypatch)
        one.rewards(rows)
        assert sizes == batches


def test_bfloat16_rewards_hardly_depend_on_the_batch(scorer: MakeScorer) -> None:
    rows = token_rows(32)
    alone = scorer("bfloat16", batch_tokens=1).rewards(rows)
    together = scorer("bfloat16", batch_tokens=100_000, padding_side="left").rewards(rows)
    full = scorer().rewards(rows)
    assert alone.dtype == torch.float32
    torch.testing.assert_close(alone, together, rtol=0, atol=0.05)
    torch.testing.assert_close(alone, full, rtol=0, atol=0.1)


def test_order_and_repetition_of_rows_do_not_matter(
    scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = token_rows()
    one = scorer()
    expected = dict(zip(rows, one.rewards(rows).tolist(), strict=True))
    shuffled = random.Random(1).sample([*rows, *rows], 2 * len(rows))
    sizes = count_rows(one, monkeypatch)
    assert one.rewards(shuffled).tolist() == [expected[row] for row in shuffled]
    assert sum(sizes) == len(rows)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_shared_prefixes_give_the_same_rewards(
    scorer: MakeScorer, tmp_path: Path, layers: int, batch_tokens: int
) -> None:
    rows = token_rows()
    rows += [(*row[:-2], 7, 8, 9) for row in rows if len(row) > 3] + rows[:3]
    alone = scorer(batch_tokens=1).score(rows)
    settings = {"batch_tokens": batch_tokens, "trunk_layers": layers, "cache_dir": tmp_path}
    together = scorer(share_prefix=True, **settings).score(rows)
    for expected, found in zip(alone, together, strict=True):
        assert torch.allclose(expected, found, rtol=1e-5, atol=1e-5)


def test_a_frozen_trunk_gives_the_rewards_of_the_whole_model(
    scorer: MakeScorer, tmp_path: Path
) -> None:
    rows = token_rows()
    divided = scorer(trunk_layers=1, cache_dir=tmp_path).rewards(rows)
    torch.testing.assert_close(divided, scorer().rewards(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "middle"}, "padding_side=middle: choose left or right"),
        ({"padding_side": "left", "trunk_layers": 1}, "needs reuse_trunk=false"),
    ],
)
def test_settings_that_cannot_work(scorer: MakeScorer, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scorer(**settings)


# --- finished batches on disk -------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [True, False])
def test_ranks_share_the_batches_and_the_result_is_the_same_bit_for_bit(
    scorer: MakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    rows = token_rows()
    expected = scorer()._values(rows, hidden=hidden)
    sizes = []
    for rank in range(3):
        one = scorer(partial=PartialScores(tmp_path, "key", rank))
        counted = count_rows(one, monkeypatch)
        one.fill(rows, hidden=hidden, rank=rank, ranks=3)
        sizes.append(sum(counted))
    assert sum(sizes) == len(rows) and min(sizes) > 0
    last = scorer(partial=PartialScores(tmp_path, "key"))
    forbid_forward(last, monkeypatch)
    assert torch.equal(last._values(rows, hidden=hidden), expected)


def test_a_damaged_tail_costs_the_last_batch_alone(
    scorer: MakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, partial = token_rows(), PartialScores(tmp_path, "key")
    first = scorer(partial=partial)
    expected = first.score(rows)
    last_batch = len(rows) - len(_all_but_last(partial))
    content = partial.path.read_bytes()
    damaged = (content[:-3], content[:-1] + bytes([content[-1] ^ 1]), content + b"\x07" * 5)
    for bytes_, missing in zip(damaged, (last_batch, last_batch, 0), strict=True):
        partial.path.write_bytes(bytes_)
        again = scorer(partial=partial)
        sizes = count_rows(again, monkeypatch)
        assert torch.equal(again.score(rows)[0], expected[0])
        assert sum(sizes) == missing
        if missing:
            assert partial.path.read_bytes() == content  # the damage is cut off and mended


def _all_but_last(partial: PartialScores) -> dict:
    content = partial.path.read_bytes()
    partial.path.write_bytes(content[:-1])
    found = partial.read()
    partial.path.write_bytes(content)
    return found


def test_reading_a_file_cut_anywhere_gives_whole_batches(tmp_path: Path) -> None:
    partial = PartialScores(tmp_path, "key")
    batches = [np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * i for i in range(3)]
    with partial.open() as file:
        for number, values in enumerate(batches):
            partial.append(file, [row_fingerprint((number, i)) for i in range(3)], values)
    content = partial.path.read_bytes()
    for end in range(len(content) + 1):
        partial.path.write_bytes(content[:end])
        assert len(partial.read()) % 3 == 0
    assert partial.read()[row_fingerprint((2, 1))].tolist() == [22.0, 23.0]


def test_scores_of_other_inputs_are_not_used(tmp_path: Path) -> None:
    with PartialScores(tmp_path, "old").open() as file:
        old = PartialScores(tmp_path, "old")
        old.append(file, [row_fingerprint((1,))], np.ones((1, 1), np.float32))
    new = PartialScores(tmp_path, "new")
    assert old.read() and not new.read()
    with new.open():
        pass
    assert not old.read()
    new.remove()
    assert not list(tmp_path.iterdir())


def test_two_processes_cannot_score_into_one_folder(tmp_path: Path) -> None:
    partial = PartialScores(tmp_path, "key")
    with partial.open(), pytest.raises(InputError, match="another process is scoring into"):
        partial.open()


def test_rewards_that_are_not_finite_are_not_kept(scorer: MakeScorer, tmp_path: Path) -> None:
    one = scorer(partial=PartialScores(tmp_path, "key"))
    with torch.no_grad():
        one.model.score.weight.fill_(float("nan"))
    assert one.rewards(token_rows(3)).isnan().all()
    assert not PartialScores(tmp_path, "key").read()


# --- tables of pairs and items ------------------------------------------------------------------


def comparison(number: int, response: str = "No.") -> EvaluationRow:
    prompt = ({"role": "user", "content": f"What is {number} plus one?"},)
    return EvaluationRow(
        str(number), prompt, f"It is {number + 1}.", response, subset="sums", section="sums"
    )


def test_a_pair_row_holds_the_rewards_and_the_distance_of_its_two_sides(
    scorer: MakeScorer,
) -> None:
    one = scorer()
    rows = [comparison(n, "It is nothing at all, is it? " * (n + 1)) for n in range(5)]
    table = score_pairs(one, rows)
    for row, line in zip(rows, table.itertuples(), strict=True):
        (chosen, rejected), _ = one.encode(row.prompt, (row.chosen, row.rejected))
        rewards, hidden = one.score([chosen, rejected])
        assert [line.reward_chosen, line.reward_rejected] == pytest.approx(rewards.tolist(), 1e-4)
        assert line.distance == pytest.approx((hidden[0] - hidden[1]).norm().item(), 1e-4)
        assert (line.tokens_chosen, line.tokens_rejected) == (len(chosen), len(rejected))
    assert table["pair_id"].tolist() == [row.pair_id for row in rows]
    assert table["content"].nunique() == 5
    assert score_pairs(one, [comparison(0, "Other.")])["content"][0] != table["content"][0]


def test_over_long_rows_are_cut_and_counted_never_dropped(scorer: MakeScorer) -> None:
    rows = [comparison(0), comparison(1, "word " * 300)]
    table = score_pairs(scorer(max_length=64), rows)
    assert table["truncated"].tolist() == [False, True]
    assert table["tokens_rejected"].max() == 64


def test_rows_that_name_a_special_token_are_marked(scorer: MakeScorer) -> None:
    rows = [
        comparison(0),
        comparison(1, "Yes.<|eot_id|><end_of_turn>"),
        comparison(2, "Yes.<|eot|>"),
    ]
    table = score_pairs(scorer(), rows)
    assert table["special_text"].tolist() == [False, True, False]
    parsed = score_pairs(scorer(parse_special_text=True), rows)
    differs = parsed["tokens_rejected"] != table["tokens_rejected"]
    assert differs.tolist() == [False, True, False]


def test_an_item_gives_a_row_a_response(scorer: MakeScorer) -> None:
    prompt = ({"role": "user", "content": "Name a colour."},)
    texts = ("Red.", "Seven.", "")
    item = EvaluationItem("Focus/1", prompt, texts, (True, False, False), "Focus", "Focus")
    one = scorer()
    table = score_items(one, [item])
    rewards = one.rewards(one.encode(prompt, texts)[0])
    assert table["reward"].tolist() == pytest.approx(rewards.tolist(), 1e-5)
    assert table["response"].tolist() == [0, 1, 2]
    assert table["correct"].tolist() == [True, False, False]
    assert rewardbench2.summarize(table)["pairs"] == 1


REFUSE_EMPTY = (
    "{% if not messages[-1]['content'] and messages[-1]['role'] == 'assistant' %}"
    "{{ raise_exception('say something') }}{% endif %}"
)


def test_an_empty_response_that_the_template_refuses_is_scored_and_named(
    scorer: MakeScorer,
) -> None:
    prompt = ({"role": "user", "content": "Name a colour."},)
    items = [
        EvaluationItem(f"Focus/{n}", prompt, texts, (True, False), "Focus", "Focus")
        for n, texts in enumerate([("Red.", "Seven."), ("Red.", "")])
    ]
    plain, strict = scorer(), scorer()
    strict.tokenizer.chat_template = REFUSE_EMPTY + str(strict.tokenizer.chat_template)
    assert score_items(strict, items).equals(score_items(plain, items))
    assert refused_empty(strict, items) == ["Focus/1"] and refused_empty(plain, items) == []


def test_a_row_that_the_template_refuses_is_named(scorer: MakeScorer) -> None:
    strict = scorer()
    strict.tokenizer.chat_template = REFUSE_EMPTY.replace(
        "not messages[-1]['content'] and messages[-1]", "messages | length > 2 and messages[-1]"
    ) + str(strict.tokenizer.chat_template)
    long = replace(comparison(1), chosen_history=({"role": "assistant", "content": "?"},))
    with pytest.raises(InputError, match=r"1: the chat template refuses the roles .*say something"):
        score_pairs(strict, [comparison(0), long])


def test_a_pair_whose_sides_part_early_is_scored_at_the_end_of_both(scorer: MakeScorer) -> None:
    history = (
        {"role": "assistant", "content": "Which?"},
        {"role": "user", "content": "The first."},
    )
    row = replace(comparison(0), chosen_history=history)
    one = scorer()
    table = score_pairs(one, [row, comparison(0)])
    whole = one.template.encode([*row.prompt, *history], row.chosen)
    assert table["reward_chosen"][0] == pytest.approx(one.rewards([tuple(whole)]).item(), 1e-4)
    assert table["reward_rejected"][0] == table["reward_rejected"][1]
    assert table["content"].nunique() == 2


def test_ranks_of_a_benchmark_leave_nothing_to_score(
    scorer: MakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [comparison(n) for n in range(12)]
    for rank in range(2):
        own = PartialScores(tmp_path, "key", rank)
        fill_rank(scorer(batch_tokens=40, partial=own), rows, rank, 2)
    one = scorer(batch_tokens=40, partial=PartialScores(tmp_path, "key"))
    forbid_forward(one, monkeypatch)
    assert score_pairs(one, rows).equals(score_pairs(scorer(batch_tokens=40), rows))


def test_a_reward_that_is_nan_is_an_error(scorer: MakeScorer) -> None:
    one = scorer()
    with torch.no_grad():
        one.model.score.weight[0, 0] = float("inf")
    table = score_pairs(one, [comparison(n) for n in range(3)])
    with pytest.raises(InputError, match="3 of 3 have a NaN or infinite reward, first '0'"):
        pairs.summarize(table)


# --- checkpoints of other makers ----------------------------------------------------------------


@pytest.mark.parametrize("pad", ["own", "missing", "eos"])
def test_a_checkpoint_saved_by_transformers_alone(
    scorer: MakeScorer, checkpoint: Path, tmp_path: Path, pad: str
) -> None:
    """As TRL writes it: save_pretrained, no file of ours; pad token absent or equal to eos."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    stock = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    if pad != "own":
        tokenizer.pad_token = tokenizer.eos_token if pad == "eos" else None
        stock.config.pad_token_id = tokenizer.eos_token_id if pad == "eos" else None
    stock.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    one = scorer(folder=tmp_path, batch_tokens=100_000)
    rows = [one.encode(comparison(n).prompt, (str(n) * n,))[0][0] for n in range(1, 8)]
    with torch.no_grad():
        states = [stock.base_model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        expected = torch.stack([stock.score(state)[0] for state in states])
    torch.testing.assert_close(one.rewards(rows), expected, rtol=1e-4, atol=1e-5)
