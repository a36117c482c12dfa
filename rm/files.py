"""Files that are either whole or absent: written beside their place, flushed, then renamed.

A folder can carry the checksums of its files (`seal`), so that `damage` can tell one that is whole
from one that a kill cut short or a disk garbled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rm.errors import InputError, InterruptedRunError
from rm.provenance import file_fingerprint

CHECKSUMS_FILE = "checksums.json"
UNSEALED = (CHECKSUMS_FILE, "README.md")
"""Files that a seal leaves out: itself, and the model card, which people edit."""
UNFINISHED = ".unfinished"
"""How the names of temporary files and folders end."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
_NAME = re.compile(r"\w[\w.+-]*")


def file_name(name: str, key: str) -> str:
    """Return `name` if it names one file or folder and nothing above it.

    Letters, digits, `_`, `.`, `+`, `-`, and no `.` or `-` first: so no path, no hidden file and no
    command-line option. Raises InputError, which names the configuration's `key`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{key}={name}: must be a plain name (letters, digits, _ . + -, no path), since a file "
            "or folder is called so"
        )
    return name


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: readers see the old file or the whole new one, never half of it.

    Raises as `writing` does.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(**_beside(path))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush_to_disk(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN is refused, not written."""
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote. Raises InputError, saying so, if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSON or UTF-8
        raise InputError(
            f"{path} is damaged: delete {path.parent}, and the same command makes it again"
        ) from error


@contextlib.contextmanager
def atomic_folder(path: Path, *, sealed: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends without error.

    It is sealed, unless told otherwise. A folder already at `path` is replaced; after an error it
    is left as it was. Raises as `writing` does.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(**_beside(path)))
        try:
            os.chmod(temporary, 0o755)
            yield temporary
            if sealed:
                seal(temporary)
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`. What is there is set aside first, so `path` is never half of it."""
    for file in new.rglob("*"):
        _flush_to_disk(file)
    if path.exists():
        aside = Path(tempfile.mkdtemp(**_beside(path)))
        os.replace(path, aside)
        os.replace(new, path)
        shutil.rmtree(aside)
    else:
        os.replace(new, path)
    _flush_to_disk(path.parent)


def _beside(path: Path) -> dict[str, Any]:
    return {"dir": path.parent, "prefix": f".{path.name}.", "suffix": UNFINISHED}


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Delete what killed writers left in `folder` (not below it); no one may be writing there.

    With a `name`, what they left of that file or folder alone.
    """
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- Whole or damaged ----------------------------------------------------------------------------


def seal(folder: Path) -> None:
    """Write the checksums of all files below `folder` into it: the last step of making it."""
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in UNSEALED
    )
    found = {name: file_fingerprint(folder / name) for name in names}
    atomic_write_json(folder / CHECKSUMS_FILE, found)


def is_sealed(folder: Path) -> bool:
    """Whether the folder was made to its end; says nothing about what happened to it since."""
    return (folder / CHECKSUMS_FILE).is_file()


def damage(folder: Path) -> str | None:
    """Say what is wrong with a folder that should be sealed; None if it is as it was made."""
    if not is_sealed(folder):
        return "it is not finished"
    try:
        expected = json.loads((folder / CHECKSUMS_FILE).read_bytes())
        wrong = changed(folder, expected)
    except (ValueError, AttributeError):
        wrong = [CHECKSUMS_FILE]
    return f"{', '.join(wrong[:3])} is damaged or missing" if wrong else None


def changed(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """Names of `checksums` that are not files of `folder`, or not as they were noted."""
    return [
        name
        for name, checksum in checksums.items()
        if not (folder / name).is_file() or file_fingerprint(folder / name) != checksum
    ]


def write_checked(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, and its checksum to a file beside it."""
    atomic_write_bytes(path, data)
    atomic_write_text(_checksum_file(path), file_fingerprint(path) + "\n")


def is_intact(path: Path) -> bool:
    """Whether a file is there and, where it has a checksum beside it, is as it was written."""
    if not path.is_file():
        return False
    noted = _checksum_file(path)
    return not noted.is_file() or noted.read_bytes().strip() == file_fingerprint(path).encode()


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def require_undamaged(folder: Path) -> None:
    """Raise InputError if a sealed folder is damaged; one without a seal is taken as it is."""
    found = damage(folder) if is_sealed(folder) else None
    if found is not None:
        raise InputError(
            f"{folder}: {found}: delete {folder} and make it again (or, if you changed it "
            f"yourself, {CHECKSUMS_FILE} in it)"
        )


# --- No space, no permission ---------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` where the block cannot write it.

    Raises InterruptedRunError where its disk is full, InputError where it may not be written.
    """
    try:
        yield
    except Exception as error:
        found = storage_error(error, path)
        if found is None:
            raise
        raise found from error


def storage_error(error: Exception, path: Path | None = None) -> Exception | None:
    """Translate an error about space or permission into one line; None for any other error.

    Knows the operating system's errors and what safetensors, tokenizers and torch make of them.
    """
    place = path or getattr(error, "filename", None) or "a file"
    code = _errno_of(error)
    if code in NO_SPACE:
        return InterruptedRunError(
            f"{place} could not be written ({os.strerror(code)}{_free(path)}): free space on its "
            "disk, in runs/ for one, or raise the quota; then the same command goes on"
        )
    if code in NO_ACCESS:
        return InputError(
            f"{place}: {os.strerror(code)}: allow access or choose another folder; then the same "
            "command goes on"
        )
    return None


def _errno_of(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    rust = re.search(r"\(os error (\d+)\)", str(error))
    if rust:
        return int(rust[1])
    # torch.save says only that its writer failed: a disk that is full, as a rule.
    torch_writer = re.search(
        r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error", str(error)
    )
    return errno.ENOSPC if torch_writer else None


def _free(path: Path | None) -> str:
    """How much room there is where `path` would be."""
    near = next((p for p in (path, *path.parents) if p.exists()), None) if path else None
    return f", {shutil.disk_usage(near).free / 1e6:,.0f} MB free" if near else ""
