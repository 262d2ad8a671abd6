"""The language-modelling task: its metrics and its sampling, held against counts by hand."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lab.engine.training.build import build
from lab.models.gpt import GPT
from lab.models.tasks.language_modeling import sample_token
from tests.conftest import Compose, small


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(logits: torch.Tensor, count: int = 20_000, **options: Any) -> torch.Tensor:
    """How often each token is chosen."""
    plain: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": None}
    chosen = sample_token(logits.expand(count, -1), **(plain | options), draws=draws())
    return chosen.bincount(minlength=logits.shape[-1]) / count


LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, -3.0]])


def test_sampling_follows_the_softmax() -> None:
    torch.testing.assert_close(shares(LOGITS), LOGITS[0].softmax(0), atol=0.015, rtol=0)
    torch.testing.assert_close(shares(LOGITS, temperature=2.0), (LOGITS[0] / 2).softmax(0), atol=0.015, rtol=0)


def test_top_k_leaves_the_k_likeliest() -> None:
    expected = torch.cat([LOGITS[0, :2].softmax(0), torch.zeros(3)])
    torch.testing.assert_close(shares(LOGITS, top_k=2), expected, atol=0.015, rtol=0)
    torch.testing.assert_close(shares(LOGITS, top_k=99), LOGITS[0].softmax(0), atol=0.015, rtol=0)


def test_top_p_leaves_the_smallest_set_that_has_it() -> None:
    probabilities = LOGITS[0].softmax(0)  # 0.60 0.22 0.13 0.03 0.00
    kept = 3  # the first two have 0.82
    expected = torch.cat([probabilities[:kept] / probabilities[:kept].sum(), torch.zeros(2)])
    torch.testing.assert_close(shares(LOGITS, top_p=0.9), expected, atol=0.015, rtol=0)
    assert shares(LOGITS, top_p=0.1)[0] == 1, "the likeliest is always left"
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(shares(LOGITS[:, shuffled], top_p=0.9), expected[shuffled], atol=0.015, rtol=0)


def test_no_temperature_takes_the_likeliest() -> None:
    assert sample_token(LOGITS, 0.0, None, None, draws()).tolist() == [0]


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        shares(LOGITS, **options)


def test_the_same_seed_writes_the_same_and_another_does_not() -> None:
    model = GPT(64, 32, embed_dim=8, num_layers=1, num_heads=2)
    prompt = torch.zeros(1, 1, dtype=torch.long)
    first = model.generate(prompt, 20, seed=1)
    torch.manual_seed(99)
    assert torch.equal(model.generate(prompt, 20, seed=1), first)
    assert not torch.equal(model.generate(prompt, 20, seed=2), first)


def test_more_than_the_context_is_refused() -> None:
    model = GPT(64, 8, embed_dim=8, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match=r"prompt of 5 and 4 more tokens.*context_length=8"):
        model.generate(torch.zeros(1, 5, dtype=torch.long), 4)
    with pytest.raises(ValueError, match="there must be a prompt"):
        model.generate(torch.zeros(1, 0, dtype=torch.long), 4)


@pytest.mark.parametrize("data", ["text", "recall"])
def test_metrics_agree_with_counts_by_hand(data: str, cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*small("gpt", data), "data.eval_batch_size=7", "logger=none", "callbacks=none")
    )
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    module.eval()
    with torch.no_grad():
        parts = [(module(tokens).flatten(0, 1), targets.flatten()) for tokens, targets in datamodule.test_dataloader()]
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    logits, targets = logits[targets >= 0], targets[targets >= 0]
    loss = float(F.cross_entropy(logits.double(), targets))
    assert metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["test/ppl"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert metrics["test/bits_per_token"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert metrics["test/acc"] == pytest.approx(float((logits.argmax(1) == targets).double().mean()), abs=1e-6)
