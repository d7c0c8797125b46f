"""The configuration: what is read, and the one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_ledger.errors import ConfigurationError
from shared_ledger.settings import DEVELOPMENT_TOKEN, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "DB_HOST", "API_TOKEN", "ENVIRONMENT", "PORT", "HOST"):
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


@pytest.mark.parametrize("token", [None, DEVELOPMENT_TOKEN, "short"])
def test_production_refuses_a_default_or_short_secret(
    monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    if token is not None:
        monkeypatch.setenv("API_TOKEN", token)
    with pytest.raises(ConfigurationError, match="API_TOKEN must be set"):
        load_settings()


def test_production_takes_a_secret_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("API_TOKEN", "a-secret-of-its-own-0123")
    settings = load_settings()
    assert settings.environment == "production"
    assert "a-secret" not in repr(settings)
