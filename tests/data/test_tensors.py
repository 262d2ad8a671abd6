"""The loader: nothing lost, nothing twice, the same order for the same seed and epoch, and it goes on where it was."""

import pytest
import torch

from lab.data.tensors import Batches, generator


def rows(size: int) -> tuple[torch.Tensor, ...]:
    return (torch.arange(size), -torch.arange(size))


def drawn(batches: Batches) -> list[int]:
    return [int(i) for batch in batches for i in batch[0]]


def test_a_training_epoch_takes_each_sample_once_but_for_the_rest() -> None:
    batches = Batches(rows(103), 10, shuffle_seed=0)
    seen = drawn(batches)
    assert len(batches) == 10
    assert len(seen) == len(set(seen)) == 100
    assert seen != sorted(seen)


def test_tensors_stay_aligned() -> None:
    for first, second in Batches(rows(50), 7, shuffle_seed=3):
        assert torch.equal(first, -second)


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    epoch = [0]
    batches = Batches(rows(64), 8, shuffle_seed=1, epoch=lambda: epoch[0])
    torch.manual_seed(5)
    first = drawn(batches)
    torch.manual_seed(6)
    assert drawn(batches) == first
    epoch[0] = 1
    assert drawn(batches) != first
    assert drawn(Batches(rows(64), 8, shuffle_seed=2)) != first


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drawn(Batches(rows(64), 8, shuffle_seed=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_every_training_batch(world_size: int) -> None:
    whole = list(Batches(rows(96), 12, shuffle_seed=0))
    shares = [list(Batches(rows(96), 12, shuffle_seed=0, rank=r, world_size=world_size)) for r in range(world_size)]
    for i, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[i][0] for share in shares]), batch[0])


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [10, 11, 100, 103])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 1000])
def test_evaluation_takes_every_sample_once_over_all_ranks(world_size: int, size: int, batch_size: int) -> None:
    ranks = [Batches(rows(size), batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    assert sorted(i for rank in ranks for i in drawn(rank)) == list(range(size))
    assert len({len(list(rank)) for rank in ranks}) == 1, "a rank that ends early leaves the others waiting"
    largest = batch_size if batch_size > 1 else 2
    assert all(0 < len(batch[0]) <= largest for rank in ranks for batch in rank)


def test_goes_on_with_the_batch_that_came_next() -> None:
    batches = Batches(rows(60), 6, shuffle_seed=0)
    whole = drawn(batches)
    cut = Batches(rows(60), 6, shuffle_seed=0)
    iterator = iter(cut)
    begun = [int(i) for _ in range(4) for i in next(iterator)[0]]
    later = Batches(rows(60), 6, shuffle_seed=0)
    later.load_state_dict(cut.state_dict())
    assert begun + drawn(later) == whole
    assert drawn(later) == whole, "the next epoch is a whole one"


def test_a_state_of_another_epoch_does_not_shorten_this_one() -> None:
    later = Batches(rows(60), 6, shuffle_seed=0, epoch=lambda: 4)
    later.load_state_dict({"epoch": 3, "batch": 10})
    assert len(drawn(later)) == 60


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    assert [len(batch[0]) for batch in Batches(rows(20), 1000, shuffle_seed=0)] == [20]


def test_a_batch_that_ranks_cannot_share_is_refused_with_the_nearest_sizes() -> None:
    with pytest.raises(ValueError, match=r"batch_size=10 .* 3 processes.* 9 and 12"):
        Batches(rows(60), 10, shuffle_seed=0, world_size=3)


def test_equal_keys_draw_equal_numbers() -> None:
    assert torch.equal(torch.rand(4, generator=generator(1, 2)), torch.rand(4, generator=generator(1, 2)))
    assert not torch.equal(torch.rand(4, generator=generator(1, 2)), torch.rand(4, generator=generator(2, 1)))
