"""Which direction of a metric is better, read from its name, the objective, or what the user says."""

import pytest

from lab.engine.runs.metrics import at_test, default_metric, direction
from lab.engine.utils.errors import UserError


def test_the_direction_of_a_metric() -> None:
    higher = (
        "val/acc",
        "test_accuracy",
        "test/acc_gap",
        "test/score",
        "test/modes",
        "val_auroc",
        "test/f1",
        "test/elbo",
        "test/modes_gap",
        "val_BinaryAUROC",
        "test_MulticlassF1Score/dataloader_idx_1",
        "val/mIoU",
        "top5_acc",
        "val/rouge1",
    )
    lower = (
        *("val/loss", "test_loss", "test/mse_gap", "test/frechet_ratio", "cost/seconds", "score_loss", "test/nll"),
        *("cost/steps", "val_MeanSquaredError", "valid/WER", "Loss/val", "train_loss_epoch", "val/fid_score"),
    )
    assert {direction(name) for name in higher} == {"max"}
    assert {direction(name) for name in lower} == {"min"}
    for same in ("test/thing", "test_thing", "test/thing_gap", "thing/train", "test_thing/dataloader_idx_0", "thing"):
        assert direction(same, [("val/acc", "min"), ("val/thing", "max")]) == "max"
    assert direction("test_loss", [("val_loss", "max")]) == "max", "the objective decides before the name"
    assert direction("test_thing", [("val_thing", "max")], mode="min") == "min"
    assert default_metric(["cost/seconds", "val_loss", "test_loss", "test_acc"]) == "test_loss"
    assert default_metric(["cost/seconds"]) == "cost/seconds"
    assert [at_test(name) for name in ("val/acc", "val_loss", "value")] == ["test/acc", "test_loss", "value"]


@pytest.mark.parametrize(
    "name", ["val_thing", "val/anomaly_score", "neg_log_likelihood", "compression_ratio", "things"]
)
def test_the_direction_of_a_name_that_does_not_tell_is_asked_for(name: str) -> None:
    with pytest.raises(UserError, match="mode=max") as asked:
        direction(name, [("val/something_else", "min")])
    assert name in str(asked.value)
    assert "\n" not in str(asked.value)
