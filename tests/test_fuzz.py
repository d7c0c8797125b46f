"""Every route of every service, asked by a program that has read its description.

Schemathesis sends what is described, what is not, and what the links lead to, and compares every
answer with the description. ``FUZZ_EXAMPLES=2000 pytest tests/test_fuzz.py`` looks for longer.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from pydantic import SecretStr

from builders import assert_sound, eventually, fund
from serving import OPERATOR, PASSWORD, SECRET_KEY, bearer, tokens
from shared_ledger import SHARED, Ledger, Posting
from shared_ledger.access.passwords import hash_password
from shared_ledger.access.store import AccessStore
from shared_ledger.apps.crowdfunding import CROWDFUNDING, SparkOperation
from shared_ledger.cli.options import load_services
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.migrations import migrate, migrate_application
from shared_ledger.schema import book_tables
from shared_ledger.service import create_app
from shared_ledger.service.server import listen
from shared_ledger.settings import Settings
from spark_served import simulate

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
SCHEMA = "book_of_the_fuzzer"
BESIDE = load_services(Settings())

# What every service has is tried at the root; below a service's own path only what it adds.
COMMON = "^/(ledger|balance|auth|admin|health|metrics)"

# All checks are on. What some of them cannot know of some routes is said here, and why.
CONFIGURATION = """
[generation]
# Whoever calls is said by the run: both kinds of credentials at once are refused.
with-security-parameters = false

[checks]
# Credits may be missing for what is described well.
positive_data_acceptance.expected-statuses = {accepted}

# JSON Schema takes 1.0 for an integer, and the ledger does not.
[phases.fuzzing.checks]
positive_data_acceptance.expected-statuses = {understood}
[phases.stateful.checks]
positive_data_acceptance.expected-statuses = {understood}

[[operations]]
include-operation-id = "post_batch"
[operations.checks]
positive_data_acceptance.expected-statuses = {understood}
# What is wrong with one posting is the result of that one: the batch is answered 200.
negative_data_rejection.enabled = false
# GET shows what the owner called "batch" has, by the description of another path.
allow_header_conformance.enabled = false

[[operations]]
include-operation-id = ["post_group", "post_transfer", "quote_entry", "place_hold"]
[operations.checks]
positive_data_acceptance.expected-statuses = {understood}
# As with an owner called "batch".
allow_header_conformance.enabled = false

# No schema says which amounts the rule of an operation allows, which operations an application has
# that is another field, or that "from" is before "to".
[[operations]]
include-operation-id = [
    "post_entry", "capture_hold", "reverse_entry", "create_key", "get_statement"
]
[operations.checks]
positive_data_acceptance.expected-statuses = {understood}

# No schema says when it is now, nor what an invoice is, or who made it.
[[operations]]
include-operation-id = ["begin_campaign", "withdraw", "pay_as_outsider"]
[operations.checks]
positive_data_acceptance.expected-statuses = {understood}

# Of a campaign that is open the answer has no end; how it is answered is in its own tests.
[[operations]]
include-operation-id = "follow_campaign"
enabled = false
"""
ACCEPTED = ["2xx", "401", "402", "403", "404", "409", "429"]
UNDERSTOOD = [*ACCEPTED, "422"]


class Asked(NamedTuple):
    """A service that runs: where, and who may ask it."""

    port: int
    callers: Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def asked(cluster: Cluster) -> Iterator[Asked]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        simulate(monkeypatch)
        yield from asked_on(cluster)


def asked_on(cluster: Cluster) -> Iterator[Asked]:
    engine = make_engine(cluster.url)
    migrate(engine, SCHEMA, [SHARED, *(service.application for service in BESIDE)])
    engine.dispose()
    for service in BESIDE:
        if service.migrations is not None:
            migrate_application(cluster.url, SCHEMA, service.migrations)
    # The users of the description's examples, one of them with credits, and an administrator.
    fund(cluster.url, SCHEMA, "user1", 10_000)
    with Ledger(CROWDFUNDING, cluster.url, schema=SCHEMA) as ledger:
        ledger.post(Posting(SparkOperation.DEPOSIT, "user1", "@deposit:1", 10**9))
    with AccessStore(cluster.url, book_tables(SCHEMA)) as store:
        for username in ("user1", "testuser"):
            store.add_user(username, hash_password(PASSWORD))
        store.add_user("ada", hash_password(PASSWORD), is_admin=True)
    settings = Settings(
        database_url=SecretStr(cluster.url),
        shared_ledger_schema=SCHEMA,
        environment="production",
        api_token=SecretStr(OPERATOR["x-token"]),
        secret_key=SecretStr(SECRET_KEY),
        sweep_interval_s=0.1,
        rate_limit_user="",
        rate_limit_service="",
        rate_limit_anonymous="",
    )
    app = create_app(SHARED, settings, beside=BESIDE)
    config = uvicorn.Config(app, http="httptools", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as port:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        eventually(lambda: server.started or not thread.is_alive())
        issue = tokens(lifetime_s=86_400).issue
        callers = {
            "nobody": {},
            "service": OPERATOR,
            "user": bearer(issue("user1")),
            "administrator": bearer(issue("ada")),
        }
        yield Asked(port.getsockname()[1], callers)
        server.should_exit = True
        thread.join()
    assert_sound(cluster.url, SCHEMA)


def fuzz(asked: Asked, folder: Path, path: str, who: str, *options: str) -> None:
    """Ask a service as somebody, and fail with all that was found."""
    own = path != ""
    # A service must say whose account it is, where a user need not.
    accepted = UNDERSTOOD if own and who == "service" else ACCEPTED
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(accepted=accepted, understood=UNDERSTOOD))
    headers = [f"--header={name}: {value}" for name, value in asked.callers[who].items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={configuration}", "run"),
            f"http://127.0.0.1:{asked.port}{path}/openapi.json",
            *headers,
            f"--max-examples={EXAMPLES}",
            "--continue-on-failure",
            "--request-timeout=60",
            "--generation-database=none",
            # How quickly it makes something up is not what is tested.
            "--suppress-health-check=all",
            "--no-color",
            *([f"--exclude-path-regex={COMMON}"] if own else []),
            *options,
        ],
        cwd=folder,
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# What Unicode can print no pattern can say: beyond ASCII some of what is described is refused.
ASCII = "--generation-codec=ascii"
RUNS = [
    ("", "service", ASCII),
    ("", "user", "--phases=coverage,fuzzing"),
    ("", "administrator", "--include-path-regex=^/admin|^/balance"),
    ("", "nobody", "--phases=examples"),
]
for _service in BESIDE:
    RUNS += [(_service.path, "service", ASCII), (_service.path, "user", ASCII)]


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * EXAMPLES)
@pytest.mark.parametrize(("path", "who", "options"), RUNS)
def test_every_answer_is_one_that_is_described(  # noqa: PLR0917  # fixtures
    asked: Asked,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    path: str,
    who: str,
    options: str,
) -> None:
    fuzz(asked, tmp_path, path, who, options)
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not failures, caplog.text
