"""Real programs that stand beside a bridge, at pinned versions, from their ordinary registries.

    python -m tests.interop.peers [collector] [jaeger] [go_sender] [node_sender] [axe] [kustomize]

builds those named (all without a name) into `.interop`, or the folder INTEROP_CACHE names, once for each version, and
says what cannot be built here. The tests only look there; where a program is missing they skip and say why.

Not here: Tempo, whose licence (AGPL) keeps it out of our builds; docs/interop.md has what is known about it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("INTEROP_CACHE", HERE.parents[1] / ".interop"))
COLLECTOR = "0.165.0"
JAEGER = "v1.76.0"
"""Of the module; the program in it calls itself v2.13."""
GO_SDK = "v1.47.0"
KUSTOMIZE = "v5.7.1"
NODE_SDK = "0.223.1"
AXE = "4.11.0"
NODE_STABLE = "2.12.1"
"""Of the packages that the exporters of NODE_SDK go with."""
BUILD_S = 1500.0


@dataclass(frozen=True)
class Peer:
    """One program: what it is built with, where it lies afterwards, and how it is built into a folder."""

    name: str
    version: str
    needs: tuple[str, ...]
    program: str
    """Path inside its folder."""
    build: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        return self.folder / self.program

    def missing(self) -> str:
        """Why the program cannot be used, "" when it can."""
        if self.path.exists():
            return ""
        absent = [tool for tool in self.needs if not shutil.which(tool)]
        why = f"{' and '.join(absent)} not installed" if absent else "not built"
        return f"{self.name} {self.version} is missing ({why}); `make interop` builds it"


def _run(folder: Path, *command: str | Path, **variables: str) -> None:
    subprocess.run([str(part) for part in command], cwd=folder, check=True, timeout=BUILD_S, env=os.environ | variables)


def _collector(folder: Path) -> None:
    shutil.copy(HERE / "collector" / "ocb.yaml", folder)
    _run(folder, "go", "install", f"go.opentelemetry.io/collector/cmd/builder@v{COLLECTOR}", GOBIN=str(folder))
    # it writes the module and then tidies it, which asks for what only the tests of components need, and may fail
    subprocess.run(
        ["./builder", "--config", "ocb.yaml", "--skip-compilation"], cwd=folder, check=False, timeout=BUILD_S
    )
    _run(folder / "source", "go", "build", "-mod=mod", "-trimpath", "-o", folder / "otelcol", ".")


def _jaeger(folder: Path) -> None:
    # a tool of an empty module: `go install` refuses modules that replace their dependencies
    _run(folder, "go", "mod", "init", "interop.local/jaeger")
    _run(folder, "go", "get", "-tool", f"github.com/jaegertracing/jaeger/cmd/jaeger@{JAEGER}")
    _run(folder, "go", "build", "-trimpath", "-o", "jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger")


def _go_sender(folder: Path) -> None:
    shutil.copy(HERE / "go_sender" / "main.go", folder)
    _run(folder, "go", "mod", "init", "interop.local/sender")
    exporters = "go.opentelemetry.io/otel/exporters/otlp/otlptrace"
    modules = ("go.opentelemetry.io/otel/sdk", f"{exporters}/otlptracegrpc", f"{exporters}/otlptracehttp")
    _run(folder, "go", "get", *(f"{module}@{GO_SDK}" for module in modules))
    _run(folder, "go", "build", "-trimpath", "-o", "sender", ".")


def _kustomize(folder: Path) -> None:
    _run(folder, "go", "install", f"sigs.k8s.io/kustomize/kustomize/v5@{KUSTOMIZE}", GOBIN=str(folder))


def _node_sender(folder: Path) -> None:
    shutil.copy(HERE / "node_sender" / "sender.js", folder)
    (folder / "package.json").write_text('{"private": true}\n')
    packages = [f"@opentelemetry/exporter-trace-otlp-{name}@{NODE_SDK}" for name in ("grpc", "http", "proto")]
    packages += [f"@opentelemetry/{name}@{NODE_STABLE}" for name in ("sdk-trace-base", "resources")]
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "@opentelemetry/api", *packages)
    (folder / "installed").touch()


def _axe(folder: Path) -> None:
    (folder / "package.json").write_text('{"private": true}\n')
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"axe-core@{AXE}")


PEERS = {
    peer.name: peer
    for peer in (
        Peer("collector", COLLECTOR, ("go",), "otelcol", _collector),
        Peer("jaeger", JAEGER, ("go",), "jaeger", _jaeger),
        Peer("go_sender", GO_SDK, ("go",), "sender", _go_sender),
        Peer("kustomize", KUSTOMIZE, ("go",), "kustomize", _kustomize),
        Peer("axe", AXE, ("npm",), "node_modules/axe-core/axe.min.js", _axe),
        Peer("node_sender", NODE_SDK, ("node", "npm"), "installed", _node_sender),
    )
}


def build(peer: Peer) -> None:
    """Build the program unless it is there; a build that was broken off is begun anew."""
    if peer.path.exists():
        return
    part = peer.folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    peer.build(part)
    part.rename(peer.folder)


def main() -> None:
    for name in sys.argv[1:] or PEERS:
        peer = PEERS[name]
        if absent := [tool for tool in peer.needs if not shutil.which(tool)]:
            print(f"{name}: not built, for want of {' and '.join(absent)}", flush=True)
            continue
        print(f"{name} {peer.version} ...", flush=True)
        build(peer)
        print(f"{name} {peer.version}: {peer.path}", flush=True)


if __name__ == "__main__":
    main()
