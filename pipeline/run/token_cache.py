"""The tokens that a run trains on: made once for all runs, ranks and seeds that read the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.settings import data as data_settings
from pipeline.settings.data import (
    Labels,
    TrainingData,
    content_fingerprint,
    labels_of,
    load_data,
    require_facts,
)
from rm.data import token_table
from rm.data.preferences import PreferencePair, fingerprint
from rm.data.templates import ChatTemplate
from rm.data.token_table import (
    TokenPairs,
    TokenReport,
    cached_pairs,
    processes_for,
    tokenize_pairs,
)
from rm.data.tokens import Row
from rm.errors import InputError
from rm.files import is_sealed
from rm.model.untrusted import MODEL_FILES
from rm.objective.objective import Objective
from rm.provenance import file_fingerprint, fingerprint_of
from rm.training.batches import rows_of
from rm.training.settings import TrainingSettings


@dataclass(frozen=True)
class TrainingTokens:
    """Token pairs to train on, and what a run records about the pairs that they were made from.

    `data`: what became of the source's rows. `fingerprint`: of the pairs. `held_out`: ids of the
    validation pairs. `lines`: what loading and tokenising report to people.
    """

    pairs: TokenPairs
    report: dict[str, Any]
    data: dict[str, Any]
    fingerprint: str
    held_out: list[str]
    lines: list[str]


class TokenCache:
    """The tokens of one configuration's training pairs, under `cache_dir`/tokens.

    The folder's name is a fingerprint of all that the tokens depend on: source, tokenizer and
    template, truncation, the code that reads and tokenises. If the tokens exist, the source is
    not read again.
    """

    def __init__(
        self, cfg: DictConfig, backbone: Path, settings: TrainingSettings, objective: Objective
    ) -> None:
        """Load the pairs unless they were tokenised before.

        Raises InputError as `load_data` does, and if the pairs lack what the objective needs.
        """
        self._cfg, self._settings, self._objective = cfg, settings, objective
        self._backbone, self._mark = backbone, objective.text is not None
        self.folder = self._folder(
            {
                "data": OmegaConf.to_container(cfg.data, resolve=True),
                "content": content_fingerprint(cfg.data),
                "mark_response": self._mark,
            }
        )
        self._loaded = None if is_sealed(self.folder) else self._load()

    def _folder(self, pairs: dict[str, Any]) -> Path:
        """The folder for the tokens of what `pairs` identifies."""
        readers = [Path(data_settings.__file__), *Path(token_table.__file__).parent.glob("*.py")]
        how = {
            "tokenizer": _tokenizer_files(self._backbone),
            "versions": [metadata.version(name) for name in ("transformers", "tokenizers")],
            "code": sorted(map(file_fingerprint, readers)),
            "max_length": self._settings.max_length,
            "parse_special_text": self._settings.parse_special_text,
        }
        return Path(self._cfg.cache_dir) / "tokens" / fingerprint_of({**pairs, **how})

    def _load(self) -> TrainingData:
        data = load_data(self._cfg.data)
        require_facts(labels_of(data.train), self._objective)
        return data

    def open(self, template: ChatTemplate) -> TrainingTokens:
        """Return the tokens; make them first if they do not exist. Raises as `__init__` does."""

        def make(path: Path) -> dict[str, Any]:
            return self._make(template, path)

        pairs, facts = cached_pairs(self.folder, make)
        self._loaded = None
        require_facts(Labels(**facts.pop("labels")), self._objective)
        return TrainingTokens(pairs, **facts)

    def trunk_rows(self, pairs: TokenPairs, template: ChatTemplate) -> Iterator[Row]:
        """Yield the rows of `pairs`; with training.trunk_pool, those of the whole pool too.

        Raises InputError if there is no pool.
        """
        if self._settings.trunk_pool:
            yield from rows_of(self._pool(template))
        yield from rows_of(pairs)

    def _pool(self, template: ChatTemplate) -> TokenPairs:
        """The tokens of the pairs that are drawn from, the same for all draws."""
        pool = load_data(self._cfg.data).pool
        if not pool:
            raise InputError("training.trunk_pool=true needs data that are drawn from a pool")
        folder = self._folder({"pool": fingerprint(pool)})
        return cached_pairs(folder, lambda path: self._tokenise(pool, template, path).as_dict())[0]

    def _make(self, template: ChatTemplate, path: Path) -> dict[str, Any]:
        """Tokenise into `path`; return the facts."""
        data = self._loaded or self._load()
        return _facts(data, self._tokenise(data.train, template, path))

    def _tokenise(
        self, pairs: Sequence[PreferencePair], template: ChatTemplate, path: Path
    ) -> TokenReport:
        _, report = tokenize_pairs(
            pairs,
            template,
            self._settings.max_length,
            drop=True,
            mark_response=self._mark,
            processes=processes_for(len(pairs), self._cfg.threads),
            path=path,
        )
        return report


def _facts(data: TrainingData, report: TokenReport) -> dict[str, Any]:
    return {
        "report": report.as_dict(),
        "data": data.report,
        "fingerprint": data.fingerprint,
        "held_out": [pair.pair_id for pair in data.validation],
        "lines": [*data.lines, *report.lines()],
        "labels": asdict(labels_of(data.train)),
    }


def _tokenizer_files(backbone: Path) -> dict[str, str]:
    """Fingerprints of a model folder's files except its weights."""
    kept = [name for name in MODEL_FILES if name != "*.safetensors"]
    files = sorted({file for pattern in kept for file in backbone.glob(pattern)})
    return {file.name: file_fingerprint(file) for file in files}
