"""Links a file of eSpans as the running service does: as they come, tick by tick, instead of as one window.

    python -m tests.accuracy.incremental SPANS OUTPUT

Every request comes when the last of its spans ended; a span leaves when its trace has been quiet for a window.
"""

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bridge.cli.link import MAX_BYTES, MAX_SPANS, decode_file
from bridge.codec.otlp_encode import encode_requests
from bridge.codec.otlp_json import encode_json
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.spans import Departure, LinkedSpans, Outcome, PayloadBlock, SpanBatch, SpanLinks

WINDOW_NS = 20 * 10**9
TICK_NS = 10**9 // 2
BATCH = 16
"""Spans an agent sends at once, so that those of one request come near each other in time."""


def main() -> None:
    spans, output = map(Path, sys.argv[1:])
    batches = [decoded.batch for _, decoded, _ in decode_file(spans)]
    batches.sort(key=_last)
    options = LinkOptions(use_app_trace_id=False, sampling_rate=1.0, timing=True)
    assembler = Assembler(options, WindowOptions(window_ns=WINDOW_NS))
    blocks = tuple(batch.payload for batch in batches)
    now = _last(batches[0])
    with output.open("wb") as out:

        def tick_until(until_ns: int) -> None:
            nonlocal now
            while now + TICK_NS <= until_ns:
                now += TICK_NS
                _write(out, blocks, assembler.tick(now).departure)

        for number, batch in enumerate(batches):
            tick_until(_last(batch))
            assembler.add(number, batch.columns, _last(batch))
        while assembler.waiting:
            tick_until(now + TICK_NS)


def _last(batch: SpanBatch) -> int:
    return int(batch.columns.end_ns.max())


def _write(out: BinaryIO, blocks: tuple[PayloadBlock, ...], left: Departure) -> None:
    kept = np.flatnonzero(left.decisions.outcome == Outcome.EXPORT)
    linked = LinkedSpans(
        tick=0,
        blocks=blocks,
        block=left.batch[kept].astype(np.uint32),
        row=left.row[kept],
        decisions=left.decisions.take(kept),
        links=SpanLinks.zeros(0),
    )
    for body, _ in encode_requests(linked, max_spans=MAX_SPANS, max_bytes=MAX_BYTES):
        out.write(encode_json(body) + b"\n")


if __name__ == "__main__":
    main()
