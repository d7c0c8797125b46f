"""An LNbits of our own, over a node or over a wallet that only pretends to be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lightning.lnd import Lnd
from lightning.process import Process, free_port

START_TIMEOUT_S = 180
CALL_TIMEOUT_S = 60
ADMINISTRATOR = {"username": "administrator", "password": "known-to-all"}

# LNbits' own means of being tried out: its wallets can pay each other, and nobody else.
FAKE_WALLET = {"LNBITS_BACKEND_WALLET_CLASS": "FakeWallet"}


def over(node: Lnd) -> dict[str, str]:
    """What LNbits has to know to stand on a node."""
    return {
        "LNBITS_BACKEND_WALLET_CLASS": "LndRestWallet",
        "LND_REST_ENDPOINT": node.url,
        "LND_REST_CERT": str(node.certificate),
        "LND_REST_MACAROON": node.macaroon,
    }


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet in it. The admin key spends and receives, the invoice key only receives."""

    wallet_id: str
    admin_key: str
    invoice_key: str


class LnbitsServer:
    """A server with an administrator; its address and folder are the same after each ``start``."""

    def __init__(self, python: Path, folder: Path, backend: Mapping[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._token: str | None = None
        (folder / "extensions/extensions").mkdir(parents=True)
        self._process = Process(
            [python, "-m", "uvicorn", "lnbits.__main__:app", "--port", str(port)],
            log=folder / "lnbits.log",
            # It looks for its pages in the folder that it is started in.
            cwd=next((python.parent.parent / "lib").glob("python3.*/site-packages")),
            environment={
                "LNBITS_DATA_FOLDER": str(folder / "data"),
                "LNBITS_EXTENSIONS_PATH": str(folder / "extensions"),
                "LNBITS_ADMIN_UI": "true",
                "LNBITS_RATE_LIMIT_NO": "100000",
                # It is to ask nobody but its node.
                "LNBITS_EXTENSIONS_MANIFESTS": "[]",
                "LNBITS_WASM_EXTENSIONS_MANIFESTS": "[]",
                "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
                "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
                **backend,
            },
        )

    def start(self) -> None:
        """Start it, again or for the first time, and wait until it answers."""
        self._process.start()
        self._process.wait_until("answering", self._answers, timeout_s=START_TIMEOUT_S)
        if self._token is None:
            install = {**ADMINISTRATOR, "password_repeat": ADMINISTRATOR["password"]}
            installed = self._call("PUT", "/api/v1/auth/first_install", body=install)
            self._token = installed["access_token"]

    def stop(self) -> None:
        """End it in order; what it knows stays in its folder."""
        self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()

    def new_wallet(self, *, balance_sat: int = 0) -> Wallet:
        """Make a wallet, and give it satoshis that come from nowhere."""
        made = self._call("POST", "/api/v1/wallet", body={"name": "a wallet"})
        if balance_sat:
            given = {"id": made["id"], "amount": balance_sat}
            self._call("PUT", "/users/api/v1/balance", body=given)
        return Wallet(made["id"], made["adminkey"], made["inkey"])

    def balance_msat(self, wallet: Wallet) -> int:
        """What is in a wallet."""
        return int(self._call("GET", "/api/v1/wallet", key=wallet.invoice_key)["balance"])

    def invoice(self, wallet: Wallet, *, amount_sat: int) -> str:
        """Make an invoice of a wallet; its payment request."""
        asked = {"out": False, "amount": amount_sat}
        made = self._call("POST", "/api/v1/payments", key=wallet.invoice_key, body=asked)
        return str(made["bolt11"])

    def pay(self, wallet: Wallet, payment_request: str) -> dict[str, Any]:
        """Pay an invoice out of a wallet; what became of it, in LNbits' words."""
        asked = {"out": True, "bolt11": payment_request}
        paid: dict[str, Any] = self._call(
            "POST", "/api/v1/payments", key=wallet.admin_key, body=asked
        )
        return paid

    def _answers(self) -> bool:
        try:
            # Until there is an administrator, it shows everybody how to make one instead.
            httpx.get(f"{self.url}/api/v1/health", trust_env=False, timeout=CALL_TIMEOUT_S)
        except httpx.TransportError:
            return False
        return True

    def _call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:
        """Call it with a wallet's key, or else as the administrator."""
        headers = {"X-Api-Key": key} if key else {}
        if not key and self._token:
            headers = {"Authorization": f"Bearer {self._token}"}
        response = httpx.request(
            method,
            f"{self.url}{path}",
            json=body,
            headers=headers,
            trust_env=False,
            timeout=CALL_TIMEOUT_S,
        )
        assert response.is_success, f"LNbits does not {method} {path}: {response.text}"
        return response.json()
