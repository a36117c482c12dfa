"""Write README's table of answers and its figure from the committed results (make readme).

python -m scripts.readme
"""

from __future__ import annotations

import argparse


def main() -> None:
    """Rewrite README.md and draw its figure."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from analysis.style import write_figure
    from pipeline.experiments.readme import FIGURE, ROOT, answers, overview, updated
    from rm.files import atomic_write_text

    readme = ROOT / "README.md"
    figure = overview(ROOT / "results")
    write_figure(figure, (ROOT / FIGURE).with_suffix(""))
    atomic_write_text(readme, updated(readme.read_text(), answers(ROOT, figure)))


if __name__ == "__main__":
    main()
