"""Write README's table of answers from the committed results (make readme).

python -m scripts.readme
"""

from __future__ import annotations


def main() -> None:
    """Rewrite README.md in place."""
    from pipeline.experiments.readme import ROOT, answers, updated
    from rm.files import atomic_write_text

    readme = ROOT / "README.md"
    atomic_write_text(readme, updated(readme.read_text(), answers(ROOT)))


if __name__ == "__main__":
    main()
