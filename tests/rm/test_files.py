"""Files that are whole or absent, seals, checksums, and errors about space and permission."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rm.errors import InputError, InterruptedRunError
from rm.files import (
    CHECKSUMS_FILE,
    atomic_folder,
    atomic_write_text,
    damage,
    is_intact,
    is_sealed,
    read_json,
    remove_unfinished,
    require_undamaged,
    seal,
    storage_error,
    write_checked,
    writing,
)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A sealed folder with three files, one of them deeper."""
    folder = tmp_path / "sealed"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.bin", "b.json", "deeper/c.pt"):
        (folder / name).write_bytes(name.encode() * 50)
    seal(folder)
    return folder


def test_a_sealed_folder_is_whole_and_an_unsealed_one_is_not_finished(sealed: Path) -> None:
    assert is_sealed(sealed) and damage(sealed) is None
    require_undamaged(sealed)
    (sealed / CHECKSUMS_FILE).unlink()
    assert damage(sealed) == "it is not finished"
    require_undamaged(sealed)  # someone else's folder, which never had a seal


@pytest.mark.parametrize("name", ["a.bin", "b.json", "deeper/c.pt", CHECKSUMS_FILE])
@pytest.mark.parametrize("kind", ["cut", "flipped", "gone"])
def test_every_kind_of_damage_is_seen(sealed: Path, name: str, kind: str) -> None:
    path, content = sealed / name, (sealed / name).read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        flipped = content[:20] + bytes([content[20] ^ 1]) + content[21:]
        path.write_bytes(content[:-1] if kind == "cut" else flipped)
    if name == CHECKSUMS_FILE and kind == "cut":
        assert json.loads(path.read_bytes())  # the line's end was cut: nothing is lost
        path.write_bytes(content[:-3])
    found = damage(sealed)
    assert found is not None
    assert "not finished" in found if (name, kind) == (CHECKSUMS_FILE, "gone") else found
    if is_sealed(sealed):
        with pytest.raises(InputError, match=f"delete {sealed} and make it again"):
            require_undamaged(sealed)


def test_the_card_may_be_edited_and_files_added(sealed: Path) -> None:
    (sealed / "README.md").write_text("a card")
    (sealed / "notes.txt").write_text("mine")
    assert damage(sealed) is None


def test_a_folder_takes_its_place_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / "file").write_text(content)
        assert (target / "file").read_text() == content and damage(target) is None
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "file").write_text("three")
        raise ZeroDivisionError
    assert (target / "file").read_text() == "two" and list(tmp_path.iterdir()) == [target]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from rm import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "files.atomic_write_text(Path(sys.argv[1]) / 'file', 'text')"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    (left,) = tmp_path.iterdir()
    (tmp_path / ".kept").write_text("")
    remove_unfinished(tmp_path, "file2")
    assert left.exists()
    remove_unfinished(tmp_path, "file")
    assert not left.exists()
    (tmp_path / ".other.x.unfinished").mkdir()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".kept"]


def test_a_checked_file_is_intact_until_a_bit_flips(tmp_path: Path) -> None:
    path = tmp_path / "file.npy"
    assert not is_intact(path)
    write_checked(path, b"12345")
    assert is_intact(path)
    path.write_bytes(b"12355")
    assert not is_intact(path)
    (tmp_path / "file.npy.sha256").unlink()  # written before there were checksums
    assert is_intact(path)


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff{}", b""])
def test_damaged_json_says_what_to_delete(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=f"is damaged: delete {tmp_path}"):
        read_json(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "no space"), InterruptedRunError),
        (OSError(errno.EDQUOT, "quota"), InterruptedRunError),
        (SafetensorError("I/O error: File too large (os error 27)"), InterruptedRunError),
        (RuntimeError("inline_container.cc:672] . unexpected pos 576 vs 534"), InterruptedRunError),
        (RuntimeError("basic_ios::clear: iostream error"), InterruptedRunError),
        (OSError(errno.EROFS, "read only"), InputError),
        (PermissionError(errno.EACCES, "no"), InputError),
        (Exception("Permission denied (os error 13)"), InputError),
    ],
)
def test_errors_about_space_and_permission_become_one_line(
    error: Exception, kind: type[Exception], tmp_path: Path
) -> None:
    found = storage_error(error, tmp_path / "file")
    assert type(found) is kind and str(tmp_path / "file") in str(found)
    assert "\n" not in str(found) and "then the same command resumes" in str(found)
    with pytest.raises(kind), writing(tmp_path / "file"):
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOENT, "none"), KeyError("x")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    assert storage_error(error) is None
    with pytest.raises(type(error)), writing(tmp_path):
        raise error


def test_what_torch_and_safetensors_say_at_a_full_disk_is_known(tmp_path: Path) -> None:
    """The messages that `storage_error` looks for are those of the installed versions."""
    script = (
        "import resource, sys, torch; from pathlib import Path; from safetensors.torch import *\n"
        "from rm.files import *; from rm.errors import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "values = {'a': torch.zeros(9000)}\n"
        "for write in (torch.save, save_file):\n"
        "    try:\n"
        "        with writing(Path(sys.argv[1])): write(values, sys.argv[1])\n"
        "    except InterruptedRunError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("could not be written") == 2


def test_text_is_written_whole(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "new/folder/file", "å")
    assert (tmp_path / "new/folder/file").read_text(encoding="utf-8") == "å"
