"""Run Best-of-N against a gold score.

python -m scripts.best_of_n profile=cpu [bon.policy.engine=auto] [gold=verifier|reward_model|both]

A policy gives N candidates for each held-out prompt, a gold scores them, and reward models pick the
best of n. The gold score of their picks is drawn against the KL divergence from the policy.

bon.policy.engine=synthetic (profiles cpu and smoke): candidates come from the generator of the
data, code checks them, and the trained checkpoints of the matrix pick.
Other engines: a language model answers, the gold relabels training pairs, and proxies (methods ×
seeds) are trained on those pairs.

Output: results_dir/data/best_of_n.csv, Figure 5 and three tables.
Resume: each stage keeps its output in runs/<profile> under a name made of all that it depends on,
and is skipped if that is there. Sampling resumes after the last prompt written, training from its
last checkpoint.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("best_of_n")
def main(cfg: DictConfig) -> None:
    """Run the experiment and print its table."""
    with configuration.quick_imports():
        from eval.tables import for_terminal
        from pipeline.experiments.best_of_n import run

    results = run(cfg, configuration.words())
    about, table, *_ = (results / "tables" / "best_of_n.md").read_text().split("\n\n")
    print(f"{about}\n\n{for_terminal(table)}\n")
    print(f"tables: {results / 'tables'}   figure: {results / 'figures' / 'figure5.png'}")


if __name__ == "__main__":
    main()
