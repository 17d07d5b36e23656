"""DataKit's own settings, from datakit.conf and the environment of its manifests, put into the bridge's.

What is read: `[dataway]`, `[global_host_tags]`, where HTTP listens, and the variables named here. The rest of a
datakit.conf, and DataKit's other variables, are ignored and named in one warning each. Variables come before files.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs

from bridge.config.catalogue import keys_of
from bridge.config.fields import MASK
from bridge.config.host_tags import read_tags, used_variables
from bridge.config.problems import Path, Problem, shown
from bridge.config.settings import Settings
from bridge.config.units import TRUTH, Unreadable, parse_truth

DATAWAY = "ENV_DATAWAY"
HTTP_LISTEN = "ENV_HTTP_LISTEN"
NEIGHBOURS = ("HOST_IP", "POD_NAME")
"""Variables of DataKit's manifests without its prefix."""
DATAKIT_KEYS = frozenset({"dataway", "global_host_tags", "global_tags", "http_api", "http_listen"})
"""Keys of a datakit.conf that are read."""
LISTEN = ("receivers", "datakit")
_HOST = re.compile(r"[^/?#]+")
_OWN_PORTS = {"http": ":80", "https": ":443"}


def _truth(text: str) -> bool:
    try:
        return parse_truth(text)
    except Unreadable as exc:
        raise ValueError(f"{exc.reason}; allowed: {TRUTH}") from exc


def _form(text: str) -> str:
    forms = {"v1": "line_protocol", "v2": "protobuf"}
    if text not in forms:
        raise ValueError('allowed: "v1" (line protocol) or "v2" (protobuf)')
    return forms[text]


def _compression(gzip: bool) -> str:
    return "gzip" if gzip else "none"


def _size(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a Dataway, as variable, as key of [dataway], and as key of our exporter."""

    variable: str
    """What follows ENV_DATAWAY_."""
    keys: tuple[str, ...]
    path: Path
    read: Callable[[str], Any] = str
    """Makes a value of a variable's text; raises ValueError with what is allowed."""
    take: Callable[[Any], Any] = lambda value: value
    """Makes a value of what the file holds."""


OPTIONS = (
    Option("TIMEOUT", ("timeout_v2", "timeout"), ("timeout",)),
    Option("RETRY_DELAY", ("retry_delay",), ("retry", "initial")),
    Option("MAX_RAW_BODY_SIZE", ("max_raw_body_size",), ("max_batch_bytes",), _size),
    Option("CONTENT_ENCODING", ("content_encoding",), ("format",), _form, lambda v: _form(str(v))),
    Option("DISABLE_GZIP", (), ("compression",), lambda t: _compression(not _truth(t))),
    Option("", ("gzip",), ("compression",), str, lambda v: _compression(v is True)),
    Option("HTTP_PROXY", ("http_proxy",), ("proxy",)),
    Option("TLS_INSECURE", ("insecure_skip_verify", "tls_insecure"), ("tls", "insecure_skip_verify"), _truth),
    Option("ENABLE_SINKER", ("enable_sinker",), ("sinker",), _truth),
)
VARIABLES = (DATAWAY, HTTP_LISTEN, *(f"{DATAWAY}_{o.variable}" for o in OPTIONS if o.variable))
"""What is read besides ENV_INPUT_EBPFTRACE_*."""


@dataclass(slots=True)
class Datakit:
    """What DataKit's settings say, from files first; `apply` adds the environment and puts all of it in place."""

    urls: list[str] = field(default_factory=list)
    values: dict[Path, tuple[Any, str]] = field(default_factory=dict)
    """Settings of Dataway exporters and where each is from, by their path in the exporter."""
    tags: dict[str, str] = field(default_factory=dict)
    listen: tuple[str, str] | None = None
    """Where to listen, and who says so."""
    wanted: str = ""
    """Why DataKit agents are to be received; "" where nothing says so."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    variables: dict[Path, str] = field(default_factory=dict)
    """Where each value that was put in place came from, by path."""

    # -- files

    def take_from(self, raw: dict[str, Any], source: str) -> None:
        """Take DataKit's tables out of what a file holds, and the rest too where it is a datakit.conf."""
        own = keys_of(Settings).keys() & raw.keys()
        taken = {key: raw.pop(key) for key in DATAKIT_KEYS & raw.keys()}
        if taken and own <= {"inputs"}:
            ignored = [key for key in raw if key != "inputs"]
            for key in ignored:
                del raw[key]
            inputs = raw.get("inputs")
            if isinstance(inputs, dict):
                ignored += [f"inputs.{key}" for key in list(inputs) if key != "ebpftrace"]
                raw["inputs"] = {key: value for key, value in inputs.items() if key == "ebpftrace"}
                if not raw["inputs"]:
                    del raw["inputs"]
            if ignored:
                self.warnings.append(
                    f"{source} is a datakit.conf: its dataway, global tags and HTTP address are used, the rest is "
                    f"ignored ({', '.join(sorted(ignored))})"
                )
        if taken or own == {"inputs"}:
            self.wanted = self.wanted or source
        self._take_dataway(taken.get("dataway", {}), source)
        self._take_tags(taken)
        self._take_listen(taken)

    def _take_dataway(self, table: object, source: str) -> None:
        if not isinstance(table, dict):
            value = MASK if isinstance(table, str) else shown(table)
            self.problems.append(Problem("dataway", f" = {value}: must be a table, written [dataway]"))
            return
        urls = table.pop("urls", [])
        if isinstance(urls, list) and all(isinstance(url, str) for url in urls):
            self.urls = [url.strip() for url in urls if url.strip()] or self.urls
        else:
            self.problems.append(Problem("dataway.urls", f" = {MASK}: allowed: an array of https://HOST?token=TOKEN"))
        for option in OPTIONS:
            for key in option.keys:
                if key in table:
                    self._take_option(option, key, table.pop(key))
        if table:
            self.warnings.append(f"{source}: keys of [dataway] that are not used: {', '.join(sorted(table))}")

    def _take_option(self, option: Option, key: str, value: Any) -> None:
        if value == "":
            return
        try:
            self.values[option.path] = (option.take(value), f"dataway.{key}")
        except ValueError as exc:
            self.problems.append(Problem(f"dataway.{key}", f" = {shown(value)}: {exc}"))

    def _take_tags(self, taken: Mapping[str, Any]) -> None:
        for key in ("global_tags", "global_host_tags"):
            table = taken.get(key, {})
            if isinstance(table, dict):
                self.tags |= {name: str(value) for name, value in table.items()}
            else:
                self.problems.append(Problem(key, f" = {shown(table)}: must be a table, written [{key}]"))

    def _take_listen(self, taken: Mapping[str, Any]) -> None:
        api = taken.get("http_api", {})
        for name, value in (
            ("http_listen", taken.get("http_listen")),
            ("http_api.listen", api.get("listen") if isinstance(api, dict) else None),
        ):
            if value:
                self.listen = (str(value), name)

    # -- environment

    def apply(self, raw: dict[str, Any], environ: Mapping[str, str], known: Sequence[str]) -> None:
        """Read the environment and change `raw` in place. `known`: prefixes of variables that others read."""
        told = {name: value.strip() for name, value in environ.items() if value.strip()}
        from_file = bool(self.urls)
        if DATAWAY in told:
            self.urls = [url.strip() for url in told[DATAWAY].split(",") if url.strip()]
        if HTTP_LISTEN in told:
            self.listen = (told[HTTP_LISTEN], HTTP_LISTEN)
        self.wanted = self.wanted or next((name for name in (DATAWAY, HTTP_LISTEN) if name in told), "")
        from_environment = dict(self._options(told))
        tags, problems = read_tags(told, self.tags)
        self.tags = tags
        self.problems += problems
        self._put_exporters(raw, from_environment, from_file=from_file, by_variable=DATAWAY in told)
        self._put_receiver(raw)
        self._warn_of_others(told, known)

    def _options(self, told: Mapping[str, str]) -> Iterator[tuple[Path, tuple[Any, str]]]:
        for option in OPTIONS:
            name = f"{DATAWAY}_{option.variable}"
            if not option.variable or name not in told:
                continue
            try:
                yield option.path, (option.read(told[name]), name)
            except ValueError as exc:
                text = MASK if option.variable == "HTTP_PROXY" else shown(told[name])
                self.problems.append(Problem(name, f" = {text}: {exc}"))

    # -- into the bridge's settings

    def _put_exporters(
        self, raw: dict[str, Any], told: dict[Path, tuple[Any, str]], *, from_file: bool, by_variable: bool
    ) -> None:
        exporters = raw.setdefault("exporters", {})
        if not isinstance(exporters, dict):
            return
        named = [n for n, table in exporters.items() if isinstance(table, dict) and table.get("type") == "dataway"]
        without_url = [name for name in named if "url" not in exporters[name]]
        if self.urls and (from_file or not exporters):
            self._add_exporters(exporters, {**self.values, **told}, DATAWAY if by_variable else "dataway.urls")
        elif self.urls and without_url and len(self.urls) == 1:
            for name in without_url:
                self._fill(name, exporters[name], {("url",): (self.urls[0], DATAWAY)})
        elif self.urls and without_url:
            self.problems.append(
                Problem(DATAWAY, f": names {len(self.urls)} addresses; an exporter has one: write a table for each")
            )
        elif self.urls:
            self.warnings.append(f"{DATAWAY} is not used: the file names exporters, and none lacks a Dataway's url")
        for name in named:
            self._fill(name, exporters[name], told)

    def _add_exporters(self, exporters: dict[str, Any], values: Mapping[Path, tuple[Any, str]], origin: str) -> None:
        """One for each address."""
        places: dict[tuple[str, str], int] = {}
        for place, url in enumerate(self.urls, 1):
            name, first = _name(url), places.setdefault(destination(url), place)
            if first != place:
                text = f": its addresses {first} and {place} have the same host and token; remove one of them"
                self.problems.append(Problem(origin, text))
            elif name in exporters:
                text = f": its address {place} makes an exporter of this name, which a file has too; rename that"
                self.problems.append(Problem(f"{origin}, exporters.{name}", text))
            else:
                exporters[name] = {"type": "dataway"}
                self._fill(name, exporters[name], {**values, ("url",): (url, origin)})

    def _fill(self, name: str, table: dict[str, Any], values: Mapping[Path, tuple[Any, str]]) -> None:
        """Put in what the table leaves out."""
        tags: dict[Path, tuple[Any, str]] = {("global_tags",): (dict(self.tags), "global host tags")}
        for path, (value, origin) in ({**tags, **values} if self.tags else values).items():
            inner: Any = table
            for key in path[:-1]:
                inner = inner.setdefault(key, {}) if isinstance(inner, dict) else None
            if isinstance(inner, dict) and path[-1] not in inner:
                inner[path[-1]] = value
                self.variables[("exporters", name, *path)] = origin

    def _put_receiver(self, raw: dict[str, Any]) -> None:
        receivers = raw.get("receivers", {})
        if not isinstance(receivers, dict) or not isinstance(receivers.get("datakit", {}), dict):
            return
        if not self.wanted and "datakit" not in receivers:
            return
        table = raw.setdefault("receivers", receivers).setdefault("datakit", {})
        if "enabled" not in table:
            table["enabled"] = True
            self.variables[(*LISTEN, "enabled")] = self.wanted or "file"
        if self.listen:
            text, origin = self.listen
            host, colon, port = text.rpartition(":")
            if not (colon and port.isascii() and port.isdecimal()):
                self.problems.append(Problem(origin, f' = {shown(text)}: allowed: HOST:PORT, such as "0.0.0.0:9529"'))
                return
            # Go takes an empty host for every network
            for key, value in (("host", host.strip("[]") or "0.0.0.0"), ("port", int(port))):  # noqa: S104
                if origin == HTTP_LISTEN or key not in table:
                    table[key] = value
                    self.variables[(*LISTEN, key)] = origin

    def _warn_of_others(self, told: Mapping[str, str], known: Sequence[str]) -> None:
        used = {*VARIABLES, *used_variables(told)}
        others = sorted(n for n in told if n.startswith("ENV_") and n not in used and not n.startswith(tuple(known)))
        if others:
            others += [name for name in NEIGHBOURS if name in told and name not in used]
            self.warnings.append(f"variables of DataKit that mean nothing here are ignored: {', '.join(others)}")


def destination(url: str) -> tuple[str, str]:
    """Host with port, and token, of a Dataway's URL: equal where the same workspace is reached in the same place.

    Any text has them, empty where they are missing: whether it is a URL is checked elsewhere.
    """
    scheme, _, rest = url.partition("://")
    found = _HOST.match(rest)
    host = found[0].rpartition("@")[2].lower() if found else ""
    token = parse_qs(rest.partition("#")[0].partition("?")[2]).get("token", [""])[0]
    return host.removesuffix(_OWN_PORTS.get(scheme.lower(), "")), token


def _name(url: str) -> str:
    """A name that stays while host and token do, whatever stands beside them: what is undelivered is kept under it.

    It ends in 24 bits of a hash, from which nobody learns the token.
    """
    host, token = destination(url)
    words = "-".join(["dataway", *re.findall(r"[a-z0-9]+", host)])[:57]
    digest = blake2b(f"{host}\n{token}".encode(errors="surrogateescape"), digest_size=3)
    return f"{words}-{digest.hexdigest()}"
