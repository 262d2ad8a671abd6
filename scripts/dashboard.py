"""Shows a sweep's study in a browser, on this machine alone: python scripts/dashboard.py [sweep=latest] [port=8080]

`sweep` is the directory of a sweep that Optuna draws for; paths.log_dir=DIR says where `latest` is looked for.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

from lab.engine.cli.errors import script
from lab.engine.sweeps.storage import open_storage
from lab.engine.sweeps.study import sweeper_config
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.arguments import parse_arguments
from lab.engine.utils.errors import UserError
from lab.engine.utils.machine import has_package

HOST = "127.0.0.1"


def main(arguments: list[str]) -> None:
    given, rest = parse_arguments(arguments, {"sweep": "latest", "port": "8080", "paths.log_dir": ""})
    port = given["port"]
    if rest:
        raise UserError(f"{rest[0]}: no such argument; there are sweep, port and paths.log_dir")
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"port={port}: expected a number from 1 to 65535")
    sweep = Sweep.open(given["sweep"], given["paths.log_dir"])
    if not (sweeper := sweeper_config(sweep.dir)):
        raise UserError(f"{sweep.dir} is a grid, without a study: python scripts/compare.py {sweep.dir}")
    if not has_package("optuna_dashboard"):
        raise UserError("optuna-dashboard is not installed: pip install -e .[optuna]")

    from optuna_dashboard import run_server

    print(f"http://{HOST}:{port}/ shows {sweep.dir.name}; Ctrl-C ends it", flush=True)
    try:
        run_server(open_storage(sweep.dir, sweeper["storage"]), host=HOST, port=int(port))
    except OSError as error:
        raise UserError(f"port={port}: {error.strerror}; give another one, port=8081") from error


if __name__ == "__main__":
    script(main)
