"""Opens the storage of a study: a journal in the sweep's directory, or a database by its URL."""

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lab.engine.utils.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage  # takes half a second: imported where it is needed

JOURNAL = "study.journal"
SECONDS = 5  # after which a server that does not answer cannot be reached
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
# What each driver calls the seconds that it waits: SQLite for a lock, the others for an answer
TIMEOUTS: dict[str, dict[str, Any]] = {
    "pysqlite": {"timeout": 60},
    "mysqlconnector": {"connection_timeout": SECONDS},
    **{name: {"connect_timeout": SECONDS} for name in ("psycopg2", "psycopg", "mysqldb", "pymysql")},
}


def open_storage(directory: Path, url: str | None = None) -> "BaseStorage":
    """Opens the storage of the study of one sweep.

    Args:
        directory: of the sweep; exists where `url` is None.
        url: of a database, as SQLAlchemy writes it; None for a journal in `directory`.

    Raises:
        UserError: when it cannot be reached within some seconds, or read.
    """
    return _open_journal(directory / JOURNAL) if url is None else _open_database(url)


def _open_journal(path: Path) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Ends with its process; Optuna's own are files that a killed process leaves behind for half a minute
    lock: Any = FileLock(path.with_name(".study.lock"))

    class Journal(JournalFileBackend):
        """Removes a partial last line, left by a killed process, before it appends to the file."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with lock:
                drop_half_line(path)
                super().append_logs(logs)

    if damage := _damage(path):
        raise UserError(f"{path} cannot be read, {damage}")
    try:
        return JournalStorage(Journal(str(path), lock_obj=lock))
    except Exception as error:  # whatever Optuna makes of a line that it did not write
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def drop_half_line(path: Path) -> None:
    """Removes a last line without a line break; nobody has read it, since a record ends with its line."""
    with path.open("rb+") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _damage(path: Path) -> str:
    """Returns which line of a journal is damaged; an empty text for none. A last line without an end is unfinished."""
    content = path.read_bytes() if path.is_file() else b""  # a pipe would never end
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            is_record = isinstance(json.loads(line), dict)
        except (RecursionError, ValueError):
            is_record = False
        if not is_record:
            return f"line {number} is damaged"
    return ""


def _open_database(url: str) -> "BaseStorage":
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
        driver = parsed.get_dialect().driver
    except SQLAlchemyError:
        shown = f"***@{url.rpartition('@')[2]}" if "@" in url else url
        raise UserError(
            f"hydra.sweeper.storage={shown}: expected null for a journal in the sweep's directory, or a database's URL,"
            " such as sqlite:////tmp/sweeps.db or postgresql://me@host/sweeps"
        ) from None
    shown = f"hydra.sweeper.storage={parsed.render_as_string(hide_password=True)}"
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(f"{shown}: a database in memory ends with its process: give a file, sqlite:////tmp/sweeps.db")
    if parsed.host and not parsed.host.startswith("/"):
        port = parsed.port or PORTS.get(kind, 0)
        try:
            socket.create_connection((parsed.host, port), timeout=SECONDS).close()
        except OSError as error:
            answer = error.strerror or error
            raise UserError(f"{shown} cannot be reached: {parsed.host}:{port}: {answer}; is the server up?") from error
    try:
        return RDBStorage(url, engine_kwargs={"connect_args": TIMEOUTS.get(driver, {}), "pool_pre_ping": True})
    except (ImportError, SQLAlchemyError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
        first = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
        remedy = "; install its driver" if isinstance(error, ImportError) else ""
        raise UserError(f"{shown} cannot be opened: {first}{remedy}") from error
