"""What each listener holds at present: read where it listens, added up over the processes that share its port."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Level(NamedTuple):
    """Of one listener, in one process or in all; None is what nobody tells."""

    requests: int | None = None
    request_bytes: int | None = None
    connections: int | None = None

    def __add__(self, other: object) -> "Level":
        if not isinstance(other, Level):
            return NotImplemented
        return Level(*(_sum(one, another) for one, another in zip(self, other, strict=True)))


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


class Levels:
    """The listeners of this process, and what other processes said of theirs."""

    def __init__(self) -> None:
        self._read: dict[str, list[Callable[[], Level]]] = {}
        self._elsewhere: dict[int, Mapping[str, Level]] = {}

    def watch(self, listener: str, read: Callable[[], Level]) -> None:
        """Ask this from now on; what several say of one listener is added up."""
        self._read.setdefault(listener, []).append(read)

    def told(self, worker: int, levels: Mapping[str, Level]) -> None:
        """What another process has said last; nothing once it has ended."""
        self._elsewhere[worker] = levels

    def own(self) -> dict[str, Level]:
        """Of this process, by listener."""
        return {listener: sum((read() for read in reads), Level()) for listener, reads in self._read.items()}

    def all(self) -> dict[str, Level]:
        """Of all processes, by listener."""
        found = self.own()
        for levels in self._elsewhere.values():
            for listener, level in levels.items():
                found[listener] = found.get(listener, Level()) + level
        return found
