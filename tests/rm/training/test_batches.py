"""Training order and collation."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch

from rm.data.token_table import TokenPairs
from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.training.batches import (
    PairCollator,
    PairStream,
    batch_tokens,
    micro_batches,
    model_inputs,
    rows_of,
    training_order,
)


def pairs(count: int) -> TokenPairs:
    lengths = [3 + (7 * index) % 11 for index in range(count)]
    return TokenPairs.of(
        TokenPair(f"p{i}", (1,) * n, (2,) * (n + i % 3), margin=float(i))
        for i, n in enumerate(lengths)
    )


def test_order_is_whole_batches_and_every_pair_equally_often() -> None:
    order = training_order(pairs(10), epochs=2, global_batch=5, seed=0)
    assert len(order) == 20 and set(Counter(order).values()) == {2}


def test_every_epoch_has_an_order_of_its_own() -> None:
    made = pairs(40)
    order = training_order(made, epochs=3, global_batch=8, seed=0)
    epochs = [order[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    steps = [{frozenset(epoch[start : start + 8]) for start in range(0, 40, 8)} for epoch in epochs]
    for one, other in itertools.combinations(steps, 2):
        assert not one & other  # no step holds the pairs of another epoch's


def test_last_incomplete_batch_is_left_out() -> None:
    order = training_order(pairs(10), epochs=1, global_batch=4, seed=0)
    assert len(order) == 8 and max(Counter(order).values()) == 1


def test_order_depends_on_the_seed_alone() -> None:
    one, same, other = (
        training_order(pairs(30), epochs=1, global_batch=6, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_batches_are_sorted_by_length_inside_but_chosen_without_it() -> None:
    made = pairs(60)
    order = training_order(made, epochs=1, global_batch=12, seed=3)
    lengths = [max(len(made[i].chosen), len(made[i].rejected)) for i in order]
    for start in range(0, 60, 12):
        assert lengths[start : start + 12] == sorted(lengths[start : start + 12])
    means = [sum(lengths[s : s + 12]) / 12 for s in range(0, 60, 12)]
    assert max(means) - min(means) < 4  # a globally sorted list would span 10


def test_half_an_epoch_is_possible() -> None:
    assert len(training_order(pairs(20), epochs=0.5, global_batch=5, seed=0)) == 10


def test_too_few_pairs_for_a_batch_is_an_error() -> None:
    with pytest.raises(InputError, match="do not fill one global batch of 16"):
        training_order(pairs(5), epochs=1, global_batch=16, seed=0)


def test_stream_reads_pairs_in_order() -> None:
    made = pairs(3)
    stream = PairStream(made, [[2, 0], [1]])
    assert len(stream) == 2 and stream[0] == [made[2], made[0]] and stream[1] == [made[1]]


def test_collator_puts_chosen_rows_first_and_keeps_margins() -> None:
    made = [TokenPair("a", (5, 6), (7,), 0.5), TokenPair("b", (8,), (9, 9, 9), 2.0)]
    batch = PairCollator(pad_id=0)(made)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [8, 0, 0], [7, 0, 0], [9, 9, 9]]
    assert batch["attention_mask"].sum(-1).tolist() == [2, 1, 1, 3]
    assert batch["margin"].tolist() == [0.5, 2.0]
    assert set(model_inputs(batch)) == {"input_ids", "attention_mask"}


def test_one_missing_margin_means_no_margins() -> None:
    made = [TokenPair("a", (5,), (7,), 0.5), TokenPair("b", (8,), (9,), None)]
    assert "margin" not in PairCollator(pad_id=0)(made)


def test_shared_batches_hold_the_rows_in_the_same_order() -> None:
    made = [TokenPair("a", (5, 6), (5, 7), 0.5), TokenPair("b", (5, 8), (9,), 2.0)]
    batch = PairCollator(pad_id=0, share=True)(made)
    shared = batch["shared"]
    assert set(batch) == {"shared", "margin", "pair_id", "category"}
    assert set(model_inputs(batch)) == {"shared"}
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert shared.input_ids[0, shared.last].tolist() == [6, 8, 7, 9]


def test_rows_of_one_length_that_share_nothing_are_one_sequence_too() -> None:
    alike = [TokenPair("a", (5, 6), (7, 8)), TokenPair("b", (1, 2), (3, 4))]
    shared = PairCollator(pad_id=0, share=True)(alike)["shared"]
    assert shared.input_ids[0, shared.last].tolist() == [6, 2, 8, 4]
    assert shared.input_ids.numel() == 8


@pytest.mark.parametrize("share", [False, True])
def test_model_inputs_move_to_a_device(share: bool) -> None:
    batch = PairCollator(pad_id=0, share=share)([TokenPair("a", (5, 6), (5, 7), 0.5)])
    inputs = model_inputs(batch, torch.device("meta"))
    if share:
        shared = inputs["shared"]
        moved = [shared.input_ids, shared.position_ids, shared.last, shared.plan.last]
    else:
        moved = [inputs["input_ids"], inputs["attention_mask"]]
    assert all(value.device.type == "meta" for value in moved)


def test_rows_of_lists_both_sides() -> None:
    assert list(rows_of([TokenPair("a", (5,), (7,))])) == [(5,), (7,)]


def test_tokens_of_a_run_by_hand() -> None:
    made = TokenPairs.of([TokenPair("a", (1, 2, 3), (1, 2, 4, 5)), TokenPair("b", (1, 9), (8,))])
    padded = batch_tokens(made, [[0, 1]], share_prefix=False)
    assert padded == {"row_tokens": 10, "computed": 16, "largest": 16, "padding": 1 - 10 / 16}
    apart = batch_tokens(made, [[0], [1]], share_prefix=False)
    assert apart["computed"] == 8 + 4 and apart["largest"] == 8
    shared = batch_tokens(made, [[0, 1]], share_prefix=True)
    assert shared == {"row_tokens": 10, "computed": 7, "largest": 7, "padding": 0.0}


def test_sorting_within_the_batch_saves_padding() -> None:
    made = pairs(120)
    order = training_order(made, epochs=1, global_batch=24, seed=0)

    def padding(order: Sequence[int]) -> float:
        batches = micro_batches(made, order, global_batch=24, micro_batch=4)
        return batch_tokens(made, batches, share_prefix=False)["padding"]

    assert padding(order) < 0.5 * padding(range(120))


def test_micro_batches_of_a_number_of_pairs() -> None:
    made = pairs(12)
    order = training_order(made, epochs=1, global_batch=6, seed=0)
    batches = micro_batches(made, order, global_batch=6, micro_batch=4)
    assert [len(batch) for batch in batches] == [4, 2, 4, 2] and list(
        itertools.chain(*batches)
    ) == order


def random_pairs(count: int, seed: int) -> TokenPairs:
    """Pairs of like and unlike lengths that share none, some or all of the shorter side."""
    draw, made = random.Random(seed), []
    for number in range(count):
        start = tuple(draw.randrange(9) for _ in range(draw.randint(1, 30)))
        chosen, rejected = ((draw.randrange(9),) * draw.randint(0, 20) for _ in "ab")
        made.append(TokenPair(f"p{number}", (*start, *chosen), (*start, *rejected)))
    return TokenPairs.of(made)


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("limit", [1, 60, 150, 10_000])
def test_micro_batches_by_tokens_keep_to_the_limit_and_to_the_order(
    share_prefix: bool, devices: int, limit: int
) -> None:
    made = random_pairs(48, seed=limit)
    order = training_order(made, epochs=1, global_batch=16, seed=1)

    def computed(batches: Sequence[Sequence[int]]) -> float:
        return batch_tokens(made, batches, share_prefix)["largest"]

    batches = micro_batches(
        made,
        order,
        global_batch=16,
        micro_batch=8,
        tokens=limit,
        devices=devices,
        share_prefix=share_prefix,
    )
    a_step, rest = divmod(len(batches), 3)
    assert rest == 0 and a_step % devices == 0
    for step in range(3):
        own = batches[step * a_step : (step + 1) * a_step]
        assert list(itertools.chain(*own)) == order[16 * step : 16 * step + 16]
    assert all(1 <= len(batch) <= 8 for batch in batches)
    assert all(computed([batch]) <= limit for batch in batches if len(batch) > 1)


@pytest.mark.parametrize("seed", range(60))
def test_a_pair_over_the_limit_lets_no_others_over_it(seed: int) -> None:
    made = random_pairs(8, seed)
    found = micro_batches(made, range(8), global_batch=8, micro_batch=8, tokens=30)
    for part in (part for part in found if len(part) > 1):
        assert 2 * len(part) * max(len(row) for i in part for row in rows_of([made[i]])) <= 30


@pytest.mark.parametrize("share_prefix", [False, True])
def test_no_fewer_micro_batches_would_do_and_the_largest_is_as_small_as_can_be(
    share_prefix: bool,
) -> None:
    """Against every way to cut a step's pairs into consecutive parts."""
    made = random_pairs(8, seed=5)
    order = training_order(made, epochs=1, global_batch=8, seed=0)
    limit = 100 if share_prefix else 130

    def own_tokens(pair: TokenPair) -> int:
        both = zip(pair.chosen, pair.rejected, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda tokens: tokens[0] == tokens[1], both))
        return len(pair.chosen) + len(pair.rejected) - shared

    def tokens(part: Sequence[int]) -> int:
        if share_prefix:
            return sum(own_tokens(made[i]) for i in part)
        return 2 * len(part) * max(len(row) for i in part for row in rows_of([made[i]]))

    def every_cut(parts: int) -> Iterator[list[list[int]]]:
        for cuts in itertools.combinations(range(1, 8), parts - 1):
            yield [order[a:b] for a, b in itertools.pairwise([0, *cuts, 8])]

    found = micro_batches(
        made, order, global_batch=8, micro_batch=8, tokens=limit, share_prefix=share_prefix
    )
    least = min(max(map(tokens, cut)) for cut in every_cut(len(found)))
    assert max(map(tokens, found)) == least <= limit
    assert all(max(map(tokens, cut)) > limit for cut in every_cut(len(found) - 1))
