"""CSV files as strangers bring them: each gives the table written down here, or is refused by what is wrong."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.data.csv import CSV
from lab.data.table_schema import (
    MISSING,
    doubtful_columns,
    encode_features,
    encode_target,
    feature_names,
    infer_schema,
    read_csv,
)
from lab.engine.utils.errors import UserError

NAN = float("nan")
ROWS = b"a,y\n1,u\n2,v\n3,u\n4,v\n"
A, Y = [[1], [2], [3], [4]], "uvuv"

# Name, bytes, options, names of the features, features, targets: names of classes or values
READ: list[tuple[str, bytes, dict[str, Any], list[str], Any, Any]] = [
    ("plain", ROWS, {}, ["a"], A, Y),
    ("no newline at the end", ROWS.rstrip(), {}, ["a"], A, Y),
    ("windows lines", ROWS.replace(b"\n", b"\r\n"), {}, ["a"], A, Y),
    ("byte order mark", b"\xef\xbb\xbf" + ROWS, {}, ["a"], A, Y),
    ("blank first lines", b"\n\n" + ROWS, {}, ["a"], A, Y),
    ("semicolons", ROWS.replace(b",", b";"), {}, ["a"], A, Y),
    ("tabs", ROWS.replace(b",", b"\t"), {}, ["a"], A, Y),
    ("blanks around", b" a , y \n 1 , u \n2,v\n3 ,u\n 4,v\n", {}, ["a"], A, Y),
    ("quotes", b'"a","y"\n"1","u"\n"2","v"\n"3","u"\n"4","v"\n', {}, ["a"], A, Y),
    ("a separator in quoted names", b'"height, cm";"weight, kg";y\n1;5;u\n2;6;v\n3;7;u\n4;8;v\n', {},
     ["height, cm", "weight, kg"], [[1, 5], [2, 6], [3, 7], [4, 8]], Y),
    ("a newline in a cell", b'a,k,y\n1,"p\nq",u\n2,r,v\n3,r,u\n4,r,v\n', {}, ["a", "k=p\nq", "k=r"],
     [[1, 1, 0], [2, 0, 1], [3, 0, 1], [4, 0, 1]], Y),
    ("quotes in a cell", b'k,y\n"say ""x""",u\nr,v\nr,u\nr,v\n', {}, ["k=r", 'k=say "x"'],
     [[0, 1], [1, 0], [1, 0], [1, 0]], Y),
    ("a column without a name", b",a,y\n0,1,u\n1,2,v\n2,3,u\n3,4,v\n", {}, ["", "a"],
     [[0, 1], [1, 2], [2, 3], [3, 4]], Y),
    ("an empty column", b"a,e,y\n1,,u\n2,,v\n3,,u\n4,,v\n", {}, ["a"], A, Y),
    ("a short row", b"y,a,b\nu,1,5\nv,2\nu,3,7\nv,4,8\n", {}, ["a", "b"], [[1, 5], [2, NAN], [3, 7], [4, 8]], Y),
    ("exponents and signs", b"a,y\n1e3,u\n-2.5E-1,v\n+3,u\n.5,v\n", {}, ["a"], [[1000], [-0.25], [3], [0.5]], Y),
    ("infinity", b"a,y\n1,u\ninf,v\n3,u\n-inf,v\n", {}, ["a"], [[1], [np.inf], [3], [-np.inf]], Y),
    ("booleans", b"a,y\ntrue,u\nFalse,v\nTRUE,u\nfalse,v\n", {}, ["a"], [[1], [0], [1], [0]], Y),
    ("words", b"a,y\nq,u\np,v\nq,u\np,v\n", {}, ["a=p", "a=q"], [[0, 1], [1, 0], [0, 1], [1, 0]], Y),
    ("capitals tell words apart", b"a,y\nq,u\nQ,v\nq,u\nQ,v\n", {}, ["a=Q", "a=q"],
     [[0, 1], [1, 0], [0, 1], [1, 0]], Y),
    ("letters beyond ASCII", "größe,y\né,u\nè,v\né,u\nè,v\n".encode(), {}, ["größe=è", "größe=é"],
     [[0, 1], [1, 0], [0, 1], [1, 0]], Y),
    ("Chinese", "尺寸,y\n1,u\n2,v\n3,u\n4,v\n".encode(), {}, ["尺寸"], A, Y),
    ("leading zeros", b"a,y\n007,u\n008,v\n009,u\n010,v\n", {}, ["a"], [[7], [8], [9], [10]], Y),
    ("whole floats are classes", b"a,y\n1,0.0\n2,1.0\n3,2.0\n4,0.0\n5,1.0\n6,2.0\n", {}, ["a"],
     [[1], [2], [3], [4], [5], [6]], "012012"),
    ("whole floats with a gap", b"a,y\n1,0.0\n2,\n3,1.0\n4,0.0\n5,1.0\n", {}, ["a"], [[1], [2], [3], [4], [5]],
     ["0", None, "1", "0", "1"]),
    ("whole floats as values", b"a,y\n1,0.0\n2,1.0\n3,2.0\n", {"task": "regression"}, ["a"], [[1], [2], [3]],
     [0.0, 1.0, 2.0]),
    ("fractions are values", b"a,y\n1,0.5\n2,1.5\n3,2.5\n", {}, ["a"], [[1], [2], [3]], [0.5, 1.5, 2.5]),
    ("classes of booleans", b"a,y\n1,true\n2,false\n3,True\n4,false\n", {}, ["a"], A, ["True", "False"] * 2),
    ("a gap in the target", b"a,y\n1,u\n2,NA\n3,u\n4,v\n5,v\n", {}, ["a"], [[1], [2], [3], [4], [5]],
     ["u", None, "u", "v", "v"]),
    ("decimal commas", b'a;y\n"1,5";u\n"2,25";v\n3;u\n-4,0;v\n', {"decimal": "comma"}, ["a"],
     [[1.5], [2.25], [3], [-4]], Y),
    ("thousands with points", b"a;y\n1.234,5;u\n1.000.000;v\n3;u\n4;v\n", {"decimal": "comma"}, ["a"],
     [[1234.5], [1e6], [3], [4]], Y),
    ("thousands with commas", b'a,y\n"1,234.5",u\n"1,000,000",v\n3,u\n4,v\n', {"decimal": "point"}, ["a"],
     [[1234.5], [1e6], [3], [4]], Y),
    ("percent", b"a,y\n12%,u\n3.5 %,v\n3%,u\n4%,v\n", {"decimal": "point"}, ["a"], [[12], [3.5], [3], [4]], Y),
    ("percent in the target", b"a,y\n1,12.5%\n2,3%\n3,4%\n", {"decimal": "point"}, ["a"], [[1], [2], [3]],
     [12.5, 3, 4]),
    ("words beside decimal commas", b"a;k;y\n1,5;p;u\n2,5;q;v\n1,5;p;u\n2,5;q;v\n", {"decimal": "comma"},
     ["a", "k=p", "k=q"], [[1.5, 1, 0], [2.5, 0, 1]] * 2, Y),
    ("a name with an equals sign", b"a=b,y\n1,u\n2,v\n3,u\n4,v\n", {}, ["a=b"], A, Y),
    ("a name that is a number", b"1e3,y\n1,u\n2,v\n3,u\n4,v\n", {}, ["1e3"], A, Y),
    *[(f"{word} is missing", f"a,b,y\n1,1,u\n2,{word},v\n3,3,u\n4,4,v\n".encode(), {}, ["a", "b"],
       [[1, 1], [2, NAN], [3, 3], [4, 4]], Y) for word in MISSING],
]  # fmt: skip


def table(path: Path, target: str = "y", task: Any = "auto", **options: Any) -> tuple[list[str], Any, list[Any]]:
    """Reads a file as a run does, up to the split: names of the features, features, names of classes or values."""
    strings = read_csv(path, **options)
    schema, classes = infer_schema(strings, target, task, (), path.name)
    targets = encode_target(strings, target, classes, path.name).tolist()
    if classes is not None:
        targets = [None if label < 0 else classes[label] for label in targets]
    return feature_names(schema), encode_features(strings, schema, path.name), targets


@pytest.mark.parametrize(("content", "options", "names", "features", "targets"), [r[1:] for r in READ],
                         ids=[r[0] for r in READ])  # fmt: skip
def test_a_file_gives_its_table(
    content: bytes, options: dict[str, Any], names: list[str], features: Any, targets: Any, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    found = table(path, **options)
    assert found[0] == names
    np.testing.assert_array_equal(found[1], np.array(features, dtype=float))
    assert found[2] == list(targets)


# Name, bytes, what the message names
REFUSED: list[tuple[str, bytes, list[str]]] = [
    ("the target twice", b"a,y,y\n1,0,0\n2,1,1\n", ["'y'", "twice"]),
    ("a column twice", b"a,b,a,y\n1,2,3,u\n1,2,3,v\n", ["'a'", "twice"]),
    ("twice but for blanks", b"a, a,y\n1,2,u\n3,4,v\n", ["'a'", "twice"]),
    ("twice but for quotes", b'"a",a,y\n1,2,u\n3,4,v\n', ["'a'", "twice"]),
    ("Latin letters", b"a,y\np\xe9,u\np\xe8,v\n", ["line 2", "UTF-8", "latin1"]),
    ("Latin letters in the header", b"gr\xf6\xdfe,y\n1,u\n2,v\n", ["line 1", "UTF-8"]),
    ("UTF-16", "a,y\n1,u\n2,v\n".encode("utf-16"), ["UTF-8", "utf-16"]),
    ("old Mac lines", b"a,y\r1,u\r2,v\r", ["carriage returns"]),
    ("empty", b"", ["empty"]),
    ("blank lines alone", b"\n \n\n", ["empty"]),
    ("no rows", b"a,y\n", ["no rows"]),
    ("a long row", b"a,y\n1,u\n2,v,9\n", ["more fields"]),
    ("a quote that does not end", b'a,y\n"1,u\n2,v\n', ["cannot be read"]),
    ("one class", b"a,y\n1,u\n2,u\n", ["'u'", "every row"]),
    ("no feature", b"y\nu\nv\nu\nv\n", ["no column to learn from"]),
    ("no value in the target", b"a,y\n1,NA\n2,NA\n", ["data.target=y"]),
]


@pytest.mark.parametrize(("content", "named"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_file_is_refused_by_what_is_wrong(content: bytes, named: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        table(path)
    assert all(part in str(raised.value) for part in ["table.csv", *named])


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="regular file"):
            read_csv(path)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ([*map(str, range(30)), "broken"], "'broken'"),
        (["1,5", "2,5", "3,25"], "data.decimal=comma"),
        (["12%", "13%", "14%"], "data.decimal=point or data.decimal=comma"),
        (["1 234,5", "2", "3"], "data.decimal=comma"),
        (["p", "q", "r"], None),
        (["e5", "e6", "e7"], None),
        (["2020-01-01", "2020-01-02"], None),
    ],
)
def test_words_that_were_meant_as_numbers_are_named(cells: list[str], named: str | None, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a;y\n" + "".join(f"{cell};{'uv'[i % 2]}\n" for i, cell in enumerate(cells)))
    strings = read_csv(path)
    schema, _ = infer_schema(strings, "y", "classification", (), path.name) if len(cells) > 3 else ({"a": cells}, None)
    doubts = list(doubtful_columns(strings, schema))
    assert [*doubts] == [] if named is None else "column a" in doubts[0] and named in doubts[0]


def test_the_log_says_what_became_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "table.csv").write_text("a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(40)) + "x7,u\n")
    with caplog.at_level(logging.WARNING):
        CSV(str(tmp_path / "table.csv"), "y").setup("fit")
    assert re.search("column a .*'x7'", caplog.text)


def test_too_many_words_name_the_odd_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(90)) + "x7,u\n")
    with pytest.raises(UserError, match="'x7'"):
        table(path)
