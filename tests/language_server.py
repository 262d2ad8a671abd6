"""An editor, as far as yaml-language-server can tell: not a test, but what one of them asks through."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.engine.utils.paths import ROOT

SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}


def server_command() -> str | None:
    """Where yaml-language-server is, from `npm install yaml-language-server` here or anywhere; None without it."""
    name = "yaml-language-server"
    local = ROOT / "node_modules" / ".bin" / name
    return str(local) if local.exists() else shutil.which(name)


class LanguageServer:
    """Speaks the language server protocol over a process's stdin and stdout.

    Lines and columns count from 0.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, seconds: float = 60) -> None:
        self.process, self.folder, self.seconds = process, folder, seconds
        self.number, self.received, self.configured = 0, b"", False
        self.answers: dict[int, Any] = {}
        self.problems: dict[str, list[str]] = {}

    def start(self) -> None:
        """Introduces the editor, which shows hovers as text and lets the server ask for its settings."""
        capabilities = {
            "textDocument": {"publishDiagnostics": {}, "completion": {}, "hover": {"contentFormat": ["plaintext"]}},
            "workspace": {"configuration": True},
        }
        folders = [{"uri": self.folder.as_uri(), "name": "checkout"}]
        self._ask(
            "initialize",
            processId=os.getpid(), rootUri=self.folder.as_uri(), capabilities=capabilities, workspaceFolders=folders,
        )  # fmt: skip
        self._tell("initialized")
        self._tell("workspace/didChangeConfiguration", settings=SETTINGS)
        self._until(lambda: self.configured)

    def open(self, path: Path) -> list[str]:
        """Opens a file that has not been opened yet, and returns what the editor underlines."""
        document = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": path.read_text()}
        self._tell("textDocument/didOpen", textDocument=document)
        self._until(lambda: path.as_uri() in self.problems)
        return self.problems[path.as_uri()]

    def complete(self, path: Path, line: int, column: int) -> list[str]:
        """Returns what is offered at a place of an opened file."""
        found = self._at("textDocument/completion", path, line, column)
        return [item["label"] for item in (found if isinstance(found, list) else (found or {}).get("items", []))]

    def hover(self, path: Path, line: int, column: int) -> str:
        """Returns the hint over a place of an opened file."""
        found = self._at("textDocument/hover", path, line, column)
        return json.dumps(found["contents"]) if found else ""

    def _at(self, method: str, path: Path, line: int, column: int) -> Any:
        return self._ask(method, textDocument={"uri": path.as_uri()}, position={"line": line, "character": column})

    def _ask(self, method: str, **params: Any) -> Any:
        self.number += 1
        number = self.number
        self._send({"id": number, "method": method, "params": params})
        self._until(lambda: number in self.answers)
        return self.answers.pop(number)

    def _tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def _until(self, done: Callable[[], bool]) -> None:
        over = time.monotonic() + self.seconds
        while not done():
            assert time.monotonic() < over, "yaml-language-server says nothing"
            self._receive()

    def _receive(self) -> None:
        """Takes in what has come: an answer, a question about settings, or the problems of a file."""
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], 0.1)[0]:
            self.received += os.read(self.process.stdout.fileno(), 65536)
        while b"\r\n\r\n" in self.received:
            head, _, rest = self.received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if len(rest) < length:
                return
            message, self.received = json.loads(rest[:length]), rest[length:]
            if "method" not in message:
                assert "error" not in message, message
                self.answers[message["id"]] = message["result"]
            elif "id" in message:
                asked = message["params"]["items"] if message["method"] == "workspace/configuration" else []
                self._send({"id": message["id"], "result": [SETTINGS.get(item["section"]) for item in asked] or None})
                self.configured |= bool(asked)
            elif message["method"] == "textDocument/publishDiagnostics":
                found = [problem["message"] for problem in message["params"]["diagnostics"]]
                self.problems[message["params"]["uri"]] = found


@contextmanager
def language_server(command: str, folder: Path) -> Iterator[LanguageServer]:
    """Starts yaml-language-server for a folder, and ends it."""
    process = subprocess.Popen([command, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
    try:
        server = LanguageServer(process, folder)
        server.start()
        yield server
    finally:
        process.kill()
        process.communicate()
