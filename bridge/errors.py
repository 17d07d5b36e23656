"""One error tree. Its branches say what the one who meets an error may do about it.

BridgeError
  ConfigError       the user's settings are wrong; nothing was started
  PermanentError    the same input will fail again: refuse it, count it, do not retry
    InvalidData     bytes that cannot be read; says where and why
    TooLarge        over a limit that is a setting
  RetryableError    the same input may succeed later
    Throttled       asked to slow down; `retry_after_s` says for how long
    StoreUnavailable  nothing can be committed at present
  StoreDamaged      a file of the store is broken: a new start goes on with what can be read of it
"""


class BridgeError(Exception):
    """Root of every error the bridge raises on purpose."""


class ConfigError(BridgeError):
    """Settings that cannot be used.

    The text names the path of the key, its value, what is allowed and, where there is one, the nearest known key.
    """


class PermanentError(BridgeError):
    """Will fail again however often it is tried."""


class InvalidData(PermanentError):
    """Bytes that are not what their sender says they are. The text says what is wrong and where."""


class TooLarge(PermanentError):
    """Over a size limit. The text names the limit's setting and its value."""


class RetryableError(BridgeError):
    """May succeed when tried again."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Throttled(RetryableError):
    """The receiver of data asks its sender to slow down.

    `reason` is a label with few values: "throttled" (too much is waiting already), "memory" (it is at
    `memory_limit`), "quota" and "disk" (the store has no room).
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, reason: str = "throttled") -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class StoreUnavailable(RetryableError):
    """The store cannot commit at present (disk full, locked, closing)."""


class StoreDamaged(BridgeError):
    """A file of the store is not what was written. What can be read is saved when the store is closed."""
