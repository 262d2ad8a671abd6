"""Finds how two runs differ: in their configs, their code and their metrics."""

from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.run_record import RunRecord
from lab.engine.config.identity import ABSENT, comparable, differences
from lab.engine.runs.reproduce import changed_files

Lines = list[tuple[str, str, str]]  # what, of the first run, of the second


def configs(first: RunRecord, second: RunRecord) -> Lines:
    """Returns the keys at which the saved configs differ, with both values; paths do not count, the seed does."""
    configs = [{"seed": run.seed} | comparable(run.config) for run in (first, second)]
    return [(key, _to_text(a), _to_text(b)) for key, b, a in differences(configs[1], configs[0])]


def code(first: RunRecord, second: RunRecord) -> Lines:
    """Returns where commits, uncommitted changes, package versions and machines differ."""
    facts, patches = [_facts(run) for run in (first, second)], [_patch(run) for run in (first, second)]
    found = [(name, facts[0].get(name), facts[1].get(name)) for name in facts[0] | facts[1]]
    for name in changed_files(*patches):
        a, b = ("changed" if name in changed_files(patch, "") else "as committed" for patch in patches)
        found.append((name, a, b if a != b else "changed in another way"))
    return [(name, _to_text(a), _to_text(b)) for name, a, b in found if a != b]


def metrics(first: RunRecord, second: RunRecord) -> list[tuple[str, str, str, str]]:
    """Returns every metric of both runs, and the second value minus the first."""
    rows = []
    for name in first.metrics | second.metrics:
        a, b = first.metrics.get(name), second.metrics.get(name)
        difference = "" if a is None or b is None else "0" if a == b else f"{b - a:+.4g}"
        then, now = ("" if v is None else f"{v:.6g}" for v in (a, b))
        rows.append((name, then, now, difference))
    return rows


def same(first: RunRecord, second: RunRecord) -> bool:
    """Tells whether the runs agree in everything, to the last digit."""
    figures = [repr(sorted(run.metrics.items())) for run in (first, second)]
    return figures[0] == figures[1] and not configs(first, second) and not code(first, second)


def _facts(run: RunRecord) -> dict[str, Any]:
    git = run.metadata.get("git") or {}
    machine = {name: run.metadata.get(name) for name in ("devices", "threads", "hostname")}
    commit = {"commit": str(git.get("commit"))[:12], "branch": git.get("branch")}
    return commit | (run.metadata.get("versions") or {}) | machine


def _patch(run: RunRecord) -> str:
    path = run.dir / "code.patch"
    return path.read_bytes().decode(errors="surrogateescape") if path.is_file() else ""


def _to_text(value: Any) -> str:
    return "absent" if value is ABSENT else "" if value is None else text(value)
