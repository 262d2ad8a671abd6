"""Any map-style dataset: seeded order and augmentation, whatever the workers and ranks; it resumes at a batch."""

import multiprocessing
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from lab.data import loaders
from lab.data.draws import Draws
from lab.data.loaders import Loader, LoaderDataModule
from lab.data.tensors import generator
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.random_state import random_state

AUGMENT = v2.Compose([v2.ToImage(), v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)])


class Noise(Dataset[dict[str, Any]]):
    """Draws from each of the three generators for every sample."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.rand(2), "y": np.random.rand(), "z": random.random()}


class Images(LoaderDataModule):
    """torchvision's generated images, augmented by torchvision."""

    def load(self) -> dict[str, Dataset[Any]]:
        train, val = (datasets.FakeData(n, (3, 8, 8), 10, t) for n, t in ((50, AUGMENT), (17, v2.ToImage())))
        return {"train": train, "val": val}


def loader(data: LoaderDataModule, epoch: int = 0, rank: int = 0, world_size: int = 1) -> Loader:
    """The loader of training in some epoch, on some rank."""
    data.setup("fit")
    found = data.train_dataloader()
    assert isinstance(found, Loader)
    found.order.epoch = lambda: epoch
    found.order.rank, found.order.world_size = rank, world_size
    return found


def images(**options: Any) -> Images:
    return Images(**{"batch_size": 8, "shuffle_seed": 3, "with_index": True} | options)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_order_and_augmentation_depend_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(5)
    first = list(loader(images()))
    torch.manual_seed(6)
    assert equal(list(loader(images())), first)
    assert not equal(list(loader(images(), epoch=1)), first)
    assert not equal(list(loader(images(shuffle_seed=4))), first)


def test_a_sample_is_the_same_in_every_batch_of_its_epoch() -> None:
    def by_index(data: LoaderDataModule) -> dict[int, Tensor]:
        return {int(i): x for xs, _, indices in loader(data) for x, i in zip(xs, indices, strict=True)}

    eights, fives = by_index(images(batch_size=8)), by_index(images(batch_size=5))
    common = eights.keys() & fives.keys()
    assert len(common) == 48, "two are left over"
    assert all(torch.equal(eights[i], fives[i]) for i in common)


@pytest.mark.slow
def test_workers_make_the_same_batches_however_they_are_started(start_method: str) -> None:
    expected = [list(loader(images(), epoch)) for epoch in range(2)]
    found = loader(images(num_workers=2))
    assert equal(list(found), expected[0])
    found.order.epoch = lambda: 1
    assert equal(list(islice(found, 2)), expected[1][:2]), "the same workers, left amid an epoch"
    assert equal(list(found), expected[1])


def test_two_workers_make_the_same_batches() -> None:
    assert equal(list(loader(images(num_workers=2))), list(loader(images())))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_generators_are_left_as_they_were(num_workers: int) -> None:
    data = LoaderDataModule(Noise(), batch_size=4, num_workers=num_workers)
    before = random_state()
    batches = list(loader(data))
    after = random_state()
    assert len(batches) == 5
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["python"] == after["python"]


def test_noise_of_torch_numpy_and_python_is_keyed() -> None:
    first, second = (next(iter(loader(LoaderDataModule(Noise(), batch_size=20)))) for _ in range(2))
    for name, values in first.items():
        assert torch.equal(values, second[name])
        assert len(values.unique()) == values.numel(), f"{name} of every sample is another one"


def test_ranks_share_every_batch() -> None:
    whole = list(loader(images()))
    shares = [list(loader(images(), rank=rank, world_size=2)) for rank in range(2)]
    joined = [tuple(torch.cat(parts) for parts in zip(*both, strict=True)) for both in zip(*shares, strict=True)]
    assert equal(joined, whole)


def test_evaluation_takes_every_sample_once_in_order() -> None:
    data = images(eval_batch_size=5)
    data.setup("fit")
    rows = [int(i) for _, _, indices in data.val_dataloader() for i in indices]
    assert rows == list(range(17))
    assert data.test_dataloader() == [], "no such split"


def test_it_resumes_at_a_batch() -> None:
    whole, cut = list(loader(images(), epoch=2)), loader(images(num_workers=2), epoch=2)
    begun = list(islice(cut, 3))
    later = loader(images(), epoch=2)
    later.load_state_dict(cut.state_dict())
    assert cut.state_dict() == {"epoch": 2, "batch": 3}
    assert equal([*begun, *later], whole)
    assert equal(list(later), whole), "the next pass is a whole one"


@pytest.mark.parametrize(("sample", "batch"), [("dict", {"x", "index"}), ("tuple", 2), ("tensor", 2)])
def test_the_index_is_in_the_batch_on_demand(sample: str, batch: Any) -> None:
    rows: Any = {
        "dict": [{"x": torch.zeros(1)}] * 3, "tuple": [(torch.zeros(1),)] * 3, "tensor": [torch.zeros(1)] * 3,
    }[sample]  # fmt: skip
    [found] = loader(LoaderDataModule(rows, batch_size=3, with_index=True))
    assert (set(found) if isinstance(found, dict) else len(found)) == batch
    assert sorted((found["index"] if isinstance(found, dict) else found[-1]).tolist()) == [0, 1, 2]


def test_a_collate_function_of_ones_own() -> None:
    data = LoaderDataModule([[1], [2, 3], [4]], batch_size=3, collate_fn=lambda samples: {"lists": samples})
    [found] = loader(data)
    assert sorted(found["lists"]) == [[1], [2, 3], [4]]


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    class Trainer:
        global_rank, world_size, overfit_batches = 0, 3, 0

    data = images()
    data.trainer = Trainer()  # type: ignore[assignment]
    data.setup("fit")
    with pytest.raises(UserError, match=r"batch_size=8 .* 3 processes"):
        data.train_dataloader()


def test_overfitting_sees_the_same_batches_again() -> None:
    class Seen(BoringModel):
        indices: list[list[int]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
            self.indices.append(batch[-1].tolist())
            return self.layer.weight.sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            """Overfitting limits validation too, and leaves none out."""

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, overfit_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Seen(), datamodule=images())
    assert Seen.indices[:2] == Seen.indices[2:]
    assert Seen.indices[0] != Seen.indices[1]


# --- samples that are kept ------------------------------------------------------------------------------------------


class Counted(Dataset[Any]):
    """Tensors and numbers, alike each time; counts how often it is asked in this process."""

    def __init__(self, number: int = 50) -> None:
        self.x = torch.rand(number, 3, generator=generator(0))
        self.asked = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        self.asked += 1
        return self.x[i], i


class Jittered(LoaderDataModule):
    """Augments whole batches."""

    def train_transform(self, batch: Any, draws: Draws) -> Any:
        x, i = batch
        return x + draws.normal(*x.shape[1:]), i


def epochs(found: Loader, number: int = 4) -> list[Any]:
    batches = []
    for epoch in range(number):
        found.order.epoch = lambda epoch=epoch: epoch
        batches += list(found)
    return batches


def jittered(dataset: Any = None, **options: Any) -> Jittered:
    return Jittered(dataset or Counted(), **{"batch_size": 8, "shuffle_seed": 3} | options)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [list, tuple, dict, Tensor], ids=lambda kind: kind.__name__)
def test_batches_are_the_same_whether_samples_are_kept_or_not(kind: Any, num_workers: int) -> None:
    class Kind(Counted):
        def __getitem__(self, i: int) -> Any:
            x, i = super().__getitem__(i)
            return x if kind is Tensor else {"x": x, "i": i} if kind is dict else kind((x, i))

    dataset = Kind()
    expected = epochs(loader(LoaderDataModule(Kind(), batch_size=8, resident=False)))
    found = epochs(loader(LoaderDataModule(dataset, batch_size=8, resident=True, num_workers=num_workers)))
    assert [type(batch) for batch in found] == [type(batch) for batch in expected]
    for one, other in zip(found, expected, strict=True):
        parts, others = ([b] if kind is Tensor else b.values() if kind is dict else b for b in (one, other))
        assert all(torch.equal(a, b) for a, b in zip(parts, others, strict=True))
    if num_workers == 0:
        assert dataset.asked == 50, "each sample once; those left over in the first epoch in a later one"


def test_augmentation_of_batches_comes_after_what_is_kept() -> None:
    expected = epochs(loader(jittered(resident=False)))
    assert equal(epochs(loader(jittered(resident=True))), expected)
    assert equal(epochs(loader(jittered(resident=True, num_workers=2))), expected)
    assert not equal(expected[:6], expected[6:12])


@pytest.mark.parametrize("at", [(0, 2), (1, 3), (2, 0)])
def test_it_resumes_at_a_batch_with_nothing_kept_yet(at: tuple[int, int]) -> None:
    epoch, batch = at
    whole = epochs(loader(jittered()))
    later = loader(jittered(), epoch=epoch)
    later.load_state_dict({"epoch": epoch, "batch": batch})
    assert equal(list(later), whole[6 * epoch + batch : 6 * epoch + 6])
    later.order.epoch = lambda: epoch + 1
    assert equal(list(later), whole[6 * epoch + 6 : 6 * epoch + 12])


def test_each_rank_keeps_what_it_has_seen() -> None:
    for rank in range(2):
        shares = [jittered(Counted(), resident=resident) for resident in (True, False)]
        found, expected = (epochs(loader(data, rank=rank, world_size=2)) for data in shares)
        assert equal(found, expected)
        dataset: Any = shares[0].given["train"]
        assert 24 < dataset.asked <= 50


def test_samples_of_validation_are_read_once_and_those_of_a_test_each_time() -> None:
    val, test = Counted(20), Counted(20)
    data = LoaderDataModule(val=val, test=test, eval_batch_size=6)
    data.setup("fit")
    for _ in range(3):
        assert torch.equal(torch.cat([x for x, _ in data.val_dataloader()]), val.x)
        assert torch.equal(torch.cat([x for x, _ in data.test_dataloader()]), test.x)
    assert (val.asked, test.asked) == (20, 60)


class Late(Counted):
    """Draws for its last samples alone."""

    def __getitem__(self, i: int) -> Any:
        x, i = super().__getitem__(i)
        return (x + random.random() if i > 45 else x), i


class Ragged(Counted):
    """Has samples of two shapes."""

    def __getitem__(self, i: int) -> Any:
        x, i = super().__getitem__(i)
        return x[: 2 + (i > 5)], i


class Named(Counted):
    def __getitem__(self, i: int) -> Any:
        x, i = super().__getitem__(i)
        return x, f"sample {i}"


UNFIT = [(Late, 8, "random numbers"), (Ragged, 1, "different shapes"), (Named, 8, "not tensors")]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "batch_size", "why"), UNFIT)
def test_what_cannot_be_kept_is_made_each_time(kind: Any, batch_size: int, why: str, num_workers: int) -> None:
    options: Any = {"batch_size": batch_size, "num_workers": num_workers, "shuffle_seed": 4}
    expected, data = LoaderDataModule(kind(), resident=False, **options), LoaderDataModule(kind(), **options)
    for one, other in zip(epochs(loader(data), 2), epochs(loader(expected), 2), strict=True):
        assert torch.equal(one[0], other[0])
        assert list(one[1]) == list(other[1])
    assert not data.kept["train"].is_known.any()
    with pytest.raises(UserError, match=f"data.resident=true.*{why}"):
        epochs(loader(LoaderDataModule(kind(), resident=True, **options)))


def test_samples_are_kept_where_they_take_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    need = (50 + 20) * (3 * 4 + 8)  # bytes, of training and validation
    for memory, is_kept in ((4 * need, True), (4 * need - 1000, False)):
        monkeypatch.setattr(loaders, "memory_limit", lambda memory=memory: memory)
        data = LoaderDataModule(Counted(), Counted(20), Counted(5000), batch_size=10)
        epochs(loader(data), 1)
        assert bool(data.kept["train"].is_known.all()) is is_kept


def test_a_collate_function_of_ones_own_keeps_nothing() -> None:
    def collate(samples: Any) -> Any:
        return torch.stack([x for x, _ in samples])

    data = LoaderDataModule(Counted(), batch_size=10, collate_fn=collate)
    epochs(loader(data), 1)
    assert not data.kept["train"].is_known.any()
    with pytest.raises(UserError, match="collate_fn"):
        loader(LoaderDataModule(Counted(), collate_fn=collate, resident=True))


class Broken(Counted):
    def __getitem__(self, i: int) -> Any:
        raise RunFailed("one line")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_says_what_is_wrong_with_the_data_as_this_process_does(num_workers: int) -> None:
    with pytest.raises(RunFailed) as told:
        list(loader(LoaderDataModule(Broken(), num_workers=num_workers)))
    assert str(told.value) == "one line"
