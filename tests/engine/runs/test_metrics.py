"""Which direction of a metric is better, read from its name, the objective, or what the user says."""

from lab.engine.runs.metrics import at_test, default_metric, direction


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
    )
    lower = ("val/loss", "test_loss", "test/mse_gap", "test/frechet_ratio", "cost/seconds", "score_loss", "test/nll")
    assert {direction(name) for name in higher} == {"max"}
    assert {direction(name) for name in lower} == {"min"}
    assert direction("test/thing", [("val/thing", "max")]) == "max"
    assert direction("test_thing", [("val_thing", "max")], mode="min") == "min"
    assert default_metric(["cost/seconds", "val_loss", "test_loss", "test_acc"]) == "test_loss"
    assert default_metric(["cost/seconds"]) == "cost/seconds"
    assert [at_test(name) for name in ("val/acc", "val_loss", "value")] == ["test/acc", "test_loss", "value"]
