"""Run Best-of-N against a gold score.

python -m scripts.best_of_n profile=cpu [bon=cpu_full] [gold=verifier|reward_model|both]

A policy answers held-out prompts N times. A gold scores the answers and relabels training pairs.
Proxies (methods × seeds) are trained on those pairs and pick the best of n answers; the gold score
of their picks is drawn against the KL divergence from the policy.

Output: results/<profile>/data/best_of_n.csv, Figure 5 and three tables.
Resume: each stage keeps its output in runs/<profile>/best_of_n under a name made of all that it
depends on, and is skipped if that is there. Sampling resumes after the last prompt written,
training from its last checkpoint.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("best_of_n")
def main(cfg: DictConfig) -> None:
    """Run the experiment and print its table."""
    from pipeline.experiments.best_of_n import run

    results = run(cfg, configuration.words())
    print((results / "tables" / "best_of_n.md").read_text())
    print(f"written: {results}/data/best_of_n.csv, figures/figure5, tables/best_of_n*")


if __name__ == "__main__":
    main()
