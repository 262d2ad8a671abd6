"""Token files: read from where they lie, in windows, and those of another vocabulary refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.data.tensors import Batches
from lab.data.token_file import map_tokens, read_meaning, vocab_size
from lab.data.tokens import Tokens
from lab.engine.config.validate import validate
from lab.engine.runs.run import Run
from lab.engine.training.train import train
from lab.engine.utils.errors import UserError
from tests.conftest import Compose, run_script


def write(path: Path, tokens: Any, vocab_size: int = 1000, dtype: str = "uint16", **meaning: Any) -> str:
    np.save(path, np.asarray(tokens, dtype=dtype))
    path.with_suffix(".json").write_text(json.dumps({"vocab_size": vocab_size, **meaning}))
    return str(path)


@pytest.fixture
def counted(tmp_path: Path) -> str:
    """The numbers from 0 to 999, in their order."""
    return write(tmp_path / "counted.npy", range(1000))


def tokens(path: str, **options: Any) -> Tokens:
    data = Tokens(path, **({"context_length": 10, "batch_size": 7} | options))
    data.setup("fit")
    return data


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_windows_are_of_the_file_and_targets_follow(dtype: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.npy", np.arange(2000) % 251, dtype=dtype, vocab_size=251)
    data = tokens(path)
    for split, (start, end) in {"train": (0, 1600), "val": (1600, 1800), "test": (1800, 2000)}.items():
        x, y = next(iter(getattr(data, f"{split}_dataloader")()))
        assert x.dtype == y.dtype == torch.long
        assert x.shape[1] == 10
        assert torch.equal((x + 1) % 251, y)
        assert {*x.flatten().tolist()} <= {i % 251 for i in range(start, end)}


def test_evaluation_reads_every_token_in_order(counted: str) -> None:
    x = torch.cat([x for x, _ in tokens(counted).test_dataloader()])
    assert torch.equal(x.flatten(), torch.arange(900, 990))


def test_an_epoch_reads_every_training_token_once_but_for_its_ends(counted: str) -> None:
    loader = tokens(counted, batch_size=1).train_dataloader()
    for epoch in range(3):
        loader.epoch = lambda epoch=epoch: epoch
        seen = torch.cat([x for x, _ in loader]).flatten().tolist()
        assert len(seen) == len(set(seen)) == 790
        assert set(seen) == set(range(min(seen), min(seen) + 790)) <= set(range(800))


def test_the_tokens_stay_in_the_file(counted: str) -> None:
    data = tokens(counted)
    mapped = np.load(counted, mmap_mode="r+")
    mapped[900] = 77
    mapped.flush()
    assert int(data.tokens[900]) == 77
    assert data.splits["train"][0].untyped_storage().data_ptr() == data.tokens.untyped_storage().data_ptr()


def test_batches_do_not_depend_on_the_number_of_ranks(counted: str) -> None:
    data = tokens(counted, batch_size=6)
    windows, options = data.splits["train"], {"shuffle_seed": 3, "transform": data.train_transform}
    whole = list(Batches(windows, 6, **options))
    shares = [list(Batches(windows, 6, rank=rank, world_size=2, **options)) for rank in range(2)]
    for (x, _), *parts in zip(whole, *shares, strict=True):
        assert torch.equal(x, torch.cat([part[0] for part in parts]))


def test_the_order_of_many_rows_takes_four_bytes_each() -> None:
    loader = Batches((torch.zeros(1).expand(1_000_000),), 1000, shuffle_seed=5)
    assert next(iter(loader))[0].shape == (1000,)
    small = torch.randperm(999, generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    assert torch.equal(small, torch.randperm(999, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(("free", "stays"), [(10**9, False), (1000, True)])
def test_what_a_gpu_has_no_room_for_stays_on_the_cpu(
    free: int, stays: bool, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def to(self: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(device.type)
        return self

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.Tensor, "to", to)
    data = Tokens(counted, context_length=10)
    data.trainer = type("Trainer", (), {"strategy": type("Strategy", (), {"root_device": torch.device("cuda")})})()
    data.setup("fit")
    assert set(moved) == {"cpu" if stays else "cuda"}


BAD = {
    "a token beyond": (lambda p: write(p, [1, 5000, 2], 1000), r"holds the token 5000, .* vocab_size=1000"),
    "no vocabulary": (lambda p: np.save(p, np.zeros(9, "uint8")), r"t\.json: no such file; .*\"vocab_size\": 50257"),
    "signed": (lambda p: write(p, [1, 2], dtype="int64"), r"holds int64 of shape \(2,\)"),
    "a matrix": (lambda p: write(p, np.zeros((4, 3))), r"holds uint16 of shape \(4, 3\)"),
    "other numbers": (lambda p: write(p, [1, 2], num_tokens=3), r"has 2 tokens, and t\.json beside it was made for 3"),
    "no size": (lambda p: write(p, [1, 2], "many"), r"t\.json does not say how many"),
    "half a meaning": (lambda p: write(p, [1], 2, split="words", vocabulary=["a"]), r"t\.json does not say"),
    "a text": (lambda p: (write(p, [1]), p.write_text("once upon a time")), r"t\.npy cannot be read as \.npy"),
    "too short": (lambda p: write(p, range(90)), r"its train part has 72 tokens, .* needs at least 128"),
    "none": (lambda p: write(p, []), r"its train part has 0 tokens"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_with_a_file_is_told(bad: str, tmp_path: Path) -> None:
    make, said = BAD[bad]
    make(tmp_path / "t.npy")
    with pytest.raises(UserError, match=said):
        Tokens(str(tmp_path / "t.npy")).setup("fit")


def test_what_is_no_token_file_is_refused_before_torch(cfg: Compose, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("once")
    for path, said in [("book.txt", "data=text reads the text"), ("bok.txt", r"did you mean book\.txt\?")]:
        with pytest.raises(UserError, match=said):
            vocab_size(tmp_path / path)
    probe = tmp_path / "probe.py"
    probe.write_text("import sys\nimport lab.data.token_file\nassert 'torch' not in sys.modules\n")
    assert run_script(str(probe)).returncode == 0
    path = write(tmp_path / "t.npy", range(1000), vocab_size=4321)
    composed = cfg("data=tokens", f"data.path={path}", "model=gpt")
    validate(composed)
    assert composed.model.vocab_size == 4321


WORDS = ["\ufffd", " a", "b", "\n"]


def test_tokens_with_a_vocabulary_are_text_and_others_are_not(counted: str, tmp_path: Path) -> None:
    data = tokens(write(tmp_path / "w.npy", np.arange(400) % 4, 4, split="words", vocabulary=WORDS))
    assert data.encode("b a ax\n").tolist() == [2, 1, 0, 3]
    assert data.decode(torch.tensor([2, 1, 1, 3])) == "b a a\n"
    assert not hasattr(tokens(counted), "encode")
    assert not hasattr(tokens(counted), "decode")


def test_a_file_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    numbers, meaning = np.arange(400) % 4, {"split": "words", "vocabulary": WORDS}
    preparation = tokens(write(tmp_path / "w.npy", numbers, 4, **meaning)).preparation
    others = {
        r"vocab_size 5, and the run's 4": write(tmp_path / "a.npy", numbers, 5),
        r"split 'characters', and the run's 'words'": write(
            tmp_path / "b.npy", numbers, 4, split="characters", vocabulary=WORDS
        ),
        r"vocabulary ' the', and the run's ' a'": write(
            tmp_path / "c.npy", numbers, 4, split="words", vocabulary=["\ufffd", " the", *WORDS[2:]]
        ),
    }
    for said, path in others.items():
        data = Tokens(path, context_length=10)
        data.restore(preparation)
        with pytest.raises(UserError, match=said):
            data.setup("test")
        later = tokens(path)
        with pytest.raises(UserError, match=said):
            later.load_state_dict({"preparation": preparation})


def test_a_run_trains_evaluates_and_is_not_resumed_on_another_file(cfg: Compose, tmp_path: Path) -> None:
    meaning = {"split": "words", "vocabulary": WORDS}
    path = Path(write(tmp_path / "w.npy", np.arange(4000) % 4, 4, **meaning))
    small = ["model.embed_dim=8", "model.num_layers=1", "model.num_heads=2", "trainer.max_epochs=1", "logger=none"]
    train(cfg("data=tokens", f"data.path={path}", "data.context_length=8", "model=gpt", *small))
    run = Run(tmp_path / "run")
    assert run.status == "completed"
    assert run.preparation()["vocabulary"] == WORDS
    checkpoint = run.read_checkpoint()["Tokens"]
    write(path, (np.arange(4000) + 1) % 4, 4, **meaning)
    data = tokens(str(path), context_length=8)
    with pytest.raises(UserError, match=f"{path} is not the file that this run was trained on"):
        data.load_state_dict(checkpoint)
    path.unlink()
    model: Any = run.model()
    assert len(model.complete("b a", run.datamodule(), 3)) > 3


def test_meaning_and_tokens_agree(counted: str) -> None:
    assert read_meaning(Path(counted)) == {"vocab_size": 1000}
    mapped = map_tokens(Path(counted))
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
