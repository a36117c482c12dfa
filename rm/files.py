"""Atomic writes: files and folders get a temporary name, are flushed to disk, then renamed.

A sealed folder holds the checksums of its files (`seal`). From them `damage` recognises a folder
that is unfinished or corrupted.
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
"""Files without a checksum: the checksums themselves, and the model card, which people edit."""
UNFINISHED = ".unfinished"
"""Suffix of temporary files and folders."""
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
    """Return `name` if it is the plain name of a file or folder.

    It may hold letters, digits, `_`, `.`, `+` and `-`, and must start with a letter, digit or `_`.
    So it is no path, hidden file or command-line option. Raises InputError, which names the
    configuration's `key`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{key}={name}: must be a plain name (letters, digits, _ . + -; no path), because it "
            "names a file or folder"
        )
    return name


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: readers see the old file or the whole new one, never half of it.

    Raises the errors of `writing`.
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
    """Write `content` as indented JSON, whole or not at all. Raises ValueError for NaN."""
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote. Raises InputError if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSON or UTF-8
        raise InputError(
            f"{path} is damaged: delete {path.parent}, and run the same command again"
        ) from error


@contextlib.contextmanager
def atomic_folder(path: Path, *, sealed: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to `path` when the block ends without error.

    With `sealed`, it is sealed first. Success replaces an existing folder at `path`; an error
    leaves it unchanged. Raises the errors of `writing`.
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
    """Rename `new` to `path`. A folder there is moved aside first: `path` is never partial."""
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
    """Delete temporary files and folders that killed writers left directly in `folder`.

    With a `name`, delete only those of that file or folder. No process may be writing there.
    """
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- Whole or damaged ----------------------------------------------------------------------------


def seal(folder: Path) -> None:
    """Write the checksums of all files below `folder` into it. Call this last."""
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in UNSEALED
    )
    found = {name: file_fingerprint(folder / name) for name in names}
    atomic_write_json(folder / CHECKSUMS_FILE, found)


def is_sealed(folder: Path) -> bool:
    """Whether the folder was finished. It may have been damaged since (see `damage`)."""
    return (folder / CHECKSUMS_FILE).is_file()


def damage(folder: Path) -> str | None:
    """Say what is wrong with a folder that should be sealed; None if it is unchanged."""
    if not is_sealed(folder):
        return "it is not finished"
    try:
        expected = json.loads((folder / CHECKSUMS_FILE).read_bytes())
        wrong = changed(folder, expected)
    except (ValueError, AttributeError):
        wrong = [CHECKSUMS_FILE]
    return f"{', '.join(wrong[:3])} is damaged or missing" if wrong else None


def changed(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """Names in `checksums` whose file in `folder` is missing or has another checksum."""
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
    """Whether a file exists and matches the checksum beside it, if there is one."""
    if not path.is_file():
        return False
    noted = _checksum_file(path)
    return not noted.is_file() or noted.read_bytes().strip() == file_fingerprint(path).encode()


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def require_undamaged(folder: Path) -> None:
    """Raise InputError if a sealed folder is damaged. A folder without a seal is accepted."""
    found = damage(folder) if is_sealed(folder) else None
    if found is not None:
        raise InputError(
            f"{folder}: {found}: delete {folder} and make it again; if you changed it yourself, "
            f"delete only {CHECKSUMS_FILE} in it"
        )


# --- No space, no permission ---------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn storage errors in the block into errors of one line that name `path`.

    Raises InterruptedRunError if the disk is full, InputError if writing is not permitted.
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

    Recognises OSError and the errors that safetensors, tokenizers and torch raise instead.
    """
    place = path or getattr(error, "filename", None) or "a file"
    code = _errno_of(error)
    if code in NO_SPACE:
        return InterruptedRunError(
            f"{place} could not be written ({os.strerror(code)}{_free(path)}): free disk space (in "
            "runs/, for example) or raise the quota; then the same command resumes"
        )
    if code in NO_ACCESS:
        return InputError(
            f"{place}: {os.strerror(code)}: allow access or choose another folder; then the "
            "same command resumes"
        )
    return None


def _errno_of(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    rust = re.search(r"\(os error (\d+)\)", str(error))
    if rust:
        return int(rust[1])
    # torch.save reports only that its writer failed; the usual cause is a full disk.
    torch_writer = re.search(
        r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error", str(error)
    )
    return errno.ENOSPC if torch_writer else None


def _free(path: Path | None) -> str:
    """Free space on the disk of `path`, as text for a message."""
    near = next((p for p in (path, *path.parents) if p.exists()), None) if path else None
    return f", {shutil.disk_usage(near).free / 1e6:,.0f} MB free" if near else ""
