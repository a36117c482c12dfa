"""Score rows: rewards and hidden states, in batches by length, without dropping a row.

The batches depend only on the rows and `batch_tokens`, not on what is already scored or on the
number of ranks. So a resumed run, or one on several ranks, computes the same batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from eval.resume import Found, PartialScores, row_fingerprint
from eval.rows import EvaluationItem, EvaluationRow
from rm.data.schemas import Answer, Message, answer_turns
from rm.data.templates import ChatTemplate, RefusedConversation
from rm.data.tokens import encode_pair, pad, settled
from rm.errors import InputError
from rm.model.attention import shared_batch
from rm.model.reward_model import RewardModel
from rm.model.tree import batches_by_shared_tokens
from rm.model.trunk import Row, TrunkCache, batches_by_tokens, open_cache
from rm.objective.weights import representation_distance
from rm.provenance import fingerprint_of

SIDES = ("left", "right")
Batch = list[Row]


@dataclass
class Scorer:
    """A reward model with the settings that scores may depend on.

    `batch_tokens`: padded tokens per batch; a longer row gets its own batch. `trunk_layers`: number
    of top layers above a frozen trunk; 0 runs the whole model. The trunk's output is cached in
    `cache_dir` and shared by all checkpoints with the same trunk. `partial`: where finished batches
    are kept until the scores are written; None keeps them in memory only. `share_prefix`: compute
    tokens that rows of a batch share once, without padding (`rm.model.attention`).
    `parse_special_text`: as in `ChatTemplate`.

    Raises InputError for an unknown `padding_side`, or for "left" with a trunk.
    """

    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    batch_tokens: int
    trunk_layers: int = 0
    cache_dir: Path = Path("runs/cache")
    label: str = "score"
    padding_side: str = "right"
    partial: PartialScores | None = None
    share_prefix: bool = False
    parse_special_text: bool = False

    def __post_init__(self) -> None:
        if self.padding_side not in SIDES:
            raise InputError(f"padding_side={self.padding_side}: choose {' or '.join(SIDES)}")
        if self.padding_side == "left" and self.trunk_layers:
            raise InputError("padding_side=left needs reuse_trunk=false: trunk states pad right")

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template; InputError if it has none."""
        return ChatTemplate(self.tokenizer, parse_special_text=self.parse_special_text)

    def encode(self, prompt: Sequence[Message], answers: Sequence[Answer]) -> tuple[Batch, bool]:
        """Return the answers' token rows, truncated as in training, and whether they were cut."""
        encoded, cut, _ = encode_pair(self.template, prompt, answers, self.max_length)
        return [tuple(ids) for ids in encoded], cut is not None

    def score(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Rewards (rows,) and last-token hidden states (rows, hidden), float32, in row order.

        Equal rows are computed once. Row order and batch size change the result only by rounding.
        """
        values = self._values(rows, hidden=True)
        return values[:, 0], values[:, 1:]

    def rewards(self, rows: Sequence[Row]) -> Tensor:
        """Rewards (rows,), as `score`, without keeping any hidden state."""
        return self._values(rows, hidden=False)[:, 0]

    def _values(self, rows: Sequence[Row], *, hidden: bool) -> Tensor:
        found = self.fill(rows, hidden=hidden)
        names = {row: row_fingerprint(row) for row in set(rows)}
        return torch.from_numpy(np.stack([found[names[row]] for row in rows]))

    @torch.no_grad()
    def fill(self, rows: Sequence[Row], *, hidden: bool, rank: int = 0, ranks: int = 1) -> Found:
        """Score this rank's batches, except those already in the partial files.

        Returns fingerprint → values of all rows scored so far. The values are (1 + hidden,), reward
        first, or (1,) without `hidden`.
        """
        self.model.eval()
        plan = self._plan(rows)[rank::ranks]
        found = self._known(hidden)
        todo = [batch for batch in plan if any(row_fingerprint(row) not in found for row in batch)]
        if not todo:
            return found
        trunk = self.prepare_trunk(rows)
        with settled(), self._store() as keep, self._progress(plan, todo) as bar:
            for batch in todo:
                values = self._forward(batch, trunk, hidden)
                names = [row_fingerprint(row) for row in batch]
                found.update(zip(names, values, strict=True))
                keep(names, values)
                bar.update(_tokens(batch))
        return found

    def _plan(self, rows: Sequence[Row]) -> list[Batch]:
        """All batches, longest rows first, so that a batch too large for memory fails at once."""
        if self.share_prefix:
            batches = batches_by_shared_tokens(rows, self.batch_tokens)
            return sorted(batches, key=lambda batch: max(map(len, batch)), reverse=True)
        unique = sorted(set(rows), key=lambda row: (len(row), row))
        return list(batches_by_tokens(unique, self.batch_tokens))[::-1]

    def _known(self, hidden: bool) -> Found:
        if self.partial is None:
            return {}
        width = 1 + (self.model.config.hidden_size if hidden else 0)
        return {name: v for name, v in self.partial.read().items() if len(v) == width}

    @contextlib.contextmanager
    def _store(self) -> Iterator[Callable[[list[bytes], np.ndarray], None]]:
        """Yield a function that keeps finished batches, except those with NaN or infinity."""
        partial = self.partial
        if partial is None:
            yield lambda names, values: None
            return
        with partial.open() as file:

            def keep(names: list[bytes], values: np.ndarray) -> None:
                if np.isfinite(values).all():
                    partial.append(file, names, values)

            yield keep

    def _progress(self, plan: Sequence[Batch], todo: Sequence[Batch]) -> Any:
        total, left = (sum(map(_tokens, batches)) for batches in (plan, todo))
        done = sum(map(len, plan)) - sum(map(len, todo))
        resumed = f", {done} rows already scored" if done else ""
        return tqdm(
            total=total,
            initial=total - left,
            desc=f"{self.label} ({sum(map(len, plan))} rows{resumed})",
            unit="tok",
            unit_scale=True,
            mininterval=1,
        )

    def _forward(self, batch: Batch, trunk: TrunkCache | None, hidden: bool) -> np.ndarray:
        output = self.model(**self._inputs(batch, trunk))
        columns = [output.rewards[:, None], *([output.hidden] if hidden else [])]
        return torch.cat(columns, dim=1).cpu().numpy()

    def prepare_trunk(self, rows: Sequence[Row]) -> TrunkCache | None:
        """Compute the frozen trunk's states of `rows`, if there is a trunk and they are missing."""
        if not self.trunk_layers:
            return None
        return open_cache(
            self.model, self.trunk_layers, rows, self.cache_dir, share=self.share_prefix
        )

    def _inputs(self, batch: Batch, trunk: TrunkCache | None) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        if self.share_prefix:
            return {"shared": shared_batch(batch, trunk.states if trunk else None).to(device)}
        if trunk is not None:
            states, mask = trunk.batch(batch)
            return {"trunk_states": states.to(device), "attention_mask": mask.to(device)}
        # A tokenizer may have no pad token. Any id will do, because the mask marks the padding.
        ids, mask = pad(batch, int(self.tokenizer.pad_token_id or 0), self.padding_side)
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _tokens(batch: Batch) -> int:
    return sum(map(len, batch))


def grouped_rewards(scorer: Scorer, groups: Sequence[Sequence[Row]]) -> list[list[float]]:
    """Rewards of each group's rows, such as the N responses to one prompt.

    All groups are scored in one call. With `share_prefix` a prompt is computed once for its rows.
    The states of a frozen trunk are shared by all models with that trunk.
    """
    rewards = iter(scorer.rewards([row for rows in groups for row in rows]).double().tolist())
    return [[next(rewards) for _ in rows] for rows in groups]


def score_pairs(scorer: Scorer, rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """Score every pair: no row is dropped.

    Columns: pair_id, subset, section, cluster, content (fingerprint of the three texts),
    reward_chosen, reward_rejected, distance (‖h_w − h_l‖ of this model), tokens_chosen,
    tokens_rejected, truncated, special_text (a special token is named in a text).
    """
    encoded = _encode(scorer, rows)
    rewards, hidden = scorer.score(_flat(encoded))
    pairs = rewards.double().view(-1, 2)
    distance = representation_distance(hidden[0::2], hidden[1::2])
    return pd.DataFrame(
        {
            "pair_id": [row.pair_id for row in rows],
            "subset": [row.subset for row in rows],
            "section": [row.section for row in rows],
            "cluster": [row.cluster for row in rows],
            "content": [_content(row) for row in rows],
            "reward_chosen": pairs[:, 0].numpy(),
            "reward_rejected": pairs[:, 1].numpy(),
            "distance": distance.double().numpy(),
            "tokens_chosen": [len(sides[0]) for sides, _ in encoded],
            "tokens_rejected": [len(sides[1]) for sides, _ in encoded],
            "truncated": [cut for _, cut in encoded],
            "special_text": [_names_special(scorer, row) for row in rows],
        }
    )


def score_items(scorer: Scorer, items: Sequence[EvaluationItem]) -> pd.DataFrame:
    """Score every response of every item: one row per response.

    Columns: item_id, subset, section, content, response (index), correct, tokens, truncated and
    special_text (both of the item: its responses are cut together), reward.
    """
    encoded = _encode(scorer, items)
    rewards = scorer.rewards(_flat(encoded))
    records: list[dict[str, Any]] = []
    for item, (sides, cut) in zip(items, encoded, strict=True):
        shared = {
            "item_id": item.item_id,
            "subset": item.subset,
            "section": item.section,
            "content": _content(item),
            "special_text": _names_special(scorer, item),
        }
        for index, (ids, correct) in enumerate(zip(sides, item.correct, strict=True)):
            own = {"response": index, "correct": correct, "tokens": len(ids), "truncated": cut}
            records.append(shared | own)
    return pd.DataFrame(records).assign(reward=rewards.double().numpy())


def fill_rank(
    scorer: Scorer, rows: Sequence[EvaluationRow | EvaluationItem], rank: int, ranks: int
) -> None:
    """Score one rank's batches into its partial file, which the `score_…` functions read."""
    hidden = isinstance(rows[0], EvaluationRow)
    scorer.fill(_flat(_encode(scorer, rows)), hidden=hidden, rank=rank, ranks=ranks)


def prepare_ranks(scorer: Scorer, rows: Sequence[EvaluationRow | EvaluationItem]) -> None:
    """Render and check all rows and compute the frozen trunk once, before ranks start."""
    scorer.prepare_trunk(_flat(_encode(scorer, rows)))


def _encode(
    scorer: Scorer, rows: Sequence[EvaluationRow | EvaluationItem]
) -> list[tuple[Batch, bool]]:
    """Token rows of every row's answers. Raises InputError if a row cannot be rendered."""
    encoded = []
    for row in rows:
        try:
            encoded.append(scorer.encode(row.prompt, row.answers))
        except RefusedConversation as error:
            raise InputError(f"{_name(row)}: {error}") from error
    return encoded


def _name(row: EvaluationRow | EvaluationItem) -> str:
    return row.pair_id if isinstance(row, EvaluationRow) else row.item_id


def refused_empty(scorer: Scorer, rows: Sequence[EvaluationRow | EvaluationItem]) -> list[str]:
    """Names of rows with an empty response, if the chat template rejects empty messages.

    These rows are still scored, with nothing in the response's place.
    """
    if scorer.template.takes_empty:
        return []
    return [_name(row) for row in rows if any(not _said(answer).strip() for answer in row.answers)]


def _said(answer: Answer) -> str:
    return answer_turns(answer)[-1]["content"]


def _flat(encoded: Sequence[tuple[Batch, bool]]) -> list[Row]:
    return [ids for sides, _ in encoded for ids in sides]


def _names_special(scorer: Scorer, row: EvaluationRow | EvaluationItem) -> bool:
    return scorer.template.names_special(row.prompt, row.answers)


def _content(row: EvaluationRow | EvaluationItem) -> str:
    """Fingerprint of a row's texts; an answer of one turn counts as its text."""
    turns = [answer_turns(answer) for answer in row.answers]
    answers = [list(one) if len(one) > 1 else one[0]["content"] for one in turns]
    return fingerprint_of([list(row.prompt), *answers])
