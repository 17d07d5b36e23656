"""From a file and the environment to settings."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from bridge.config.attribute_checks import unkeyed_hashes
from bridge.config.catalogue import dotted
from bridge.config.checks import check, missing_exporters
from bridge.config.datakit import Datakit, destination
from bridge.config.environment import Environment
from bridge.config.exporters import DatawayExporterSettings
from bridge.config.problems import Problem, path_of, problems_of, report
from bridge.config.settings import Settings
from bridge.config.tls_checks import open_listeners
from bridge.config.toml_file import read_toml
from bridge.errors import ConfigError

FROM_FILE, FROM_DEFAULT = "file", "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each came from, and what is odd about them."""

    settings: Settings
    origins: Mapping[str, str]
    """By the path of each key that was set: "file" (of several: its path), the name of an environment variable, or of
    the key in DataKit's own settings. The rest are defaults."""
    warnings: tuple[str, ...]
    exposed: tuple[str, ...]
    """A text for each listener that is open to others without TLS, or without asking who they are."""


def load(files: Path | Sequence[Path] | None, environ: Mapping[str, str]) -> Loaded:
    """Settings from TOML files, if there are any, and the environment.

    Of several files a later one overrides an earlier one, key by key. Files may be DataKit's own.
    Raises ConfigError that names every mistake at once: key, value, what is allowed and what was probably meant.
    """
    paths = [files] if isinstance(files, Path) else list(files or ())
    raw: dict[str, Any] = {}
    origins: dict[str, str] = {}
    datakit = Datakit()
    for path in paths:
        found_there = read_toml(path)
        datakit.take_from(found_there, path.name)
        origins |= {dotted(leaf): FROM_FILE if len(paths) == 1 else str(path) for leaf in _leaves(found_there)}
        _merge(raw, found_there)
    environment = Environment(raw, environ)
    environment.apply(datakit)
    settings, found = _validated(raw, environment.variables)
    found += [*environment.problems, *missing_exporters(raw)]
    if found:
        name = ", ".join(map(str, paths)) or "the settings"
        raise ConfigError(report(found, f"{name} cannot be used"))
    origins |= {dotted(key): name for key, name in environment.variables.items()}
    warnings = (*environment.warnings, *_odd(settings, origins))
    return Loaded(settings, MappingProxyType(origins), warnings, tuple(open_listeners(settings)))


def _merge(raw: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Put the later file's keys over the earlier ones'; two arrays of one table each are merged like tables."""
    for key, value in later.items():
        one, other = raw.get(key), value
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) == 1:
            one, other = one[0], other[0]
        if isinstance(one, dict) and isinstance(other, dict):
            _merge(one, other)
        else:
            raw[key] = value


def _validated(raw: dict[str, Any], variables: Mapping[tuple[str, ...], str]) -> tuple[Settings, list[Problem]]:
    """The settings and what is wrong with them.

    Where values are wrong, combinations are checked all the same, with the wrong values left out: what they say
    about those is not told.
    """
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        found = problems_of(error, raw, variables)
        sound = _without(raw, error)
        about = {path for problem in found for path in problem.about}
        return sound, found + [
            p for p in check(sound, variables) if not any(_touch(a, b) for a in p.about for b in about)
        ]
    return settings, list(check(settings, variables))


def _without(raw: dict[str, Any], error: ValidationError) -> Settings:
    """The settings without what the error is about."""
    rest = copy.deepcopy(raw)
    for details in error.errors(include_url=False, include_input=False):
        path = path_of(details["loc"])
        # an exporter with one wrong key is left out as a whole: what it lacks then has no default
        _remove(rest, path[:2] if path[:1] == ("exporters",) else path)
    try:
        return Settings.model_validate(rest)
    except ValidationError:
        return Settings()


def _remove(raw: dict[str, Any], path: tuple[str, ...]) -> None:
    table: Any = raw
    for key in path[:-1]:
        table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, list):
            table = table[0]
    if isinstance(table, dict):
        table.pop(path[-1], None)


def _touch(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _leaves(raw: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in raw.items():
        inner = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else value
        if isinstance(inner, dict):
            yield from _leaves(inner, (*path, key))
        else:
            yield (*path, key)


def _odd(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    if settings.ebpftrace.sqlite_path is not None:
        variable = origins.get("inputs.ebpftrace.sqlite_path", FROM_FILE)
        where = "" if variable == FROM_FILE else f" ({variable})"
        yield (
            f"inputs.ebpftrace.sqlite_path{where} is deprecated and ignored; the store lies in "
            f"inputs.ebpftrace.db_path = {settings.ebpftrace.db_path}"
        )
    for name, exporter in settings.exporters.items():
        if isinstance(exporter, DatawayExporterSettings) and not destination(exporter.address)[1]:
            yield f"exporters.{name}.url has no token: a Dataway takes https://HOST?token=TOKEN"
    yield from unkeyed_hashes(settings.attributes)
