"""Tests a run's model: python scripts/evaluate.py run=latest [checkpoint=last] [data=mnist] [data.KEY=VALUE …]

Everything comes from the run directory; data overrides serve another dataset that fits. The figures are printed and
written to evaluation-<data>.json in the run directory; those of checkpoint=last to evaluation-<data>-last.json.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import sys

from lab.engine.analysis.terminal import show_pairs
from lab.engine.cli.errors import script
from lab.engine.inference.reuse import parse, with_data
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError


def main(argv: list[str]) -> None:
    arguments, overrides = parse(argv, {"run": "latest", "checkpoint": "best"})
    run, which = Run.open(arguments["run"], arguments["paths.log_dir"]), arguments["checkpoint"]
    path = run.checkpoint(which)
    config, name, model_arguments = with_data(run, overrides)

    import pytorch_lightning as pl  # seconds: once the arguments are known to be right

    from lab.engine.training.model import matmul_precision
    from lab.engine.training.report import gaps, is_testable
    from lab.engine.utils.console import quiet

    quiet()
    data, model = run.datamodule(config, which), run.model(which, **model_arguments)
    if not is_testable(model, data):
        raise UserError(f"{type(model).__name__} has no test_step, or there is no test_dataloader: nothing is tested")
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.get("precision"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=run.dir,
        callbacks=[*run.test_callbacks(config)],
    )
    with matmul_precision(config.get("matmul_precision")):
        found = trainer.test(model, data, verbose=False)
    metrics = {metric: value for of_loader in found for metric, value in of_loader.items()}
    metrics |= gaps(metrics, data)
    rows = [(metric, f"{value:.4f}") for metric, value in metrics.items()]
    show_pairs(f"{path.parent.parent.name}, {path.name}, on {name}", ("metric", "value"), rows)
    name = name.replace("/", "-")  # of a choice in a folder
    file = f"evaluation-{name}.json" if which == "best" else f"evaluation-{name}-{path.stem}.json"
    run.save_metrics(metrics, file)
    print(f"written to {run.dir / file}")


if __name__ == "__main__":
    script(main)
