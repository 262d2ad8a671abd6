"""Numbers of each sample: its own, the same wherever it is drawn, and distributed as they are said to be."""

import torch
from scipy import stats

from lab.data.draws import Draws


def test_a_samples_numbers_do_not_depend_on_the_batch() -> None:
    whole = Draws(torch.arange(12), 3, 1)
    expected = whole.uniform(2, 5)
    assert expected.shape == (12, 2, 5)
    for samples in (torch.tensor([7, 2, 11]), torch.arange(1, 12, 3), torch.tensor([4])):
        assert torch.equal(Draws(samples, 3, 1).uniform(2, 5), expected[samples])
    parts = [part.uniform(2, 5) for part in Draws(torch.arange(12), 3, 1).split(5)]
    assert torch.equal(torch.cat(parts), expected)


def test_numbers_come_in_one_order_whatever_the_calls() -> None:
    at_once, later = Draws(torch.arange(3), 0), Draws(torch.arange(3), 0)
    expected = at_once.normal(10)
    assert torch.equal(torch.cat([later.normal(4), later.normal(6)], 1), expected)
    assert not torch.equal(at_once.normal(10), expected)


def test_keys_and_samples_have_numbers_of_their_own() -> None:
    keys = [(), (0,), (1,), (0, 0), (0, 1), (2**63,), (0, 2**40)]
    drawn = torch.cat([Draws(torch.arange(50), *key).uniform(20).flatten() for key in keys])
    assert len(drawn.unique()) == len(keys) * 50 * 20


def test_numbers_are_spread_as_they_should() -> None:
    """Over the numbers of one sample, over samples, over epochs, and between neighbours of each."""
    samples, epochs = torch.arange(300), [Draws(torch.arange(300), 5, epoch).uniform(300) for epoch in range(300)]
    of_samples, over_epochs = Draws(samples, 5).uniform(300), torch.stack(epochs)[:, :, 0]
    for table in (of_samples, of_samples.T, over_epochs, over_epochs.T):
        table = table.contiguous()
        assert table.min() > 0
        assert table.max() < 1
        assert stats.kstest(table.flatten().numpy(), "uniform").pvalue > 1e-3
        assert stats.kstest(table[0].numpy(), "uniform").pvalue > 1e-3
        neighbours = torch.corrcoef(torch.stack([table[:, 1:].flatten(), table[:, :-1].flatten()]))[0, 1]
        assert neighbours.abs() < 4 / 300
    normal = Draws(samples, 6).normal(300).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(normal)) < 0.05
