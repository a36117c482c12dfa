"""The finished runs of a profile, without their weights, packed into one file and unpacked."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from pathlib import Path, PurePosixPath

import yaml
from omegaconf import DictConfig

from pipeline.launch.lock import only_one
from rm.errors import InputError
from rm.files import atomic_folder, atomic_write_bytes, remove_unfinished

PARTS = (
    "evaluation/*",
    *("config.yaml", "inputs.json", "manifest.json", "metrics.jsonl", "split.json"),
    *("gradients-*", "directions-*", "layers-*", "best_of_n-*"),
)
"""What is kept of a run, as patterns below its folder."""
SCORED = "evaluation/manifest.json"
"""A run without it is not finished."""
SETTINGS = "evaluation/config.yaml"
RECORDS = ("config.yaml", "manifest.json", SETTINGS)
"""Files that name the folders of the machine where a run was made."""


def pack(runs_dir: Path, archive: Path) -> int:
    """Write all finished runs below `runs_dir` to `archive`; return how many it holds then.

    Runs already in the archive stay, unless `runs_dir` has a finished run of the same name. The
    records name no folder of this machine (`for_others`). The same runs give the same bytes.

    Raises InputError if there are none.
    """
    with only_one(runs_dir):
        folders = finished(runs_dir)
        if not folders:
            raise InputError(f"{runs_dir} holds no finished run: nothing to pack")
        runs = _runs(archive) if archive.is_file() else {}
        runs |= {folder.relative_to(runs_dir).as_posix(): _parts(folder) for folder in folders}
        files = {
            PurePosixPath(run, part): content
            for run, parts in runs.items()
            for part, content in for_others(run, parts).items()
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as tar:
            # By name first: similar files compress best side by side.
            for path in sorted(files, key=lambda path: (path.name, path)):
                info = tarfile.TarInfo(str(path))  # no date and no owner
                info.size = len(files[path])
                tar.addfile(info, io.BytesIO(files[path]))
        atomic_write_bytes(archive, buffer.getvalue())
    return len(runs)


def _parts(folder: Path) -> dict[str, bytes]:
    """What is kept of a run: file below its folder → content."""
    paths = (path for part in PARTS for path in folder.glob(part))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and not path.name.startswith(".")
    }


def for_others(run: str, parts: dict[str, bytes]) -> dict[str, bytes]:
    """Return a run's files with folders renamed: runs_dir to runs/NAME, cache_dir to runs/cache.

    Neither folder changes a result, and no later call compares them.
    """
    if SETTINGS not in parts:
        return parts
    settings = yaml.safe_load(parts[SETTINGS])
    runs_dir = str(settings["output"]).removesuffix(f"/{run}/evaluation")
    folders = {runs_dir: f"runs/{Path(runs_dir).name}", str(settings["cache_dir"]): "runs/cache"}
    absolute = sorted(filter(os.path.isabs, folders), key=len, reverse=True)
    shown = {name: parts[name] for name in RECORDS if name in parts}
    for folder in absolute:  # longest first: one folder may lie in the other
        shown = {
            name: content.replace(folder.encode(), folders[folder].encode())
            for name, content in shown.items()
        }
    return parts | shown


def finished(runs_dir: Path) -> list[Path]:
    """Folders of the runs that are trained and scored, and of the untrained model's scores."""
    folders = (path.parent.parent for path in runs_dir.rglob(SCORED))
    return sorted(folder for folder in folders if not folder.name.startswith("."))


def unpack(archive: Path, runs_dir: Path) -> tuple[int, int]:
    """Unpack the archive's runs below `runs_dir`; return the numbers of new and of existing runs.

    Raises InputError if the archive is missing, damaged, or holds anything but runs.
    """
    with only_one(runs_dir):
        runs = _runs(archive)
        new = [name for name in runs if not (runs_dir / name).exists()]
        for name in new:
            folder = runs_dir / name
            remove_unfinished(folder.parent, folder.name)
            with atomic_folder(folder, sealed=False) as temporary:
                for part, content in runs[name].items():
                    (temporary / part).parent.mkdir(exist_ok=True)
                    (temporary / part).write_bytes(content)
    return len(new), len(runs) - len(new)


def _runs(archive: Path) -> dict[str, dict[str, bytes]]:
    """Everything in an archive: folder of a run → file in it → content."""
    if not archive.is_file():
        raise InputError(f"no archive at {archive}: give archive=FILE, or make it by action=pack")
    runs: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(archive, "r:xz") as tar:
            for info in tar:
                name, part = _split(info)
                content = tar.extractfile(info)
                assert content is not None  # a regular file, says _split
                runs.setdefault(name, {})[part] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{archive} is damaged ({error}): fetch it again") from error
    unfinished = [name for name, parts in runs.items() if SCORED not in parts]
    if unfinished:
        raise InputError(f"{archive} is damaged ({unfinished[0]} lacks {SCORED}): fetch it again")
    return runs


def _split(info: tarfile.TarInfo) -> tuple[str, str]:
    """A member's run folder and its name below it. Raises InputError for anything else."""
    path = PurePosixPath(info.name)
    plain = info.isreg() and not path.is_absolute() and ".." not in path.parts
    for part in PARTS if plain else ():
        depth = len(PurePosixPath(part).parts)
        if len(path.parts) > depth and path.match(part):
            folder, inside = path.parts[:-depth], path.parts[-depth:]
            return "/".join(folder), "/".join(inside)
    raise InputError(f"{info.name!r} in an archive of runs: not a file of a run")


def act(cfg: DictConfig) -> str:
    """Do what the configuration asks for; return a line that says what was done."""
    runs_dir, archive = Path(cfg.runs_dir), Path(cfg.archive)
    if cfg.action == "pack":
        number = pack(runs_dir, archive)
        return f"{archive}: {number} runs, {archive.stat().st_size / 1e6:.1f} MB"
    if cfg.action == "unpack":
        new, there = unpack(archive, runs_dir)
        return f"{runs_dir}: {new} runs unpacked, {there} already there and unchanged"
    raise InputError(f"action={cfg.action}: choose pack or unpack")
