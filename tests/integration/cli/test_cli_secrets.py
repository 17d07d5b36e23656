"""Settings with secrets that cannot be used, one mistake after another: no error shows a secret, nor does a listing."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import main
from bridge.config import load
from bridge.errors import ConfigError
from bridge.pipeline.build import build_exporter, build_receivers, build_watch, listener_security
from bridge.telemetry import Instruments
from tests.support.planted import Planted

BACKEND = '[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://backend:4317"\n'
HTTP = '[exporters.backend]\ntype = "otlp_http"\nendpoint = "http://backend:4318"\n'
DATAWAY = '[exporters.guance]\ntype = "dataway"\nurl = "https://guance?token=tkn"\n'

# %s is the secret
FILES = [
    # a token, in the wrong form, the wrong place, under the wrong name, or where TOML ends
    '[web]\ntokens = ["%s with spaces"]\n' + BACKEND,
    '[web]\ntokens = ["ünïcode%s"]\n' + BACKEND,
    '[web]\ntokens = "%s"\n' + BACKEND,
    '[web]\ntokens = [["%s"]]\n' + BACKEND,
    '[web]\ntokens = {a = "%s"}\n' + BACKEND,
    '[web]\ntoken = "%s"\n' + BACKEND,
    '[web]\ntokens_file = ["%s"]\n' + BACKEND,
    '[web]\nbearer = "%s"\n' + BACKEND,
    '[web]\ntokens = ["%s"\nport = 1\n' + BACKEND,
    '[web]\ntokens = ["%s]\n' + BACKEND,
    "[web]\ntokens = [%s]\n" + BACKEND,
    '[receivers.otlp_grpc]\nauth_tokens = ["%s"]\n' + BACKEND,
    '[receivers]\ntokens = ["%s"]\n' + BACKEND,
    '[receivers.otlp_http]\nauth_header = "x-api-key: %s"\n' + BACKEND,
    'tokens = ["%s"]\n' + BACKEND,
    # headers
    BACKEND + 'headers = {authorization = "Bearer %s\\u0001"}\n',
    BACKEND + 'headers = {authorization = ["%s"]}\n',
    BACKEND + 'headers = "authorization=%s"\n',
    BACKEND + 'headers = ["%s"]\n',
    BACKEND + 'header = {authorization = "%s"}\n',
    BACKEND + 'headers = {"authorization: %s" = "x"}\n',
    BACKEND + 'authorization = "%s"\n',
    BACKEND + "headers = {authorization = '%s}\n",
    # addresses
    '[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://user:%s@backend"\n',
    '[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://backend:4317?key=%s"\n',
    '[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "ftp://user:%s@backend:4317"\n',
    '[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://user:%s@localhost:4317"\n',
    '[exporters.backend]\ntype = "otlp_http"\nendpoint = "backend:4318?key=%s"\n',
    '[exporters.backend]\ntype = "otlp_http"\nendpoint = "http://user:%s@:4318"\n',
    '[exporters.backend]\ntype = "otlp_http"\nendpoint = "http://user:%s@backend:99999"\n',
    '[exporters.backend]\ntype = "otlp_http"\nendpoint = ["http://user:%s@backend:4318"]\n',
    '[exporters.backend]\ntype = "otlp_htp"\nendpoint = "http://user:%s@backend:4318"\n',
    '[exporters.backend]\nendpoint = "http://user:%s@backend:4318"\n',
    '[exporters]\nbackend = "http://user:%s@backend:4318"\n',
    'exporters = ["http://user:%s@backend:4318"]\n',
    '[exporters.guance]\ntype = "dataway"\nurl = "guance?token=%s"\n',
    '[exporters.guance]\ntype = "dataway"\nurl = "https://?token=%s"\n',
    '[exporters.guance]\ntype = "dataway"\nurl = "https://guance#token=%s"\nformat = "v3"\n',
    '[exporters.guance]\ntype = "dataway"\nurls = ["https://guance?token=%s"]\n',
    '[exporters.a]\ntype = "dataway"\nurl = "https://g?token=%s"\n[exporters.b]\ntype = "dataway"\nurl = "https://g/?token=%s"\n',
    DATAWAY + 'proxy = "user:%s@proxy:3128"\n',
    DATAWAY + 'proxy = "socks5://user:%s@proxy:3128"\n',
    DATAWAY + 'proxy = ["http://user:%s@proxy:3128"]\n',
    '[dataway]\nurls = "https://guance?token=%s"\n',
    '[dataway]\nurls = ["guance?token=%s"]\n',
    '[dataway]\nurls = ["https://guance?token=%s", "https://guance/?token=%s"]\n',
    'dataway = "https://guance?token=%s"\n',
    '[receivers.datakit]\nforward_to = "linker:9529?token=%s"\n' + BACKEND,
    '[receivers.datakit]\nforward_to = "http://user:%s@localhost:9529"\n' + BACKEND,
    # keys of hashes
    '[attributes]\nhash = ["a"]\nhash_key = ["%s"]\n' + BACKEND,
    '[attributes]\nhash = ["a"]\nhash_key = "' + "%s" * 3 + '"\n' + BACKEND,
    '[attributes]\nkey = "%s"\n' + BACKEND,
]
ENVIRONMENTS: list[Mapping[str, str]] = [
    {"ENV_DATAWAY": "guance?token=%s"},
    {"ENV_DATAWAY": "https://guance?token=%s,https://guance/?token=%s"},
    {"ENV_DATAWAY": "https://guance:0?token=%s"},
    {"ENV_DATAWAY": "https://guance?token=tkn", "ENV_DATAWAY_HTTP_PROXY": "user:%s@proxy"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:%s@:4317"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:%s@b:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "thrift"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:14317", "OTEL_EXPORTER_OTLP_HEADERS": "%s"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:14317", "OTEL_EXPORTER_OTLP_HEADERS": "=%s"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:14317", "OTEL_EXPORTER_OTLP_HEADERS": "a=%s%%01"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:14317", "OTEL_EXPORTER_OTLP_HEADERS": "a b=%s"},
]
GOOD = """
[attributes]
hash = ["user"]
hash_key = "{0}"
[receivers.otlp_grpc]
tokens = ["{1}"]
[receivers.otlp_http]
tokens = ["{2}", "{3}"]
[receivers.datakit]
tokens = ["{4}"]
forward_to = "http://user:{5}@linker:9530?token={6}"
[web]
tokens = ["{7}"]
[exporters.a]
type = "otlp_http"
endpoint = "http://{8}:{9}@backend:14318/?key={10}"
headers = {{authorization = "Bearer {11}"}}
[exporters.b]
type = "otlp_grpc"
endpoint = "http://{12}@backend:14317"
headers = {{x-key = "{13}"}}
[exporters.c]
type = "dataway"
url = "https://guance?token={14}"
proxy = "http://user:{15}@proxy:3128"
"""
Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """check(text, variables): exit code and all output of `espan-bridge check`."""
    for name in os.environ:
        if name.startswith(("ENV_", "OTEL_")):
            monkeypatch.delenv(name)

    def run(text: str | None, environ: Mapping[str, str] | None = None, *more: str) -> tuple[int, str]:
        path = tmp_path / "bridge.toml"
        options = []
        if text is not None:
            path.write_text(text, encoding="utf-8")
            options = ["--config", str(path)]
        done = CliRunner().invoke(main, ["check", *options, *more], env=dict(environ or {}))
        return done.exit_code, done.output + repr(done.exception)

    return run


@pytest.mark.parametrize("text", FILES)
def test_no_mistake_in_a_file_shows_a_secret(check: Check, text: str) -> None:
    """Whatever is wrong with it, or with what stands beside it."""
    planted = Planted()
    code, output = check(text.replace("%s", planted("file")))
    assert code == 2, output
    assert planted.found_in(output) == [], output


@pytest.mark.parametrize("environ", ENVIRONMENTS)
def test_no_mistake_in_a_variable_shows_a_secret(check: Check, environ: Mapping[str, str]) -> None:
    """Nor does one that stands beside a secret."""
    planted = Planted()
    code, output = check(None, {k: v.replace("%s", planted("variable")).replace("%%", "%") for k, v in environ.items()})
    assert code == 2, output
    assert planted.found_in(output) == [], output


def test_no_listing_of_good_settings_shows_a_secret(check: Check) -> None:
    """`check` masks each of them, and says that it is there."""
    planted = Planted()
    names = [str(number) for number in range(16)]
    code, output = check(GOOD.format(*map(planted, names)), {"ENV_DATAWAY": f"https://g?token={planted('variable')}"})
    assert code == 1, "none of these backends is there"
    assert output.count("exporters.") >= 4
    assert planted.found_in(output) == []
    assert 'tokens = ["***", "***"]' in output


def test_no_repr_of_settings_or_parts_shows_a_secret(tmp_path: Path) -> None:
    """Settings as a whole and each of their tables, exporters, receivers, and what guards them."""
    planted = Planted()
    path = tmp_path / "bridge.toml"
    path.write_text(GOOD.format(*(planted(str(number)) for number in range(16))))
    settings = load(path, {}).settings
    watch = build_watch(settings)
    parts: list[object] = [settings, settings.receivers, settings.web, *settings.exporters.values(), watch]
    parts += [build_exporter(name, exporter, watch) for name, exporter in settings.exporters.items()]
    parts += build_receivers(settings, _Nobody(), Instruments(), watch=watch)
    parts += [vars(listener_security("web", settings.web, watch)), settings.model_dump(mode="json")]
    shown = "\n".join(f"{part!r} {part!s}" for part in parts)
    assert planted.found_in(shown) == []
    assert planted.found_in(pickle.dumps(settings)) != [], "ingest processes could not do without"


class _Nobody:
    """Takes nothing."""

    async def consume(self, batch: object) -> None:
        raise NotImplementedError


def test_no_error_of_a_token_file_shows_a_token(check: Check, tmp_path: Path) -> None:
    """Only the number of the line."""
    planted = Planted()
    path = tmp_path / "tokens"
    path.write_text(f"{planted('good line')}\n{planted('bad line')} and more\n")
    code, output = check(f'[web]\ntokens_file = "{path}"\n{BACKEND}')
    assert code == 2
    assert "line 2" in output
    assert planted.found_in(output) == []


def test_no_error_of_a_part_shows_a_secret() -> None:
    """What settings let pass and a header cannot hold."""
    from bridge.exporters.otlp import OtlpHttpExporter

    planted = Planted()
    with pytest.raises(ConfigError) as caught:
        OtlpHttpExporter("backend", "http://backend:4318", headers={"authorization": planted("header") + "\n"})
    assert planted.found_in(str(caught.value)) == []


def test_check_warns_of_listeners_that_are_open_to_others(check: Check) -> None:
    """They can be used all the same."""
    code, output = check(f'[web]\nhost = "::"\n{BACKEND}', {}, "--settings-only")
    assert code == 0
    assert "warning: web listens beyond this machine" in output
