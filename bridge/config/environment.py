"""What the environment adds to a file: DataKit's variables override it, OpenTelemetry's fill what it leaves out."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from bridge.config.catalogue import dotted
from bridge.config.datakit import Datakit
from bridge.config.host_tags import HOST_TAGS
from bridge.config.problems import NOT_UTF8, Path, Problem, nearest, shown
from bridge.config.units import TRUTH, Unreadable, parse_truth

INPUT = "ENV_INPUT_EBPFTRACE_"
INPUT_KEYS = ("db_path", "use_app_trace_id", "window", "sampling_rate", "sqlite_path")
OTEL = "OTEL_EXPORTER_OTLP_"
OTEL_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"
SERVICE_NAME, RESOURCE_ATTRIBUTES = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"
OTEL_VARIABLES: Mapping[str, str] = {
    "type": "PROTOCOL",
    "endpoint": "ENDPOINT",
    "headers": "HEADERS",
    "compression": "COMPRESSION",
    "timeout": "TIMEOUT",
    "tls.insecure": "INSECURE",
    "tls.ca_file": "CERTIFICATE",
    "tls.cert_file": "CLIENT_CERTIFICATE",
    "tls.key_file": "CLIENT_KEY",
}
"""What follows the prefix, by the key it fills."""
TLS_FILES = ("ca_file", "cert_file", "key_file")
EXPORTER_NAME = "otlp"
"""The exporter that OpenTelemetry's variables make where the file names none."""
HTTP_PORT = 4318
SHORT_TIMEOUT_MS = 100


Read = Callable[[str, str], Any]
"""Makes a value of a variable's name and text; raises ValueError with what follows the name in an error."""


class Environment:
    """Puts variables into what a file says, and keeps account of where each value is from."""

    def __init__(self, raw: dict[str, Any], environ: Mapping[str, str]) -> None:
        self._raw = raw
        unreadable = [name for name, text in environ.items() if name not in HOST_TAGS and NOT_UTF8.search(name + text)]
        self._environ = {name: text for name, text in environ.items() if name not in unreadable}
        self.variables: dict[Path, str] = {}
        """The variable each value came from, by path."""
        self.problems = [
            Problem(shown(name).strip('"'), ": must be UTF-8") for name in unreadable if name.startswith(("ENV_", OTEL))
        ]
        self.warnings: list[str] = []
        self._no_exporters = not raw.get("exporters")
        """Whether the files name none: then the environment makes them, OpenTelemetry's beside DataKit's."""

    def apply(self, datakit: Datakit) -> None:
        """Change `raw` in place; `datakit` is what DataKit's tables in the files say."""
        self._inputs()
        datakit.apply(self._raw, self._environ, (INPUT,))
        self.variables |= datakit.variables
        self.problems += datakit.problems
        self.warnings += datakit.warnings
        self._exporters()
        self._resource()

    # -- DataKit

    def _inputs(self) -> None:
        names = {INPUT + key.upper(): key for key in INPUT_KEYS}
        for name in sorted(n for n in self._environ if n.startswith(INPUT)):
            if name in names:
                self._input(name, names[name], self._environ[name].strip())
            else:
                near = nearest(name, names)
                guess = f"; did you mean {near}?" if near else ""
                self.problems.append(Problem(name, f": unknown variable{guess}; known: {', '.join(names)}"))

    def _input(self, name: str, key: str, text: str) -> None:
        value: Any = text
        if key == "use_app_trace_id":
            try:
                value = parse_truth(text)
            except Unreadable as exc:
                path = dotted(("inputs", "ebpftrace", key))
                self.problems.append(Problem(f"{name} ({path})", f" = {shown(text)}: {exc.reason}; allowed: {TRUTH}"))
                return
        elif not text:
            return  # empty is unset, so that a manifest can switch a variable off
        elif key == "sampling_rate":
            value = _float(text)
        table = self._input_table()
        if table is not None:
            table[key] = value
            self.variables[("inputs", "ebpftrace", key)] = name

    def _input_table(self) -> dict[str, Any] | None:
        """The one table of the file, made where it is missing; None where the file's own is malformed."""
        inputs = self._raw.setdefault("inputs", {})
        tables = inputs.setdefault("ebpftrace", [{}]) if isinstance(inputs, dict) else None
        if isinstance(tables, list) and len(tables) == 1 and isinstance(tables[0], dict):
            return tables[0]
        return None

    # -- OpenTelemetry

    def _exporters(self) -> None:
        exporters = self._raw.setdefault("exporters", {})
        if not isinstance(exporters, dict):
            return
        if self._no_exporters and self._otel("ENDPOINT"):
            exporters[EXPORTER_NAME] = {}
        for name, table in exporters.items():
            if isinstance(table, dict):
                self._type(name, table)
                if table.get("type") in ("otlp_grpc", "otlp_http"):
                    self._fill(name, table)

    def _resource(self) -> None:
        """What the bridge is called in its own telemetry, where that is sent: these variables only name things."""
        telemetry = self._raw.get("telemetry")
        otlp = telemetry.get("otlp") if isinstance(telemetry, dict) else None
        resource = otlp.setdefault("resource", {}) if isinstance(otlp, dict) and "endpoint" in otlp else None
        if not isinstance(resource, dict):
            return
        path = ("telemetry", "otlp", "resource")
        if name := self._environ.get(SERVICE_NAME, "").strip():
            self._name(resource, path, {"service.name": name}, SERVICE_NAME)
        if text := self._environ.get(RESOURCE_ATTRIBUTES, "").strip():
            try:
                self._name(resource, path, _pairs(text), RESOURCE_ATTRIBUTES)
            except ValueError as exc:
                self.problems.append(Problem(f"{RESOURCE_ATTRIBUTES} ({dotted(path)})", str(exc)))

    def _name(self, resource: dict[str, Any], path: Path, found: Mapping[str, str], variable: str) -> None:
        for key, value in found.items():
            if key not in resource:
                resource[key] = value
                self.variables[(*path, key)] = variable

    def _otel(self, key: str) -> tuple[str, str] | None:
        """Name and value of the variable that counts: the one for traces first; empty ones are unset."""
        for prefix in (OTEL_TRACES, OTEL):
            if value := self._environ.get(prefix + key, "").strip():
                return prefix + key, value
        return None

    def _type(self, name: str, table: dict[str, Any]) -> None:
        made_here = name == EXPORTER_NAME and not table
        if "type" in table or not (made_here or {"endpoint", "traces_endpoint"} & table.keys()):
            return
        protocol = self._otel("PROTOCOL")
        path = ("exporters", name, "type")
        if protocol is None:
            endpoint = self._otel("ENDPOINT")
            if made_here and endpoint:
                table["type"] = _likely_type(endpoint[1])
                self.variables[path] = endpoint[0]
            return
        variable, text = protocol
        if text in ("grpc", "http/protobuf"):
            table["type"] = "otlp_grpc" if text == "grpc" else "otlp_http"
            self.variables[path] = variable
            return
        reason = "the bridge sends OTLP in protobuf only; " if text == "http/json" else ""
        self.problems.append(
            Problem(f"{variable} ({dotted(path)})", f' = {shown(text)}: {reason}allowed: "grpc" or "http/protobuf"')
        )
        # the exporter is there, only its type is not: whatever else is wrong with it is worth telling, too
        table["type"] = "otlp_grpc"

    def _fill(self, name: str, table: dict[str, Any]) -> None:
        path = ("exporters", name)
        http = table["type"] == "otlp_http"
        self._fill_endpoint(path, table, http=http)
        self._set(path, table, "headers", "HEADERS", self._headers)
        self._set(path, table, "compression", "COMPRESSION", _as_it_is)
        self._set(path, table, "timeout", "TIMEOUT", self._timeout)
        endpoint = table.get("endpoint", table.get("traces_endpoint", ""))
        scheme = urlsplit(endpoint).scheme if isinstance(endpoint, str) and "://" in endpoint else ""
        tls = table.setdefault("tls", {})
        if not isinstance(tls, dict):
            return
        if not scheme and not http:
            self._set((*path, "tls"), tls, "insecure", "INSECURE", self._insecure)
        if scheme == "https" or (not scheme and tls.get("insecure") is not True):
            for key in TLS_FILES:
                self._set((*path, "tls"), tls, key, OTEL_VARIABLES[f"tls.{key}"], _as_it_is)

    def _fill_endpoint(self, path: Path, table: dict[str, Any], *, http: bool) -> None:
        found = self._otel("ENDPOINT")
        if found is None or {"endpoint", "traces_endpoint"} & table.keys():
            return
        key = "traces_endpoint" if http and found[0].startswith(OTEL_TRACES) else "endpoint"
        table[key] = found[1]
        self.variables[(*path, key)] = found[0]

    def _set(self, path: Path, table: dict[str, Any], key: str, variable: str, read: Read) -> None:
        found = self._otel(variable)
        if found is None or key in table:
            return
        try:
            table[key] = read(*found)
        except ValueError as exc:
            self.problems.append(Problem(f"{found[0]} ({dotted((*path, key))})", str(exc)))
        else:
            self.variables[(*path, key)] = found[0]

    def _headers(self, _: str, text: str) -> dict[str, str]:
        return _pairs(text)

    def _timeout(self, variable: str, text: str) -> str:
        if not (text.isascii() and text.isdecimal() and int(text)):
            raise ValueError(f" = {shown(text)}: allowed: a whole number of milliseconds, more than 0")
        if int(text) < SHORT_TIMEOUT_MS:
            self.warnings.append(
                f"{variable} = {text} means {text} milliseconds, as OpenTelemetry specifies it; "
                "some SDKs take it for seconds"
            )
        return f"{text}ms"

    def _insecure(self, _: str, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f" = {shown(text)}: allowed: true or false")
        return text.lower() == "true"


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for pair in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(': allowed: KEY=VALUE,KEY=VALUE with values percent-encoded ("Bearer x" is Bearer%20x)')
        pairs[unquote(key.strip())] = unquote(value.strip())
    return pairs


def _likely_type(endpoint: str) -> str:
    """gRPC, unless the port is OTLP/HTTP's or there is a path, of which gRPC knows nothing."""
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        return "otlp_http" if url.port == HTTP_PORT or url.path.strip("/") else "otlp_grpc"
    except ValueError:
        return "otlp_grpc"


def _as_it_is(_: str, text: str) -> str:
    return text


def _float(text: str) -> Any:
    """A number, or the text where it is none: then the settings refuse it with what is allowed."""
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text
