"""The pictures hold what they should."""

import torch

from lab.models.tasks.plots import TopErrors, draw_confusion


def test_the_surest_mistakes_are_kept_over_batches() -> None:
    torch.manual_seed(0)
    mistakes = TopErrors(keep=5)
    images, logits, labels = torch.rand(90, 1, 8, 8), torch.randn(90, 10) * 3, torch.randint(10, (90,))
    for part in torch.arange(90).split(20):
        mistakes.update(images[part], logits[part], labels[part])
    confidence, predicted = logits.softmax(1).max(1)
    wrong = [(float(c), int(p), int(y)) for c, p, y in zip(confidence, predicted, labels, strict=True) if p != y]
    assert mistakes.found == sorted(wrong, reverse=True)[:5]
    assert mistakes.draw().shape[0] == 3


def test_right_answers_and_other_inputs_are_passed_over() -> None:
    mistakes = TopErrors()
    mistakes.update(torch.rand(3, 1, 8, 8), torch.eye(3), torch.arange(3))
    mistakes.update(torch.rand(3, 12), torch.eye(3), torch.tensor([1, 2, 0]))
    assert len(mistakes) == 0


def test_confusion_is_dark_where_the_counts_are() -> None:
    picture = draw_confusion(torch.tensor([[9, 1], [0, 10]]), cell=20)
    assert picture.shape == (3, 60, 60)
    brightness = picture[0].float().unfold(0, 20, 20).unfold(1, 20, 20).mean((2, 3))  # (3, 3) cells
    assert brightness[1, 1] < brightness[1, 2] < brightness[2, 1]
