"""Cleaning, splitting, filling and scaling, against scikit-learn and against what they promise."""

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from lab.data.prepare import Preprocessor, clean, stratified_split
from lab.data.tensors import generator

NAN, INF = float("nan"), float("inf")


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_table(rows: int, columns: int, gaps: float = 0.0) -> torch.Tensor:
    x = torch.randn(rows, columns, dtype=torch.float64, generator=generator(7)) * 3 + 1
    return x.masked_fill(torch.rand(rows, columns, generator=generator(8)) < gaps, NAN)


def test_gaps_are_marked_and_kept_or_their_rows_dropped() -> None:
    x, labels = table([1, 2], [INF, 3], [4, NAN], [-INF, NAN], [5, 6]), torch.tensor([0, 1, 0, 1, 1])
    kept, same, dropped = clean(x, labels, missing="mean")
    assert kept.isnan().tolist() == [[False, False], [True, False], [False, True], [True, True], [False, False]]
    assert torch.equal(same, labels)
    assert dropped == {"row without a target": 0, "duplicate": 0, "row without all features": 0}
    kept, left, dropped = clean(x, labels, missing="drop")
    assert kept.tolist() == [[1, 2], [5, 6]]
    assert left.tolist() == [0, 1]
    assert dropped["row without all features"] == 3
    assert x[1, 0] == INF, "what was handed in stays as it was"


@pytest.mark.parametrize("missing", ["drop", "mean", "median"])
def test_rows_without_a_target_always_go(missing: str) -> None:
    x = table([1], [2], [3], [4])
    assert clean(x, torch.tensor([0, -1, 1, 0]), missing)[0].squeeze(1).tolist() == [1, 3, 4]
    kept, values, dropped = clean(x, table([0.5], [NAN], [INF], [-7]), missing)
    assert kept.squeeze(1).tolist() == [1, 4]
    assert values.squeeze(1).tolist() == [0.5, -7]
    assert dropped["row without a target"] == 2


def test_the_first_of_equal_rows_is_kept_gaps_and_signs_of_zero_included() -> None:
    other_nan = torch.tensor([-NAN], dtype=torch.float64)
    x = table([1, NAN], [0, 2], [1, NAN], [-0.0, 2], [0, 2], [0, 2])
    x[2, 1] = other_nan
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    kept, left, dropped = clean(x, labels)
    assert left.tolist() == [0, 1, 0], "equal features with another target are another row"
    assert torch.equal(kept.nan_to_num(9), table([1, 9], [0, 2], [0, 2]))
    assert dropped["duplicate"] == 3
    assert len(clean(x, labels, duplicates="keep")[0]) == 6


def test_duplicates_agree_with_numpy() -> None:
    x = torch.randint(3, (500, 4), generator=generator(0)).double()
    y = torch.randint(2, (500,), generator=generator(1))
    kept, labels, dropped = clean(x, y)
    rows = {(*row, int(label)) for row, label in zip(x.tolist(), y.tolist(), strict=True)}
    assert len(kept) == len(rows) == 500 - dropped["duplicate"]
    assert {(*row, int(label)) for row, label in zip(kept.tolist(), labels.tolist(), strict=True)} == rows


def test_no_row_left_is_refused() -> None:
    with pytest.raises(ValueError, match="missing=drop: no row is left; missing=median"):
        clean(table([NAN], [INF]), torch.tensor([0, 1]), missing="drop")


def test_classes_keep_their_shares_like_those_of_scikit_learn() -> None:
    labels = torch.multinomial(torch.tensor([0.6, 0.3, 0.08, 0.02]), 1000, True, generator=generator(3))
    rows = stratified_split(labels, {"val": 150, "test": 0.2}, generator(0))
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(1000)), "each row once"
    assert {name: len(index) for name, index in rows.items()} == {"val": 150, "test": 200, "train": 650}
    theirs = train_test_split(labels.numpy(), test_size=200, stratify=labels.numpy(), random_state=0)[1]
    ours = labels[rows["test"]].bincount(minlength=4)
    assert (ours - torch.from_numpy(np.bincount(theirs, minlength=4))).abs().max() <= 1
    for index in rows.values():
        expected = labels.bincount() * len(index) / 1000
        assert (labels[index].bincount(minlength=4) - expected).abs().max() <= 1


def test_a_split_without_strata_would_not_pass_the_same_test() -> None:
    labels = torch.arange(1000) % 2
    halves = torch.randperm(1000, generator=generator(0))[:200]
    assert (labels[halves].bincount() - 100).abs().max() > 1


def test_a_class_of_one_row_is_trained_on() -> None:
    labels = torch.tensor([0] * 60 + [1] * 39 + [2])
    for seed in range(5):
        assert 99 in stratified_split(labels, {"val": 0.15, "test": 0.15}, generator(seed))["train"]


def test_splits_depend_on_the_seed_alone() -> None:
    labels = torch.arange(300) % 3
    first = stratified_split(labels, {"val": 50}, generator(1))
    torch.manual_seed(5)
    assert torch.equal(first["val"], stratified_split(labels, {"val": 50}, generator(1))["val"])
    assert not torch.equal(first["val"], stratified_split(labels, {"val": 50}, generator(2))["val"])


def test_values_are_split_at_random() -> None:
    rows = stratified_split(torch.arange(1000.0).unsqueeze(1), {"val": 0.1, "test": 0.1}, generator(0))
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(1000))
    assert abs(float(rows["val"].double().mean()) - 500) < 100  # three standard errors: 3 * 289 / sqrt(100)


@pytest.mark.parametrize("held_out", [{"val": 0.01}, {"val": 10}, {"val": 0.5, "test": 0.5}])
def test_an_empty_split_is_refused(held_out: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"10 rows with .* leave none for"):
        stratified_split(torch.zeros(10).long(), held_out, generator(0))


@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("rows", [40, 41])
def test_gaps_are_filled_like_those_of_scikit_learn(how: str, rows: int) -> None:
    x = random_table(rows, 6, gaps=0.3)
    theirs = SimpleImputer(strategy=how).fit(x.numpy())
    ours = Preprocessor.fit(x, how, standardize=False)
    torch.testing.assert_close(ours.fill, torch.from_numpy(theirs.statistics_))
    other = random_table(20, 6, gaps=0.3)
    torch.testing.assert_close(ours(other), torch.from_numpy(theirs.transform(other.numpy())))
    other[other.isnan()] = -INF
    assert ours(other).isfinite().all(), "what is infinite is missing"


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_column_without_values_is_filled_with_zero(how: str) -> None:
    assert Preprocessor.fit(table([NAN, 1], [NAN, 3]), how, standardize=False).fill.tolist() == [0, 2]


@pytest.mark.parametrize("missing", ["drop", "mean", "median"])
def test_scaling_is_that_of_scikit_learn(missing: str) -> None:
    x, other = random_table(50, 5), random_table(20, 5) + 2
    theirs = StandardScaler().fit(x.numpy())
    ours = Preprocessor.fit(x, missing, standardize=True)
    torch.testing.assert_close(ours(other), torch.from_numpy(theirs.transform(other.numpy())))
    torch.testing.assert_close(ours.inverse(ours(other)), other)


def test_constant_columns_become_zero() -> None:
    x = torch.full((1000, 2), 0.1, dtype=torch.float64)  # its computed mean is off, its deviation above zero
    x[:, 1] = 1e9
    ours = Preprocessor.fit(x, "drop", standardize=True)
    assert ours(x).abs().max() == 0
    assert ours(x + 1).abs().max() <= 1.01, "and rows that differ do not blow up"
