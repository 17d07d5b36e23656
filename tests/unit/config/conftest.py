"""Settings from text, for the tests of this folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bridge.config import Loaded, load
from bridge.errors import ConfigError

BACKEND = '\n[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://backend:4317"\n'

Load = Callable[..., Loaded]
Errors = Callable[..., list[str]]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """load(text, environ): the settings of a file with this text; an exporter is added unless `bare`."""

    def read(text: str = "", environ: Mapping[str, str] | None = None, *, bare: bool = False) -> Loaded:
        path = tmp_path / "bridge.toml"
        path.write_text(text + ("" if bare else BACKEND), encoding="utf-8")
        return load(path, environ or {})

    return read


@pytest.fixture
def errors(loaded: Load) -> Errors:
    """errors(text, environ): the lines of the ConfigError that loading it raises, without the headline."""

    def read(text: str = "", environ: Mapping[str, str] | None = None, *, bare: bool = False) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, environ, bare=bare)
        return [line.strip() for line in str(caught.value).splitlines()[1:]]

    return read
