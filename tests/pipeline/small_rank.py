"""A rank that trains nothing: it meets the others, says what it sees, and does one `deed`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from pipeline.launch import ranks


def main(folder: str, deed: str) -> None:
    """`deed`: end, or die (rank 1 is killed while rank 0 waits for it)."""
    with ranks.noted(Path(folder)):
        store = ranks.meet(Path(folder), "the same settings")
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")
        seen = {name: os.environ.get(name) for name in names}
        (Path(folder) / f"seen{seen['RANK']}.json").write_text(json.dumps(seen))
        store.set(f"seen{seen['RANK']}", "")
        store.wait(["seen0", "seen1"])  # before one dies and the other is ended
        if deed == "die" and seen["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "die":
            time.sleep(300)
        del store


if __name__ == "__main__":
    main(*sys.argv[1:])
