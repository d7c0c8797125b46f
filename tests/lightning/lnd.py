"""A Lightning node of our own: LND, spoken to over its REST interface."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from lightning.btcd import Btcd
from lightning.process import Process, free_port

START_TIMEOUT_S = 180
SETTLE_TIMEOUT_S = 120
CALL_TIMEOUT_S = 60
MAX_FEE_MSAT = "10000"


class Lnd:
    """A node on a chain. ``url``, ``certificate`` and ``macaroon_file`` are what a client needs.

    Its addresses and its folder are the same after each ``start``.
    """

    def __init__(self, name: str, program: Path, folder: Path, chain: Btcd) -> None:
        self.name = name
        self.certificate = folder / "tls.cert"
        self.address = f"127.0.0.1:{free_port()}"
        rest_address = f"127.0.0.1:{free_port()}"
        self.url = f"https://{rest_address}"
        self.macaroon_file = folder / "data/chain/bitcoin/regtest/admin.macaroon"
        self._client: httpx.Client | None = None
        self._process = Process(
            [
                program,
                f"--lnddir={folder}",
                f"--alias={name}",
                f"--listen={self.address}",
                f"--restlisten={rest_address}",
                f"--rpclisten=127.0.0.1:{free_port()}",
                "--bitcoin.regtest",
                "--bitcoin.node=btcd",
                f"--btcd.rpchost={chain.rpc_address}",
                f"--btcd.rpccert={chain.certificate}",
                f"--btcd.rpcuser={chain.user}",
                f"--btcd.rpcpass={chain.password}",
                # A wallet without a password, made at the first start.
                "--noseedbackup",
                "--nobootstrap",
                # Channels are made known at once, not every ninety seconds.
                "--trickledelay=50",
                "--logging.file.disable",
            ],
            log=folder / f"{name}.log",
        )

    def start(self) -> None:
        """Start it, again or for the first time, without waiting."""
        self._process.start()

    def wait_until_synced(self) -> None:
        """Wait until it serves, and has the chain's tip."""
        self.wait_until("serving", self._is_serving, timeout_s=START_TIMEOUT_S)
        self.wait_until("synced", lambda: bool(self.get("/v1/getinfo")["synced_to_chain"]))

    def wait_until(
        self, fact: str, check: Callable[[], bool], *, timeout_s: float = SETTLE_TIMEOUT_S
    ) -> None:
        """Wait until ``check`` is true, for as long as it lives."""
        self._process.wait_until(fact, check, timeout_s=timeout_s)

    def stop(self) -> None:
        """End it in order; what it knows stays in its folder."""
        self._disconnect()
        self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._disconnect()
        self._process.kill()

    @property
    def macaroon(self) -> str:
        """The right to do everything, in hexadecimal digits."""
        return self.macaroon_file.read_bytes().hex()

    @property
    def node_id(self) -> str:
        """Its public key, 66 hexadecimal digits."""
        return str(self.get("/v1/getinfo")["identity_pubkey"])

    def get(self, path: str) -> dict[str, Any]:
        """Ask it; the last answer of a stream."""
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """Have it do something; the last answer of a stream."""
        return self._call("POST", path, body)

    def new_address(self) -> str:
        """An address of its wallet on the chain."""
        return str(self.get("/v1/newaddress")["address"])

    def invoice(self, *, amount_msat: int, expires_in_s: int = 3600) -> str:
        """Make an invoice; its payment request."""
        body = {"value_msat": str(amount_msat), "expiry": str(expires_in_s)}
        return str(self.post("/v1/invoices", dict(body))["payment_request"])

    def hold_invoice(self, payment_hash: str, *, amount_msat: int) -> str:
        """Make an invoice that is paid only when ``settle`` is called; its payment request."""
        body = {"hash": base64_of(payment_hash), "value_msat": str(amount_msat)}
        return str(self.post("/v2/invoices/hodl", dict(body))["payment_request"])

    def settle(self, preimage: str) -> None:
        """Take what has been sent to a hold invoice."""
        self.post("/v2/invoices/settle", {"preimage": base64_of(preimage)})

    def cancel(self, payment_hash: str) -> None:
        """Send back what has been sent to a hold invoice, or let nobody pay it any more."""
        self.post("/v2/invoices/cancel", {"payment_hash": base64_of(payment_hash)})

    def invoice_state(self, payment_hash: str) -> str:
        """OPEN, ACCEPTED (held), SETTLED or CANCELED."""
        return str(self.get(f"/v1/invoice/{payment_hash}")["state"])

    def pay(self, payment_request: str) -> dict[str, Any]:
        """Pay an invoice; what LND tells of it in the end."""
        return self._send({"payment_request": payment_request})

    def pay_more(self, payment_request: str, *, amount_msat: int) -> dict[str, Any]:
        """Pay an invoice, but with an amount of the payer's own, as BOLT 4 lets him."""
        asked = self.get(f"/v1/payreq/{payment_request}")
        return self._send(
            {
                "dest": base64_of(asked["destination"]),
                "amt_msat": str(amount_msat),
                "payment_hash": base64_of(asked["payment_hash"]),
                "payment_addr": asked["payment_addr"],
                "final_cltv_delta": int(asked["cltv_expiry"]),
                "dest_features": [int(bit) for bit in asked["features"]],
            }
        )

    def balance_msat(self) -> int:
        """What it has on its side of its channels, once nothing is in flight."""

        def nothing_in_flight() -> bool:
            channels = self.get("/v1/channels")["channels"]
            return not any(channel["pending_htlcs"] for channel in channels)

        self.wait_until("done with all payments", nothing_in_flight)
        return int(self.get("/v1/balance/channels")["local_balance"]["msat"])

    def _send(self, what: dict[str, object]) -> dict[str, Any]:
        paid = self.post(
            "/v2/router/send", {**what, "timeout_seconds": 30, "fee_limit_msat": MAX_FEE_MSAT}
        )
        assert paid["status"] == "SUCCEEDED", f"{self.name} cannot pay: {paid['failure_reason']}"
        return paid

    def _is_serving(self) -> bool:
        try:
            return bool(self.get("/v1/state")["state"] == "SERVER_ACTIVE")
        except (httpx.TransportError, FileNotFoundError):  # It makes its own certificate first.
            return False

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _call(
        self, method: str, path: str, body: dict[str, object] | None = None
    ) -> dict[str, Any]:
        if self._client is None:
            self._client = httpx.Client(
                base_url=self.url,
                verify=ssl.create_default_context(cafile=str(self.certificate)),
                trust_env=False,
                timeout=CALL_TIMEOUT_S,
            )
        response = self._client.request(
            method, path, json=body, headers={"Grpc-Metadata-Macaroon": self.macaroon}
        )
        assert response.is_success, f"{self.name} does not {method} {path}: {response.text}"
        answer: dict[str, Any] = json.loads(response.text.splitlines()[-1])
        result: dict[str, Any] = answer.get("result", answer)
        return result


class Hold:
    """An invoice whose payment stays in flight until the payee settles or cancels it."""

    def __init__(self, payee: Lnd, *, amount_msat: int = 100_000) -> None:
        self._payee = payee
        self.preimage = secrets.token_hex(32)
        self.payment_hash = hashlib.sha256(bytes.fromhex(self.preimage)).hexdigest()
        self.payment_request = payee.hold_invoice(self.payment_hash, amount_msat=amount_msat)

    @property
    def arrived(self) -> int:
        """How many payments have arrived for it."""
        return len(self._payee.get(f"/v1/invoice/{self.payment_hash}")["htlcs"])

    def settle(self) -> None:
        """Take the payment."""
        self._payee.settle(self.preimage)

    def cancel(self) -> None:
        """Send the payment back."""
        self._payee.cancel(self.payment_hash)


def base64_of(digits: str) -> str:
    """Bytes in hexadecimal digits as LND wants them in what it is sent."""
    return base64.b64encode(bytes.fromhex(digits)).decode()
