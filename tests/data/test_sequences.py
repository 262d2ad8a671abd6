"""Made-up sequences, held against what they promise."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.data.adding import Adding
from lab.data.recall import Recall
from lab.data.tensors import IGNORED
from lab.data.text import SYMBOLS, Text

SIZES = {"num_samples": 500, "num_val": 100, "num_test": 50, "batch_size": 50}


def adding(**options: object) -> Adding:
    data = Adding(**(SIZES | options))  # type: ignore[arg-type]
    data.setup("fit")
    return data


def recall(**options: object) -> Recall:
    data = Recall(**(SIZES | options))  # type: ignore[arg-type]
    data.setup("fit")
    return data


def text(**options: object) -> Text:
    data = Text(**({"batch_size": 50, "num_tokens": 30_000} | options))  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_two_steps_are_marked_one_in_each_half_and_their_sum_is_the_target() -> None:
    x, lengths, y = next(iter(adding(length=11, num_samples=400).train_dataloader()))
    assert lengths.tolist() == [11] * len(x)
    for sequence, total in zip(x, y, strict=True):
        first, second = sequence[:, 1].nonzero().flatten().tolist()
        assert first < 5 <= second
        assert total.item() == pytest.approx(float(sequence[first, 0] + sequence[second, 0]))


def test_always_answering_one_has_the_known_error() -> None:
    *_, y = zip(*adding(num_samples=20_000, length=4).train_dataloader(), strict=True)
    assert float((torch.cat(y) - 1).square().mean()) == pytest.approx(1 / 6, abs=0.004)


def test_shorter_sequences_are_padded_with_zeros() -> None:
    x, lengths, _ = next(iter(adding(length=20, min_length=2).train_dataloader()))
    assert set(lengths.tolist()) <= set(range(2, 21))
    assert len(set(lengths.tolist())) > 5
    for sequence, length in zip(x, lengths, strict=True):
        assert not sequence[length:].any()
        assert sequence[:, 1].sum() == 2


def test_every_key_is_asked_for_once_and_answered_by_its_value() -> None:
    data = recall(num_pairs=5, num_keys=9)
    tokens, targets = next(iter(data.train_dataloader()))
    assert tokens.shape == targets.shape == (50, 20)
    for sequence, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        pairs = dict(zip(sequence[:10:2], sequence[1:10:2], strict=True))
        assert len(pairs) == 5
        assert sorted(sequence[10::2]) == sorted(pairs)
        assert all(0 <= key < 9 <= value < 18 for key, value in pairs.items())
        assert [i for i, answer in enumerate(answers) if answer != IGNORED] == list(range(10, 20, 2))
        assert all(answers[i] == sequence[i + 1] == pairs[sequence[i]] for i in range(10, 20, 2))


def test_the_transition_matrix_and_its_stationary_distribution() -> None:
    data = text(num_symbols=7)
    torch.testing.assert_close(data.transitions.sum(1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(data.stationary @ data.transitions, data.stationary)
    long_run = torch.linalg.matrix_power(data.transitions, 10_000)[0]
    torch.testing.assert_close(data.stationary, long_run)


def test_the_entropy_rate_is_what_the_source_itself_is_surprised_by() -> None:
    data = text(num_symbols=9, num_tokens=400_000)
    of = {symbol: i for i, symbol in enumerate(SYMBOLS[:9])}
    states = torch.tensor([of[int(byte)] for byte in data.tokens])
    surprise = -data.transitions[states[:-1], states[1:]].log()
    error = float(surprise.std()) / math.sqrt(len(surprise))
    assert float(surprise.mean()) == pytest.approx(data.entropy_rate, abs=5 * error)
    counts = np.bincount(states.numpy(), minlength=9) / len(states)
    np.testing.assert_allclose(counts, data.stationary.numpy(), atol=0.01)


def test_a_uniform_source_has_the_entropy_of_its_alphabet() -> None:
    assert text(num_symbols=8, concentration=1e6).entropy_rate == pytest.approx(math.log(8), abs=1e-4)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_targets_are_the_tokens_that_follow(split: str) -> None:
    data = text(context_length=16)
    tokens, targets = next(iter(getattr(data, f"{split}_dataloader")()))
    assert tokens.shape[1] == 16
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    whole = bytes(data.tokens.tolist())
    for row, following in zip(tokens[:5], targets[:5], strict=True):
        assert bytes([*row.tolist(), following[-1].item()]) in whole


def test_every_epoch_cuts_the_text_elsewhere() -> None:
    loader = text(context_length=100).train_dataloader()
    epochs = []
    for epoch in range(3):
        loader.epoch = lambda epoch=epoch: epoch
        epochs.append({tuple(row) for batch in loader for row in batch[0].tolist()})
    assert all(len(a & b) <= 2 for a, b in itertools.combinations(epochs, 2)), "but for windows at the text's end"
    assert all(len(epoch) == len(loader) * 50 for epoch in epochs)


def test_a_file_is_read_as_bytes_and_split_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(bytes(range(256)) * 10)
    data = text(path=str(path), context_length=8)
    parts = [
        torch.cat([tokens.flatten() for tokens, _ in loader])
        for loader in (data.val_dataloader(), data.test_dataloader())
    ]
    content = torch.tensor(list(path.read_bytes()))
    assert torch.equal(parts[0], content[2048 : 2048 + len(parts[0])])
    assert torch.equal(parts[1], content[2304 : 2304 + len(parts[1])])
    assert len(parts[0]) >= 256 - 8
    assert max(int(tokens.max()) for tokens, _ in data.train_dataloader()) == 255
    assert data.optimal_metrics == {}


def test_the_vocabulary_is_that_of_the_training_part_or_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(bytes(range(100)) * 8 + b"z" * 200)
    monkeypatch.setattr("lab.data.text.SAMPLE", 9)
    assert text(path=str(path), context_length=8, batch_size=5).vocabulary == list(range(100))
    monkeypatch.setattr("lab.data.text.MAX_SAMPLES", 2)
    assert text(path=str(path), context_length=8, batch_size=5).vocabulary == [*range(9), *range(91, 100)]


def test_a_text_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(
        ValueError, match=r"short\.txt: its train part has 7 tokens, and context_length=64 needs at least 128"
    ):
        text(path=str(path))


@pytest.mark.parametrize("make", [adding, recall, text])
def test_the_seed_decides(make: object) -> None:
    def first(seed: int) -> torch.Tensor:
        return next(iter(make(seed=seed).val_dataloader()))[0]  # type: ignore[operator]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: adding(length=5, min_length=6), "min_length=6"),
        (lambda: adding(num_val=500), "num_val=500"),
        (lambda: recall(num_pairs=9, num_keys=8), "num_pairs=9, num_keys=8"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
