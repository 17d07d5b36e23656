"""How a setting is called where something is said about it."""

import re
from collections.abc import Mapping

from bridge.config.catalogue import dotted
from bridge.config.problems import Path, named

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")


def name_of(path: Path, origins: Mapping[str, str]) -> str:
    """The path of a setting, behind the name of the variable that its value came from, if it did."""
    origin = origins.get(dotted(path), "")
    return named(path, {path: origin} if _VARIABLE.fullmatch(origin) else {})
