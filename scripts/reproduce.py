"""Run the whole pipeline (make reproduce).

python -m scripts.reproduce profile=cpu [matrix=main] [methods=[bt,normbt]] [seeds=[0,1]]

Trains every method with every seed, scores each run, measures exact gradients, draws tables and
figures, then runs Best-of-N and builds the report.

Output: results_dir (results/local/<profile>, which git ignores), with the data behind every table
and figure, and a manifest. The terminal shows stages, progress and the answer; everything else goes
to <runs_dir>/log.txt.
Resume: each stage leaves a manifest. A finished stage is skipped; one whose settings, data or code
have changed is out of date and is rerun. An interrupted run resumes from its last checkpoint.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Run the pipeline; print Table 1, the verdicts and where everything is."""
    with configuration.quick_imports():
        from pipeline.experiments.closing import closing_lines
        from pipeline.experiments.reproduce import committed_folder, reproduce

    results = reproduce(cfg, configuration.words())
    if cfg.until == "rates":
        print(f"learning rates: {results / 'data' / 'grid.csv'}")
        return
    for line in closing_lines(results, committed_folder(cfg)):
        print(line)


if __name__ == "__main__":
    main()
