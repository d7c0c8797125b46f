"""A Bitcoin chain of our own: btcd in regtest, which makes a block whenever it is told to."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx

from lightning.process import Process, free_port

START_TIMEOUT_S = 180
# Generating a block proves work: little in regtest, but four hundred take some seconds.
CALL_TIMEOUT_S = 120


class Btcd:
    """A chain; ``mining_address`` is whose the coins of new blocks are, and can change."""

    user = "tests"
    password = "tests"

    def __init__(self, program: Path, folder: Path) -> None:
        self.rpc_address = f"127.0.0.1:{free_port()}"
        self.certificate = folder / "rpc.cert"
        self._program = program
        self._folder = folder
        self._process: Process | None = None
        # btcd would make one in its user's home if there were none.
        (folder / "btcd.conf").touch()

    def start(self, mining_address: str) -> None:
        """Start it, again or for the first time, and wait until it answers."""
        self._process = Process(
            [
                self._program,
                "--regtest",
                "--txindex",
                f"--miningaddr={mining_address}",
                "--nolisten",
                f"--configfile={self._folder / 'btcd.conf'}",
                f"--datadir={self._folder / 'data'}",
                f"--logdir={self._folder / 'logs'}",
                f"--rpclisten={self.rpc_address}",
                f"--rpccert={self.certificate}",
                f"--rpckey={self._folder / 'rpc.key'}",
                f"--rpcuser={self.user}",
                f"--rpcpass={self.password}",
            ],
            log=self._folder / "btcd.log",
        )
        self._process.start()
        self._process.wait_until("answering", self._answers, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """End it; the chain stays in its folder."""
        if self._process is not None:
            self._process.stop()

    def generate(self, blocks: int) -> None:
        """Make blocks, one on the other."""
        self._call("generate", blocks)

    @property
    def height(self) -> int:
        """How many blocks there are after the first."""
        height: int = self._call("getblockcount")
        return height

    def _answers(self) -> bool:
        try:
            self._call("getblockcount")
        except (httpx.TransportError, FileNotFoundError):  # It listens last of all.
            return False
        return True

    def _call(self, method: str, *parameters: object) -> Any:
        response = httpx.post(
            f"https://{self.rpc_address}",
            json={"jsonrpc": "1.0", "id": 1, "method": method, "params": parameters},
            auth=(self.user, self.password),
            verify=ssl.create_default_context(cafile=str(self.certificate)),
            trust_env=False,
            timeout=CALL_TIMEOUT_S,
        )
        answer = response.raise_for_status().json()
        assert answer["error"] is None, f"btcd does not {method}: {answer['error']}"
        return answer["result"]
