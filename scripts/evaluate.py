"""Tests a run's model: python scripts/evaluate.py run=latest [checkpoint=last] [data=mnist] [data.KEY=VALUE …]

Everything comes from the run directory; data overrides serve another dataset that fits. The figures are printed and
written to evaluation-<data>.json in the run directory.
"""

import sys

from lab.answers import explained
from lab.config import adapt, check, merge_overrides, parse_arguments
from lab.runs import Run


def main(words: list[str]) -> None:
    arguments, overrides = parse_arguments(words, {"run": "latest", "checkpoint": "best"})
    run = Run.open(arguments["run"])
    path = run.checkpoint(arguments["checkpoint"])
    config = run.config
    config.trainer.accelerator, config.trainer.devices = "auto", 1  # this machine need not be the one it was trained on
    config, data = merge_overrides(config, run.choice("data"), overrides)
    check(config)
    told = adapt(run.config, config)

    import pytorch_lightning as pl  # seconds: once the arguments are known to be right
    from rich.console import Console
    from rich.table import Table

    from lab.logs import quiet
    from lab.training import excess

    quiet()
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=run.dir,
        callbacks=[*run.judges(config)],
    )
    datamodule = run.datamodule(config)
    metrics = dict(trainer.test(run.model(arguments["checkpoint"], **told), datamodule, verbose=False)[0])
    metrics |= excess(metrics, datamodule)
    run.save_metrics(metrics, f"evaluation-{data}.json")

    table = Table("metric", "value", title=f"{path.parent.parent.name}, {path.name}, on {data}")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
    print(f"written to {run.dir / f'evaluation-{data}.json'}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
    else:
        with explained():
            main(sys.argv[1:])
