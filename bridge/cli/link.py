"""`espan-bridge link`: link recorded eSpans offline, as one window, through the same linker."""

import gzip
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import click
import numpy as np

from bridge.codec.limits import NO_LIMITS
from bridge.codec.otlp_encode import encode_requests
from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import Decoded, decode_request
from bridge.codec.profiles import use_profiles
from bridge.config import load_profiles
from bridge.errors import InvalidData
from bridge.linker import LinkOptions, Links, link
from bridge.linker.row_clocks import row_clocks
from bridge.spans import LinkedSpans, Method, Outcome, PayloadBlock, SpanColumns, SpanLinks

MAX_SPANS = 2048
MAX_BYTES = 4 << 20
PROGRESS_BYTES = 16 << 20
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Everything that was read, as one window."""

    columns: SpanColumns
    blocks: tuple[PayloadBlock, ...]
    rejected: int
    faulty: Counter[str]


@click.command("link", short_help="Link recorded eSpans offline.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
              help="Where the linked spans go, one OTLP/JSON request a line; - for standard output.")  # fmt: skip
@click.option("--use-app-trace-id/--no-use-app-trace-id", default=True, show_default=True,
              help="Keep trace ids that were found in request headers.")  # fmt: skip
@click.option("--sampling-rate", type=click.FloatRange(0.0, 1.0), default=1.0, show_default=True,
              help="Share of traces to keep where no header decides.")  # fmt: skip
@click.option("--profile", "profiles", multiple=True, metavar="NAME",
              help="What spans of other agents look like: deepflow, headers, or a file. May be repeated.")  # fmt: skip
def link_command(
    inputs: tuple[Path, ...], output: Path, use_app_trace_id: bool, sampling_rate: float, profiles: tuple[str, ...]
) -> None:
    """Link recorded eSpans offline, all of INPUT... as one window, and write the linked spans to a file.

    An INPUT is a file of OTLP/JSON lines (as the Collector's file exporter writes them), a file that holds one binary
    ExportTraceServiceRequest, or - for standard input; either may be gzipped. The linker is the one the service runs.

    \b
    Examples:
      espan-bridge link spans.otlp.jsonl --output linked.otlp.jsonl
      espan-bridge link spans.otlp.jsonl.gz --output - --no-use-app-trace-id
      espan-bridge link deepflow.otlp.jsonl --output linked.otlp.jsonl --profile deepflow
    """
    use_profiles(load_profiles(profiles))
    window = read_window(inputs)
    options = LinkOptions(use_app_trace_id=use_app_trace_id, sampling_rate=sampling_rate, timing=True)
    links = link(window.columns, options)
    with click.open_file(str(output), "wb") as out:
        written = write_linked(out, window, links)
    click.echo(summary(window, links, written), err=True)


def read_window(inputs: Sequence[Path]) -> Window:
    """Decode every input. Raises ClickException that names the file and the line of what cannot be read."""
    columns, blocks, rejected, faulty = [], [], 0, Counter[str]()
    seen = reported = 0
    for path in inputs:
        for where, decoded, size in decode_file(path):
            columns.append(decoded.batch.columns)
            blocks.append(decoded.batch.payload)
            rejected += decoded.rejected
            faulty.update(decoded.faulty)
            if decoded.rejected:
                click.echo(f"{where}: {decoded.rejected} spans rejected: {decoded.rejection}", err=True)
            seen += size
            if seen - reported >= PROGRESS_BYTES:
                reported = seen
                click.echo(f"read {seen >> 20} MiB, {sum(map(len, blocks))} spans", err=True)
    return Window(SpanColumns.concatenate(columns), tuple(blocks), rejected, faulty)


def decode_file(path: Path) -> Iterator[tuple[str, Decoded, int]]:
    """Yield (where, decoded request, bytes read) for each request of a file, which may be gzipped."""
    try:
        with click.open_file(str(path), "rb") as file:
            plain = io.BufferedReader(file)  # type: ignore[type-var]  # click types it as IO[Any]
            data = cast("IO[bytes]", gzip.GzipFile(fileobj=plain) if plain.peek(2)[:2] == GZIP else plain)
            first = data.readline()
            if first.lstrip()[:1] == b"{":
                yield from decode_lines(path, first, data)
            else:
                body = first + data.read()
                yield str(path), decode_request(body, peer=str(path), limits=NO_LIMITS), len(body)
    except InvalidData as exc:
        raise click.ClickException(f"{path}: {exc}") from exc
    except (OSError, EOFError) as exc:
        raise click.ClickException(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def decode_lines(path: Path, first: bytes, rest: IO[bytes]) -> Iterator[tuple[str, Decoded, int]]:
    """Yield one request per line; blank lines are skipped."""
    number, line = 1, first
    while line:
        if line.strip():
            try:
                yield f"{path}:{number}", decode_json(line, peer=str(path), limits=NO_LIMITS), len(line)
            except InvalidData as exc:
                raise InvalidData(f"line {number}: {exc}") from exc
        number, line = number + 1, rest.readline()


def write_linked(out: IO[bytes], window: Window, links: Links) -> int:
    """Write the spans that are kept, trace by trace; return how many."""
    outcome = links.decisions.outcome
    kept = np.flatnonzero((outcome == Outcome.EXPORT) | (outcome == Outcome.PASS))
    kept = kept[np.argsort(links.root[kept], kind="stable")]
    position = np.full(len(window.columns), -1, np.int64)
    position[kept] = np.arange(kept.size)
    sizes = np.array([len(b) for b in window.blocks], np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    block = np.searchsorted(starts, kept, side="right") - 1
    carried = links.span_links.take(position[links.span_links.row] >= 0)
    linked = LinkedSpans(
        tick=0,
        blocks=window.blocks,
        block=block.astype(np.uint32),
        row=(kept - starts[block]).astype(np.uint32),
        decisions=links.decisions.take(kept),
        links=SpanLinks(
            row=position[carried.row],
            trace_hi=carried.trace_hi,
            trace_lo=carried.trace_lo,
            span_id=carried.span_id,
        ),
        clocks=row_clocks(links.clocks.hosts, window.columns.sender[kept]),
    )
    for body, _ in encode_requests(linked, max_spans=MAX_SPANS, max_bytes=MAX_BYTES):
        out.write(encode_json(body) + b"\n")
    return len(linked)


def summary(window: Window, links: Links, written: int) -> str:
    """What went in, what came out, how edges were found."""
    d = links.decisions
    espans = (d.outcome == Outcome.EXPORT) | (d.outcome == Outcome.SAMPLED_OUT)
    traces = np.unique(links.root[espans]).size
    methods = {m.name.lower(): int(np.count_nonzero(espans & (d.method == m))) for m in Method if m}
    unlinked = int(np.count_nonzero(espans & (d.parent_span_id == 0)))
    lines = [
        f"spans read      {len(window.columns)}"
        + (f" ({window.rejected} more rejected: invalid ids)" if window.rejected else ""),
        f"spans written   {written}",
        f"traces          {traces}",
        "edges           " + ", ".join(f"{name} {count}" for name, count in methods.items()),
        f"roots           {unlinked} spans without a parent",
        f"copies folded   {int(np.count_nonzero(d.outcome == Outcome.FOLDED))}",
        f"sampled out     {int(np.count_nonzero(d.outcome == Outcome.SAMPLED_OUT))}",
        f"ordinary spans  {int(np.count_nonzero(d.outcome == Outcome.PASS))}",
    ]
    if window.faulty:
        lines.append("faulty keys     " + ", ".join(f"{k} {n}" for k, n in sorted(window.faulty.items())))
    return "\n".join(lines)
