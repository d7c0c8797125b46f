"""The configuration: what is read, and the one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_ledger.errors import ConfigurationError
from shared_ledger.settings import DEVELOPMENT_SECRET_KEY, DEVELOPMENT_TOKEN, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        *("DATABASE_URL", "DB_HOST", "API_TOKEN", "ENVIRONMENT", "PORT", "HOST"),
        *("SECRET_KEY", "SECRET_KEY_PREVIOUS", "TOKEN_LIFETIME_S"),
        *("REDIS_URL", "CACHE_TTL_S"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_a_word_it_is_an_embedded_database_in_development() -> None:
    settings = load_settings()
    assert (settings.url, settings.environment, settings.port) == (None, "development", 8000)


def test_an_empty_url_is_the_embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert load_settings().url is None


def test_the_parts_of_a_url_are_put_together_and_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DB_HOST": "db",
        "DB_NAME": "books",
        "DB_USER": "led:ger",
        "DB_PASSWORD": "p@ss/word",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings().url == "postgresql://led%3Ager:p%40ss%2Fword@db:5432/books"


@pytest.mark.parametrize(
    ("url", "cache"),
    [
        ("", None),
        ("redis://:p%40ss@redis:6380/1", "redis://:p%40ss@redis:6380/1"),
        ("rediss://redis", "rediss://redis"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_balances_are_kept_where_redis_url_says(
    monkeypatch: pytest.MonkeyPatch, url: str, cache: str | None
) -> None:
    assert (load_settings().cache_url, load_settings().cache_ttl_s) == (None, 5)
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("CACHE_TTL_S", "0.5")
    assert (load_settings().cache_url, load_settings().cache_ttl_s) == (cache, 0.5)
    assert "p%40ss" not in repr(load_settings())


def test_a_file_named_env_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9001\n")
    assert load_settings().port == 9001


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DATABASE_URL", "mysql://root:hunter2@db/x", "DATABASE_URL: the database URL is not one"),
        ("DATABASE_URL", "hunter2", "DATABASE_URL: the database URL is not one"),
        ("PORT", "http", "PORT: Input should be a valid integer"),
        ("PORT", "70000", "PORT: is a number from 0 to 65535"),
        ("ENVIRONMENT", "prod", "ENVIRONMENT: Input should be 'development' or 'production'"),
        ("SHARED_LEDGER_SCHEMA", "a; drop", "SHARED_LEDGER_SCHEMA: the schema 'a; drop' is not"),
        ("API_TOKEN", "", "API_TOKEN is empty"),
        ("TOKEN_LIFETIME_S", "0", "TOKEN_LIFETIME_S: is a number of seconds from 1 to 86400"),
        ("REDIS_URL", "hunter2", "REDIS_URL: the Redis URL is not one of Redis: it begins with"),
        ("REDIS_URL", "http://:hunter2@redis", "REDIS_URL: the Redis URL is not one of Redis"),
        ("REDIS_URL", "redis://:hunter2@redis:x", "REDIS_URL: the Redis URL is not one of Redis"),
        ("REDIS_URL", "unix://", "REDIS_URL: the Redis URL is not one of Redis"),
        ("CACHE_TTL_S", "0", "CACHE_TTL_S: a cache keeps a balance for more than 0 to 3600"),
        ("CACHE_TTL_S", "3601", "CACHE_TTL_S: a cache keeps a balance for more than 0 to 3600"),
        ("CACHE_TTL_S", "nan", "CACHE_TTL_S: a cache keeps a balance for more than 0 to 3600"),
        ("SHUTDOWN_DELAY_S", "-1", "SHUTDOWN_DELAY_S: is a number of seconds from 0 to 300"),
    ],
)
def test_a_wrong_value_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


GOOD = {
    "API_TOKEN": "a-secret-of-its-own-0123",
    "SECRET_KEY": "a-signing-key-of-its-own-0123456789",
    "SECRET_KEY_PREVIOUS": "the-signing-key-of-before-0123456789",
}


@pytest.mark.parametrize(
    ("name", "secret", "sentence"),
    [
        ("API_TOKEN", DEVELOPMENT_TOKEN, "API_TOKEN must be left out, or set"),
        ("API_TOKEN", "fifteen-letters", "API_TOKEN must be left out, or set"),
        ("API_TOKEN", GOOD["SECRET_KEY"], "API_TOKEN and SECRET_KEY must be two secrets"),
        ("SECRET_KEY", None, "SECRET_KEY must be set"),
        ("SECRET_KEY", "", "SECRET_KEY must be set"),
        ("SECRET_KEY", DEVELOPMENT_SECRET_KEY, "SECRET_KEY must be set"),
        ("SECRET_KEY", "x" * 31, "SECRET_KEY must be set"),
        ("SECRET_KEY_PREVIOUS", DEVELOPMENT_SECRET_KEY, "SECRET_KEY_PREVIOUS must be set"),
        ("SECRET_KEY_PREVIOUS", "x" * 31, "SECRET_KEY_PREVIOUS must be set"),
    ],
)
def test_production_refuses_a_default_or_short_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, secret: str | None, sentence: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    for other, value in (GOOD | {name: secret}).items():
        if value is not None:
            monkeypatch.setenv(other, value)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert not secret or secret not in str(caught.value)


def test_production_takes_secrets_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.environment == "production"
    for secret in GOOD.values():
        assert secret not in repr(settings)


@pytest.mark.parametrize("token", [None, ""])
def test_production_has_no_key_of_the_configuration_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECRET_KEY", GOOD["SECRET_KEY"])
    if token is not None:
        monkeypatch.setenv("API_TOKEN", token)
    assert load_settings().api_token.get_secret_value() == ""


def test_development_signs_with_a_key_that_survives_a_restart() -> None:
    assert load_settings().secret_key == load_settings().secret_key
    assert load_settings().secret_key.get_secret_value() == DEVELOPMENT_SECRET_KEY
