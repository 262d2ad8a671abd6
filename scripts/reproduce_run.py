"""Runs a run again and compares the figures: python scripts/reproduce_run.py run=latest [tolerance=0] [KEY=VALUE …]

The run directory is all that it takes: the saved config, the seed, the number of threads. Where the code or a package
is not the one that the run recorded, it says what differs and stops; force=true goes on. The new run lies beside the
old one. Exits with 0 where every figure is equal within `tolerance`, else with 1; speeds are shown and not judged.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import math
import os
import re
import subprocess
from secrets import token_hex

from lab.engine.analysis.terminal import show_pairs
from lab.engine.cli.errors import script
from lab.engine.runs.attach import attach_command
from lab.engine.runs.reproduce import changes_since, copy_run
from lab.engine.runs.run import Run
from lab.engine.utils.arguments import parse_arguments
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.escape import printable

SPEED = re.compile(r"per_second|seconds|throughput")


def main(argv: list[str]) -> int:
    defaults = {"run": "latest", "tolerance": "0", "force": "false", "paths.log_dir": ""}
    arguments, overrides = parse_arguments(argv, defaults)
    tolerance = _number(arguments["tolerance"])
    if arguments["force"] not in ("true", "false"):
        raise UserError(f"force={arguments['force']}: expected true or false")
    old = Run.open(arguments["run"], arguments["paths.log_dir"])
    if not old.metrics:
        raise UserError(f"{old.dir} has no metrics.json (status {old.status}): there is nothing to compare with")
    record = old.metadata
    if found := changes_since(old.dir, record):
        shown = "\n".join(f"  {line}" for line in found[:7])
        if arguments["force"] == "false":
            raise UserError(f"this is not what {old.dir.name} ran with:\n{shown}\nforce=true runs it all the same")
        print(printable(f"this is not what the run ran with:\n{shown}"))

    new = old.dir.with_name(f"{old.dir.name}-again-{token_hex(2)}")
    environment = dict(os.environ)
    if threads := record.get("threads") or record.get("omp_num_threads"):
        environment["OMP_NUM_THREADS"] = str(threads)
    copy_run(old, new, overrides)
    status = subprocess.run(attach_command(new), env=environment, check=False).returncode
    if status == 2:
        raise UserError("the run's config is refused today, as said above")
    if status:
        raise RunFailed(f"the run failed with exit status {status}: see {new}")
    return compare(old, Run(new), tolerance)


def compare(old: Run, new: Run, tolerance: float) -> int:
    """Prints every metric then and now, and the difference; returns 0 if all but speeds are equal, else 1."""
    devices = [run.metadata.get("devices") for run in (old, new)]
    if devices[0] != devices[1]:
        said = f"devices then {devices[0]}, now {devices[1]}: sums in another order differ in their last digits"
        print(printable(said))
    rows, equal = [], True
    for name in [*old.metrics, *(name for name in new.metrics if name not in old.metrics)]:
        then, now = old.metrics.get(name), new.metrics.get(name)
        verdict = "not judged" if SPEED.search(name) else "" if same(then, now, tolerance) else "differs"
        equal &= verdict != "differs"
        difference = f"{now - then:+.3g}" if then is not None and now is not None else "missing"
        rows.append((name, *("" if value is None else f"{value:.8g}" for value in (then, now)), difference, verdict))
    show_pairs(old.dir.name, ("metric", "then", "now", "difference", ""), rows)
    print(f"{'equal' if equal else 'not equal'} within {tolerance:g}; the new run: {new.dir}")
    return 0 if equal else 1


def same(then: float | None, now: float | None, tolerance: float) -> bool:
    """Tells whether two metrics agree: a missing one agrees with none, NaN with NaN."""
    if then is None or now is None:
        return False
    return then == now or abs(then - now) <= tolerance or (math.isnan(then) and math.isnan(now))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise UserError(f"tolerance={text}: expected a number from 0")
    return number


if __name__ == "__main__":
    script(main)
