"""The configuration of the service and the command line: the environment, and a file ``.env``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared_ledger.cache import checked_redis_url, checked_ttl
from shared_ledger.connections import libpq_url
from shared_ledger.errors import ConfigurationError
from shared_ledger.schema import DEFAULT_SCHEMA, checked_schema

DEVELOPMENT_TOKEN = "secret-token"  # noqa: S105  # Known to everybody, and refused in production.
MIN_TOKEN_LENGTH = 16
# The same: what it signs is worth nothing. A fixed one, so that a restart ends nobody's session.
DEVELOPMENT_SECRET_KEY = "development-only-and-known-to-everybody"  # noqa: S105
MIN_SECRET_KEY_LENGTH = 32
MAX_TOKEN_LIFETIME_S = 86_400
MAX_PORT = 65535
MAX_SWEEP_INTERVAL_S = 86_400
MAX_SHUTDOWN_DELAY_S = 300
LEVELS = ("debug", "info", "warning", "error", "critical")

# A name and a password in it would be shown wherever the address is.
_ENDPOINT = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?")
_PART = re.compile(r"[A-Za-z_][\w.]*")

T = TypeVar("T", str, float)
SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class Settings(BaseSettings):
    """Where the book is, and how it is served. Each field is the environment variable of its name.

    ``DATABASE_URL`` (or the five ``DB_…``) names the database; without it an embedded PostgreSQL
    keeps its files in ``SHARED_LEDGER_DATA``.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    database_url: SecretStr | None = None
    db_host: str | None = None
    db_port: int = 5432
    db_name: str = "postgres"
    db_user: str = "postgres"
    db_password: SecretStr = SecretStr("")
    shared_ledger_data: Path = Path("data")
    shared_ledger_schema: str = DEFAULT_SCHEMA

    shared_ledger_services: str = (
        "shared_ledger.apps.content:SERVICE,shared_ledger.apps.ecommerce:SERVICE,"
        "shared_ledger.apps.crowdfunding:SERVICE"
    )
    """What is served below /api/v1/, each as MODULE:NAME, separated by commas; may be empty."""
    shared_ledger_contexts: str = ""
    """Which contexts of a service run in this process, separated by commas; empty: all."""

    environment: Literal["development", "production"] = "development"
    api_token: SecretStr = SecretStr(DEVELOPMENT_TOKEN)
    """A key that may do everything; in production there is none unless it is set."""
    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET_KEY)
    """Signs the tokens of users."""
    secret_key_previous: SecretStr = SecretStr("")
    """What signed them before: still accepted, so that a new key ends nobody's session."""
    token_lifetime_s: int = 1_800
    host: str = "127.0.0.1"
    port: int = 8000
    forwarded_allow_ips: str = ""
    """Proxies, by their addresses or networks: only they are believed who the client is."""
    sweep_interval_s: float = 60
    """How often what has expired is booked of accounts that nobody touches; 0 is never."""
    rate_limit_user: str = "600/minute"
    """How often a user may ask one route, as ``limits`` writes it; empty is without end."""
    rate_limit_service: str = "100000/second"
    """The same of a service: it stops one that runs away."""
    rate_limit_anonymous: str = "120/minute"
    """The same of a network that has no credentials, or wrong ones."""
    shutdown_delay_s: float = 0
    """How long a process that is told to end says so in its readiness, and goes on answering."""
    redis_url: SecretStr | None = None
    """Where balances are kept, so that PostgreSQL is asked less often, and rate limits counted."""
    cache_ttl_s: float = 5
    """For how many seconds a balance is kept at most."""
    log_format: Literal["", "console", "json"] = ""
    """How a line of the log is written; empty: ``json`` in production, else ``console``."""
    log_level: str = "info"
    """What is logged at least: debug, info, warning, error or critical."""
    log_levels: str = ""
    """The same of parts, as ``shared_ledger.messages=debug,uvicorn=warning``."""
    otel_exporter_otlp_endpoint: str = ""
    """Where traces go, as OpenTelemetry has it; empty: nowhere."""

    @property
    def url(self) -> str | None:
        """The database's URL; ``None`` is the embedded PostgreSQL. It may hold a password."""
        if self.database_url is not None and self.database_url.get_secret_value():
            return self.database_url.get_secret_value()
        if not self.db_host:
            return None
        user = quote(self.db_user, safe="")
        password = quote(self.db_password.get_secret_value(), safe="")
        name = quote(self.db_name, safe="")
        return f"postgresql://{user}:{password}@{self.db_host}:{self.db_port}/{name}"

    @property
    def cache_url(self) -> str | None:
        """The URL of Redis, if there is one. It may hold a password."""
        return self.redis_url.get_secret_value() or None if self.redis_url else None

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            _sentence(libpq_url, url.get_secret_value())
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value():
            _sentence(checked_redis_url, url.get_secret_value())
        return url

    @field_validator("cache_ttl_s")
    @classmethod
    def _is_ttl(cls, seconds: float) -> float:
        _sentence(checked_ttl, seconds)
        return seconds

    @field_validator("shared_ledger_schema")
    @classmethod
    def _is_schema(cls, name: str) -> str:
        _sentence(checked_schema, name)
        return name

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, name: str) -> str:
        return _level(name)

    @field_validator("log_levels")
    @classmethod
    def _are_levels(cls, levels: str) -> str:
        levels_of(levels)
        return levels

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _is_endpoint(cls, url: str) -> str:
        if url and not _ENDPOINT.fullmatch(url):
            raise ValueError("is an address without a password, such as http://localhost:4318")
        return url

    @field_validator("port", "db_port")
    @classmethod
    def _is_port(cls, port: int) -> int:
        if not 0 <= port <= MAX_PORT:
            raise ValueError("is a number from 0 to 65535")
        return port

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_proxies(cls, names: str) -> str:
        try:
            for name in names.split(",") if names else ():
                ipaddress.ip_network(name.strip())
        except ValueError:
            raise ValueError(
                "is a list of addresses and networks, such as 10.0.0.7,192.168.1.0/24"
            ) from None
        return names

    @field_validator("sweep_interval_s")
    @classmethod
    def _is_interval(cls, seconds: float) -> float:
        if not 0 <= seconds <= MAX_SWEEP_INTERVAL_S:
            raise ValueError(f"is a number of seconds from 0 to {MAX_SWEEP_INTERVAL_S}")
        return seconds

    @field_validator("shutdown_delay_s")
    @classmethod
    def _is_delay(cls, seconds: float) -> float:
        if not 0 <= seconds <= MAX_SHUTDOWN_DELAY_S:
            raise ValueError(f"is a number of seconds from 0 to {MAX_SHUTDOWN_DELAY_S}")
        return seconds

    @field_validator("token_lifetime_s")
    @classmethod
    def _is_lifetime(cls, seconds: int) -> int:
        if not 1 <= seconds <= MAX_TOKEN_LIFETIME_S:
            raise ValueError(f"is a number of seconds from 1 to {MAX_TOKEN_LIFETIME_S}")
        return seconds

    @model_validator(mode="after")
    def _no_default_secret_in_production(self) -> Settings:
        if self.environment == "production":
            self._check_secrets()
        else:
            if not self.api_token.get_secret_value():
                raise ValueError("API_TOKEN is empty")
            if not self.secret_key.get_secret_value():
                self.secret_key = SecretStr(DEVELOPMENT_SECRET_KEY)
        return self

    def _check_secrets(self) -> None:
        """Raise for every secret that is too short, or known to everybody; no token is none."""
        if "api_token" not in self.model_fields_set:
            self.api_token = SecretStr("")
        token = self.api_token.get_secret_value()
        problems = []
        if token and (token == DEVELOPMENT_TOKEN or len(token) < MIN_TOKEN_LENGTH):
            problems.append(
                "API_TOKEN must be left out, or set to a secret of at least "
                f"{MIN_TOKEN_LENGTH} characters, in production"
            )
        key = self.secret_key.get_secret_value()
        previous = self.secret_key_previous.get_secret_value()
        for name, secret, needed in (
            ("SECRET_KEY", key, True),
            ("SECRET_KEY_PREVIOUS", previous, False),
        ):
            if (needed or secret) and (
                secret in (DEVELOPMENT_SECRET_KEY, DEVELOPMENT_TOKEN)
                or len(secret) < MIN_SECRET_KEY_LENGTH
            ):
                problems.append(
                    f"{name} must be set to a secret of at least {MIN_SECRET_KEY_LENGTH} "
                    "characters in production"
                )
        if token and token in (key, previous):
            problems.append("API_TOKEN and SECRET_KEY must be two secrets")
        if problems:
            raise ValueError("; ".join(problems))


def levels_of(levels: str) -> dict[str, str]:
    """Read what ``log_levels`` says: of each part the least level that is logged.

    Raises
    ------
    ValueError
        If it says none.
    """
    found: dict[str, str] = {}
    for said in filter(None, map(str.strip, levels.split(","))):
        part, equals, level = said.partition("=")
        if not equals or not _PART.fullmatch(part):
            raise ValueError(f"is PART=LEVEL, separated by commas, and not {said!r}")
        found[part] = _level(level)
    return found


def _level(name: str) -> str:
    if name.lower() not in LEVELS:
        raise ValueError(f"{name!r} is none of {', '.join(LEVELS)}")
    return name.lower()


def _sentence(check: Callable[[T], object], value: T) -> None:
    """Run one of the library's checks, whose errors pydantic does not know."""
    try:
        check(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def load_settings() -> Settings:
    """Read the settings.

    Raises
    ------
    ConfigurationError
        One line that names every variable that is wrong, and shows no secret.
    """
    return load(Settings)


def load(kind: type[SettingsT]) -> SettingsT:
    """Read settings of a kind; raises as ``load_settings``."""
    try:
        return kind()
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part).upper() for part in problem["loc"])
            sentence = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {sentence}" if name else sentence)
        raise ConfigurationError("; ".join(problems)) from None
