"""One connection to Redis; nothing else knows the library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.connection import ConnectionInterface

from shared_ledger.errors import ConfigurationError

CONNECT_TIMEOUT_S = 0.05
CALL_TIMEOUT_S = 0.1

Command = Sequence[str | bytes | int]
"""The name of a command and its arguments."""


class Unusable(Exception):
    """Redis did not do what was asked, or nobody knows; the connection is closed."""


class Lost(Unusable):
    """The connection was closed by the other side."""


class Connection:
    """A connection to one run of Redis: when that ends, the connection does.

    Raises
    ------
    Unusable
        If Redis cannot be reached, does not let us in, or does not tell which run it is.
    """

    def __init__(self, connection: ConnectionInterface) -> None:
        self._connection: Any = connection  # the library types little of it
        (information,) = self.run([("INFO", "server")])
        found = re.search(rb"^run_id:(\w+)", information, re.MULTILINE)
        if found is None:
            self.close()
            raise Unusable("it does not tell its run_id")
        self.run_id = found[1].decode()

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands together and return their replies.

        Raises
        ------
        Unusable
            If any of them failed, or took too long.
        """
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response(disable_decoding=True) for _ in commands]
        except redis.ConnectionError as error:
            self.close()
            raise Lost(str(error)) from error
        except Exception as error:  # Nobody is to fail, or wait, for a cache.
            self.close()
            raise Unusable(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


def connector(url: str) -> Callable[[], Connection]:
    """Return what opens connections to this Redis.

    The URL may carry options of the library, ``?socket_timeout=0.5`` for instance, which go before
    our own.

    Raises
    ------
    ConfigurationError
        If an option is unknown or wrong.
    """
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            client_name="shared-ledger",
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            socket_keepalive=True,
            protocol=2,
        )
        pool.make_connection()  # which does not connect yet
    except (TypeError, ValueError, redis.RedisError) as error:
        raise ConfigurationError(f"the Redis URL cannot be used: {_reason(error)}") from None
    return lambda: Connection(pool.make_connection())


def _reason(error: Exception) -> str:
    """Tell what is wrong without repeating a value: it may be a password."""
    option = re.search(r"(?:argument|Invalid value for) '(\w+)'", str(error))
    return f"its option {option[1]!r} is unknown or wrong" if option else type(error).__name__
