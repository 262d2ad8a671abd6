"""Texts become tokens, and tokens the texts again."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from make_tokens import main, make_tokens

from lab.data.token_file import UNKNOWN, map_tokens
from lab.engine.utils.errors import UserError

TEXT = "Once upon a time,\r\nthere  was a  größe…  — 日本語 a\ttoken.\n\n" * 3


@pytest.mark.parametrize("split", ["words", "characters"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 10_000])
def test_the_pieces_are_the_texts_whatever_is_read_at_a_time(split: str, chunk: int, tmp_path: Path) -> None:
    paths = [tmp_path / "1.txt", tmp_path / "2.txt"]
    for path, text in zip(paths, [TEXT, "the end"], strict=True):
        path.write_bytes(text.encode())
    vocabulary, number = make_tokens(paths, tmp_path / "t.npy", split, 1000, chunk)
    tokens = map_tokens(tmp_path / "t.npy")
    assert tokens.dtype == np.uint8
    assert len(tokens) == number
    assert "".join(vocabulary[token] for token in tokens) == TEXT + "the end"
    if split == "characters":
        assert number == len(TEXT + "the end")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.txt", "2.txt", "t.json", "t.npy"]


def test_the_most_frequent_pieces_have_a_token_and_others_share_one(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("aaaa bbb cc d\n")
    out = tmp_path / "t.npy"
    main([f"in={tmp_path}/t.txt", f"out={out}", "split=characters", "vocab_size=4"])
    meaning = json.loads(out.with_suffix(".json").read_text())
    assert meaning["vocab_size"] == 4
    assert meaning["vocabulary"][0] == UNKNOWN
    assert set(meaning["vocabulary"][1:3]) <= {piece for piece, _ in Counter("aaaa bbb cc d\n").most_common(3)}
    shown = "".join(meaning["vocabulary"][token] for token in map_tokens(out))
    assert shown == f"aaaa bbb {UNKNOWN * 2} {UNKNOWN * 2}"


def test_many_different_pieces_take_two_bytes(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(" ".join(f"w{i}" for i in range(400)))
    make_tokens([tmp_path / "t.txt"], tmp_path / "t.npy", "words", 1000)
    assert map_tokens(tmp_path / "t.npy").dtype == np.uint16


BAD = [
    ([], "in= takes a text"),
    (["in={}/t.tx"], r"in=.*t\.tx: no such file; did you mean t\.txt\?"),
    (["in={}/*.md"], "no text is there"),
    (["in={}/empty.txt"], "no text is there"),
    (["in={}/latin.txt"], r"latin\.txt is no text in UTF-8.*data=text"),
    (["in={}/t.txt", "split=word"], r"split=word; did you mean words\?"),
    (["in={}/t.txt", "vocab_size=1"], "vocab_size=1: expected"),
    (["in={}/t.txt", "out=t.bin"], r"out=t\.bin: expected a file \.npy"),
    (["in={}/t.txt", "vocabsize=9"], r"vocabsize: no such argument; did you mean vocab_size\?"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_mistakes_are_told_and_leave_nothing(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a text")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(UserError, match=said):
        main([f"out={tmp_path}/out.npy", *(word.format(tmp_path) for word in words)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "latin.txt", "t.txt"]
