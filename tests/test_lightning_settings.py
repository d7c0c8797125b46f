"""Which node: one URL, whose faults are told with what to do, and never with what it holds."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from contexts import engine_on
from shared_ledger.apps.crowdfunding.lightning.cln import ClnNode
from shared_ledger.apps.crowdfunding.lightning.lnbits import LnbitsNode
from shared_ledger.apps.crowdfunding.lightning.lnd import LndNode
from shared_ledger.apps.crowdfunding.lightning.nodes import open_node
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError

MACAROON = bytes.fromhex("0201036c6e6402f801030a10") + bytes(range(200, 250))
KEY = "0123456789abcdef0123456789abcdef"
RUNE = "h1Iv9aYx_RuneOfTheTests-Zz=="


@pytest.fixture
def pem() -> str:
    return trustme.CA().cert_pem.bytes().decode()


@pytest.fixture
def folder(tmp_path: Path, pem: str) -> Path:
    """Files with the secrets and a certificate."""
    (tmp_path / "admin.macaroon").write_bytes(MACAROON)
    (tmp_path / "macaroon.hex").write_text(f"{MACAROON.hex()}\n")
    (tmp_path / "key").write_text(f" {KEY}\n")
    (tmp_path / "rune").write_text(f"{RUNE}\n")
    (tmp_path / "tls.cert").write_text(pem)
    (tmp_path / "empty").touch()
    return tmp_path


def client(node: Any) -> Any:
    return node._rest._client


async def refusal(url: str, **more: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        await open_node(url, **more)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


async def test_simulated_node_is_the_default(cluster: Cluster, schema: str) -> None:
    async with engine_on(cluster.url, schema) as engine:
        assert isinstance(await open_node(engine=engine), SimulatedNode)
        assert isinstance(await open_node("simulated:", engine), SimulatedNode)
    assert "needs a database" in await refusal("simulated:")


async def test_simulated_node_is_refused_in_production(cluster: Cluster, schema: str) -> None:
    async with engine_on(cluster.url, schema) as engine:
        said = await refusal("simulated:", engine=engine, production=True)
    assert "name a real node" in said


@pytest.mark.parametrize(
    ("url", "kind", "header", "secret"),
    [
        (
            "lnd+https://h:8080?macaroon_file={f}/admin.macaroon",
            LndNode,
            "Grpc-Metadata-macaroon",
            MACAROON.hex(),
        ),
        (
            "lnd+https://h:8080?macaroon_file={f}/macaroon.hex",
            LndNode,
            "Grpc-Metadata-macaroon",
            MACAROON.hex(),
        ),
        (
            f"lnd+https://h:8080?macaroon={MACAROON.hex().upper()}",
            LndNode,
            "Grpc-Metadata-macaroon",
            MACAROON.hex().upper(),
        ),
        ("lnbits+https://h?key_file={f}/key", LnbitsNode, "X-Api-Key", KEY),
        (f"lnbits+https://h?key={KEY}", LnbitsNode, "X-Api-Key", KEY),
        ("cln+https://h:3010?rune_file={f}/rune", ClnNode, "Rune", RUNE),
        (f"cln+https://h:3010?rune={RUNE}", ClnNode, "Rune", RUNE),
    ],
)
async def test_url_names_the_node_and_where_its_secret_is(
    folder: Path, url: str, kind: type, header: str, secret: str
) -> None:
    node = await open_node(url.replace("{f}", str(folder)), production=True)
    assert type(node) is kind
    assert client(node).headers[header] == secret
    await node.close()


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("lnbits+https://lnbits.example?key=k", "https://lnbits.example"),
        ("lnbits+https://lnbits.example:5001/behind/?key=k", "https://lnbits.example:5001/behind/"),
        ("lnbits+http://127.0.0.1:5000?key=k", "http://127.0.0.1:5000"),
        ("lnbits+http://localhost:5000?key=k", "http://localhost:5000"),
        ("lnbits+http://[::1]:5000?key=k", "http://[::1]:5000"),
    ],
)
async def test_address_is_what_the_url_says(url: str, base: str) -> None:
    node = await open_node(url)
    assert str(client(node).base_url) == base
    await node.close()


async def test_certificate_is_a_file_or_its_content(folder: Path, pem: str) -> None:
    content = base64.b64encode(pem.encode()).decode()
    for certificate in (
        f"cert_file={folder}/tls.cert",
        f"cert={content}",
        f"cert={quote(content)}",
        f"cert={quote(pem)}",
    ):
        node = await open_node(f"cln+https://h?rune={RUNE}&{certificate}")
        await node.close()


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("", "LIGHTNING_NODE is simulated:"),
        ("simulated", "LIGHTNING_NODE is simulated:"),
        ("https://h?key=k", "LIGHTNING_NODE is simulated:"),
        ("lnd://h?macaroon=00", "LIGHTNING_NODE is simulated:"),
        ("eclair+https://h?key=k", "LIGHTNING_NODE is simulated:"),
        ("lnd+ftp://h?macaroon=00", "LIGHTNING_NODE is simulated:"),
        ("lnd+https://?macaroon=00", "LIGHTNING_NODE is simulated:"),
        ("lnd+https://h:99999?macaroon=00", "LIGHTNING_NODE is simulated:"),
        ("lnd+https://[h?macaroon=00", "LIGHTNING_NODE is simulated:"),
        ("lnd+https://h?macaroon", "LIGHTNING_NODE is simulated:"),
        ("lnd+https://u:{k}@h?macaroon=00", "a user or a fragment"),
        ("lnd+https://h?macaroon=00#{k}", "a user or a fragment"),
        ("lnbits+http://h?key={k}", "begin with lnbits+https://"),
        ("lnbits+http://127.0.0.1.example?key={k}", "begin with lnbits+https://"),
        ("lnbits+https://h", "needs either key_file=PATH, or the key itself as key="),
        ("lnbits+https://h?key={k}&key_file=/f", "needs either key_file=PATH"),
        ("lnbits+https://h?key={k}&key={k}", "a parameter twice"),
        ("lnbits+https://h?macaroon={k}", "there are cert, cert_file, key and key_file"),
        ("lnbits+https://h?{k}=1", "there are cert, cert_file, key and key_file"),
        ("lnbits+https://h?key=", "the key is empty"),
        ("lnbits+https://h?key={k}%0Ax", "has characters that none has"),
        ("lnbits+https://h?key={k}é", "has characters that none has"),
        ("lnbits+https://h?key_file=/nowhere/{k}", "key_file cannot be read: No such file"),
        ("lnbits+https://h?key_file={f}", "key_file cannot be read: Is a directory"),
        ("lnbits+https://h?key_file=%00", "key_file cannot be read"),
        ("lnbits+https://h?key_file={f}/empty", "the key is empty"),
        ("lnbits+https://h?key_file={f}/admin.macaroon", "has characters that none has"),
        ("lnd+https://h?macaroon={k}x", "not in hexadecimal digits"),
        ("lnd+https://h?macaroon=", "not in hexadecimal digits"),
        ("lnd+https://h?macaroon_file={f}/empty", "not in hexadecimal digits"),
        ("cln+https://h?rune=r&cert=x&cert_file=/f", "both cert and cert_file"),
        ("cln+https://h?rune=r&cert_file={f}/nothing", "cert_file cannot be read"),
        ("cln+https://h?rune=r&cert_file={f}/key", "not in PEM"),
        ("cln+https://h?rune=r&cert={k}", "not in PEM"),
        ("cln+https://h?rune=r&cert=-----BEGIN CERTIFICATE-----{k}", "cannot be read"),
        ("cln+http://127.0.0.1?rune=r&cert_file={f}/tls.cert", "begins with http://"),
    ],
)
async def test_fault_says_what_to_do_and_shows_nothing(
    folder: Path, url: str, because: str
) -> None:
    said = await refusal(url.replace("{f}", str(folder)).replace("{k}", KEY))
    assert because in said
    assert KEY not in said
