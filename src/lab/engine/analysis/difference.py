"""In what two runs differ: their configs, their code, and what they measured."""

import math
from typing import Any

from lab.engine.analysis.columns import comparable, text
from lab.engine.analysis.recorded import Recorded
from lab.engine.config.identity import ABSENT, differences
from lab.engine.runs.reproduce import changed_files

Lines = list[tuple[str, str, str]]  # what, of the first run, of the second


def configs(first: Recorded, second: Recorded) -> Lines:
    """Keys at which the saved configs differ, the seed among them; not where things are written."""
    configs = [{"seed": run.seed} | comparable(run.config) for run in (first, second)]
    return [(key, _written(a), _written(b)) for key, b, a in differences(configs[1], configs[0])]


def code(first: Recorded, second: Recorded) -> Lines:
    """Commits, files that were changed since, versions of packages, machines."""
    records = [run.record for run in (first, second)]
    gits = [record.get("git") or {} for record in records]
    found: list[tuple[str, Any, Any]] = [
        ("commit", str(gits[0].get("commit"))[:12], str(gits[1].get("commit"))[:12]),
        ("branch", gits[0].get("branch"), gits[1].get("branch")),
    ]
    patches = [_patch(run) for run in (first, second)]
    changed = changed_files(*patches)
    for name in changed:
        a, b = ("changed" if name in changed_files(patch, "") else "as committed" for patch in patches)
        found.append((name, a, b if a != b else "changed in another way"))
    versions = [record.get("versions") or {} for record in records]
    found += [(name, versions[0].get(name), versions[1].get(name)) for name in versions[0] | versions[1]]
    found += [(name, records[0].get(name), records[1].get(name)) for name in ("devices", "threads", "hostname")]
    return [(name, _written(a), _written(b)) for name, a, b in found if a != b]


def metrics(first: Recorded, second: Recorded) -> list[tuple[str, str, str, str]]:
    """Every figure of both, and the second less the first."""
    rows = []
    for name in first.metrics | second.metrics:
        a, b = first.metrics.get(name), second.metrics.get(name)
        difference = "" if a is None or b is None else "0" if a == b else f"{b - a:+.4g}"
        then, now = ("" if v is None else f"{v:.6g}" for v in (a, b))
        rows.append((name, then, now, difference))
    return rows


def same(first: Recorded, second: Recorded) -> bool:
    """Whether the runs agree in everything, to the last digit."""
    figures = {*first.metrics, *second.metrics}
    equal = all(_equal(first.metrics.get(name), second.metrics.get(name)) for name in figures)
    return equal and not configs(first, second) and not code(first, second)


def _equal(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def _patch(run: Recorded) -> str:
    path = run.dir / "code.patch"
    return path.read_bytes().decode(errors="surrogateescape") if path.is_file() else ""


def _written(value: Any) -> str:
    return "absent" if value is ABSENT else "" if value is None else text(value)
