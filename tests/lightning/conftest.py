"""Real nodes, started once for the run, and ended with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lightning.lnbits_server import FAKE_WALLET, LnbitsServer, over
from lightning.lnd import Hold
from lightning.network import Network
from lightning.programs import CannotBeMade, NoPythonForIt, lightning_programs, lnbits_python

LOG_LINES = 40
LOGS = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the time that a test may take begin after its fixtures: the first builds the nodes."""
    for item in items:
        item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the nodes said last, and where all of it is."""
    report = yield
    if report.failed and LOGS in item.config.stash:
        for log in sorted(item.config.stash[LOGS].glob("*/*.log")):
            last = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((str(log), "\n".join(last)))
    return report


@pytest.fixture(scope="session")
def announce(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Tell whoever watches what he waits for."""
    reporter: Any = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture: Any = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def announce(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(text)

    return announce


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Where the nodes keep their data and logs; pytest keeps those of the last three runs."""
    folder = tmp_path_factory.mktemp("nodes")
    pytestconfig.stash[LOGS] = folder
    return folder


@pytest.fixture(scope="session")
def programs(announce: Callable[[str], None]) -> Path:
    """The folder with btcd and lnd."""
    return _had(lightning_programs, announce)


@pytest.fixture(scope="session")
def python_with_lnbits(announce: Callable[[str], None]) -> Path:
    """The Python of an environment with LNbits."""
    return _had(lnbits_python, announce)


@pytest.fixture(scope="session")
def network(folder: Path, programs: Path) -> Iterator[Network]:
    """The nodes alice, bob and carol, joined by channels. Who stops one starts it again."""
    with _running(Network(folder, programs)) as network:
        yield network


@pytest.fixture
def hold(network: Network) -> Iterator[Hold]:
    """An invoice of bob's whose payment stays in flight. Nothing is in flight after the test."""
    hold = Hold(network.bob)
    yield hold
    if network.bob.invoice_state(hold.payment_hash) != "SETTLED":
        hold.cancel()


@pytest.fixture(scope="session")
def lnbits(folder: Path, python_with_lnbits: Path) -> Iterator[LnbitsServer]:
    """An LNbits whose wallets can pay each other."""
    with _running(LnbitsServer(python_with_lnbits, folder / "lnbits", FAKE_WALLET)) as server:
        yield server


@pytest.fixture(scope="session")
def lnbits_over_carol(
    network: Network, folder: Path, python_with_lnbits: Path
) -> Iterator[LnbitsServer]:
    """An LNbits that stands on carol's node. Who stops it starts it again."""
    place = folder / "lnbits-over-carol"
    with _running(LnbitsServer(python_with_lnbits, place, over(network.carol))) as server:
        yield server


Runs = TypeVar("Runs", Network, LnbitsServer)


@contextmanager
def _running(what: Runs) -> Iterator[Runs]:
    try:
        what.start()
        yield what
    finally:
        what.stop()


def _had(make: Callable[[Callable[[str], None]], Path], announce: Callable[[str], None]) -> Path:
    """Return what is made, or skip the tests that need it; where it must be there, they fail."""
    try:
        return make(announce)
    except CannotBeMade as error:
        reason = error
    # That LNbits does not run on some Python is nothing that whoever requires it could mend.
    if os.environ.get("SHARED_LEDGER_REQUIRE_LIGHTNING") and not isinstance(reason, NoPythonForIt):
        pytest.fail(f"{reason}\n{reason.output}", pytrace=False)
    announce(f"skipping: {reason}")
    pytest.skip(str(reason))
