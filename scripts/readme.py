"""Put the committed results into README.md and results/CLAIMS.md: python -m scripts.readme."""

from __future__ import annotations

from pipeline.experiments.readme import PAGE, ROOT, page, section, updated, with_numbers
from rm.files import atomic_write_text


def main() -> None:
    """Rewrite README.md and results/CLAIMS.md in place."""
    path = ROOT / "README.md"
    text = updated(path.read_text(), section(ROOT))
    atomic_write_text(path, with_numbers(text, ROOT))
    atomic_write_text(ROOT / PAGE, page(ROOT))


if __name__ == "__main__":
    main()
