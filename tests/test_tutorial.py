"""The tutorial works: every block of it is run, written or compared, in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from documentation import TOP, Block, blocks, read, steps

PORT_IN_TEXT = "localhost:8000"

# What the tests' surroundings may have set.
VARIABLES = re.compile(
    "DATABASE_URL|DB_.*|SHARED_LEDGER_.*|ENVIRONMENT|API_TOKEN|HOST|PORT|COLUMNS|PYTEST_.*"
)
END = "--- the block has ended ---"


class Terminal:
    """A shell that keeps its variables from one block to the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["sh", "-e"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, commands: str) -> str:
        """Run commands; return what they said."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{commands}\necho; echo '{END}'\n")
        self._shell.stdin.flush()
        said = ""
        for line in self._shell.stdout:
            if line.rstrip() == END:
                return said
            said += line
        raise AssertionError(f"{commands}\nended the shell: {said}")

    def close(self) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(30)


class Server:
    """What runs in the second terminal, one after another."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int) -> None:
        self._folder = folder
        self._environment = environment
        self._url = f"http://localhost:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: str) -> None:
        self.stop()
        self._process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"], cwd=self._folder, env=self._environment
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, f"{command} has ended"
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it with Ctrl-C."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._url}/health").status_code == 200
        except httpx.TransportError:
            return False


class Reader:
    """Somebody who does what the tutorial says."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not VARIABLES.fullmatch(name)}
        environment = kept | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PORT": str(self.port),
        }
        self.folder = folder
        self.terminal = Terminal(folder, environment)
        self.server = Server(folder, environment, self.port)
        self.said = ""

    def does(self, block: Block) -> None:
        """Do what a block says, or compare it with what was said last, or with a file."""
        match block.kind, block.about:
            case "sh", "server":
                self.server.start(self.here(block.text))
            case "sh", "":
                self.said = self.terminal.run(self.here(block.text))
            case "text", "":
                assert alike(block.text.strip(), self.said.strip()), self.said
            case "json", "":
                assert same(documents(block.text), documents(self.said)), self.said
            case "python", path if path.endswith(" +"):
                with (self.folder / path.removesuffix(" +")).open("a") as file:
                    file.write(f"\n\n{block.text}")
            case "python", path:
                assert block.text in self.file(path).read_text(), path
            case "diff", path:
                patch(self.file(path), block.text)
            case _:
                raise AssertionError(f"nobody knows what to do with {block}")

    def here(self, text: str) -> str:
        """The text with the port that the test uses."""
        text = text.replace(PORT_IN_TEXT, f"localhost:{self.port}")
        return text.replace("--port 8000", f"--port {self.port}")

    def file(self, path: str) -> Path:
        (found,) = self.folder.glob(path)
        return found

    def leaves(self) -> None:
        self.server.stop()
        self.terminal.close()


def alike(expected: str, said: str) -> bool:
    """Whether what was said is what was expected, where … stands for anything in a line."""
    pattern = ".*".join(map(re.escape, expected.split("…")))
    return re.search(rf"^{pattern}$", said, re.MULTILINE) is not None


def documents(text: str) -> list[Any]:
    """The JSON documents in a text, one after another."""
    found = []
    decoder = json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def same(expected: Any, said: Any) -> bool:
    """Whether two documents are the same, where "…" stands for any value."""
    if expected == "…":
        return said is not None
    if isinstance(expected, dict) and isinstance(said, dict):
        return expected.keys() == said.keys() and all(
            same(value, said[key]) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(said, list):
        return len(expected) == len(said) and all(map(same, expected, said))
    return type(expected) is type(said) and bool(expected == said)


def patch(file: Path, difference: str) -> None:
    """Change a file as a difference says, whose lines are in it once."""
    lines = difference.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = file.read_text()
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, after))


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader in an empty folder, which PostgreSQL's user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="tutorial-"))
    folder.chmod(0o755)
    reader = Reader(folder)
    yield reader
    reader.leaves()
    shutil.rmtree(folder)


def test_the_tutorial_installs_what_there_is() -> None:
    install, *_ = blocks("docs/tutorial.md")
    asked = re.search(r"^pip install 'shared-ledger\[(.+)\]' pytest$", install.text, re.MULTILINE)
    assert asked is not None
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(asked[1].split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial uses curl")
def test_every_step_of_the_tutorial_does_what_it_says(reader: Reader) -> None:
    served = False
    for step in steps("docs/tutorial.md"):
        reader.does(step)
        if step.about == "server" and not served:
            served = True
            for link in re.findall(r"<http://(localhost:8000\S*)>", read("docs/tutorial.md")):
                assert httpx.get(f"http://{reader.here(link)}").status_code == 200, link
    assert served


def test_what_the_tutorial_expects_is_compared() -> None:
    """The comparisons above can fail."""
    assert alike("8 passed in …", "...\n8 passed in 3.02s")
    assert not alike("8 passed in …", "7 passed in 3.02s")
    assert same({"id": "…", "n": 1}, {"id": 7, "n": 1})
    assert not same({"id": "…", "n": 1}, {"id": 7, "n": 2})
    assert not same({"id": "…"}, {"id": 7, "n": 2})
    assert not same([{"id": 1}], [{"id": 1}, {"id": 2}])
    assert documents('{"a": 1}{"b":\n2}\n') == [{"a": 1}, {"b": 2}]
