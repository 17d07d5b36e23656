"""What a machine has to say about settings that are right by themselves: ports, folders, and who answers at backends.

Nothing is kept or changed: a port is bound and let go of, the store is read as it lies there, a backend is sent a
request without spans. Each problem names the setting, what is in the way, and what to do about it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge.cli.surroundings.backends import unreachable
from bridge.cli.surroundings.folders import files_in_the_way, store_in_the_way
from bridge.cli.surroundings.ports import ports_in_the_way
from bridge.config import Loaded
from bridge.config.problems import Problem
from bridge.store.examining import owner_of

__all__ = ["Surroundings", "look_around"]


@dataclass
class Surroundings:
    """What was found."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is as it should be, but may surprise."""


def look_around(loaded: Loaded, *, connect: bool) -> Surroundings:
    """See whether a bridge with these settings could start here and, with `connect`, deliver."""
    settings, found = loaded.settings, Surroundings()
    owner = owner_of(settings.ebpftrace.db_path)
    busy, held = ports_in_the_way(settings, loaded.origins, owner)
    found.problems += busy
    if owner and held:
        found.notes.append(
            f"a bridge with these settings runs already (pid {owner}); its ports and its store were not looked at"
        )
    else:
        found.problems += store_in_the_way(settings, loaded.origins, owner)
    found.problems += files_in_the_way(settings, loaded.origins)
    if connect:
        found.problems += _sorted(unreachable(settings, loaded.origins))
    return found


def _sorted(problems: Iterator[Problem]) -> list[Problem]:
    return sorted(problems, key=str)
