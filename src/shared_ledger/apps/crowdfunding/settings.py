"""What of Satoshi Spark can be configured, by the environment or the file ``.env``."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class SparkSettings(BaseSettings):
    """Which Lightning node it has, and how its contexts talk to each other."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    lightning_node: SecretStr = SecretStr("")
    """The node's URL, see docs/lightning.md; empty: a simulated one, and none in production."""
    nats_url: SecretStr | None = None
    """Where the contexts' messages go from process to process; without it, through the database."""
    pay_timeout_s: float = Field(default=20, ge=1, le=600)
    """How long the node may look for a way for a payment before it is only followed."""
