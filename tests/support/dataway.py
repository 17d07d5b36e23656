"""A scripted Dataway: reads every body by itself, holds points to the limits Guance has, and answers as it is told.

In a test:      async with running_dataway(["500", "429:0.2"]) as dataway: ... dataway.url
As a process:   python -m tests.support.dataway [--script 500,hang]
It prints one JSON line with its port and URL, and on SIGTERM one with its totals; GET /totals gives the same.

Answers: ok, lost (takes the points, then answers 503), hang, or a status with an optional Retry-After and an error
code, like 503, 429:0.2 or 403::beyondDataUsage. Shares no code with the bridge: protobuf is read with a schema of its
own, line protocol by a reader of its own.
"""

import argparse
import asyncio
import gzip
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

TOKEN = "tkn_0123456789abcdef0123456789abcdef"  # noqa: S105 -- of a workspace that does not exist
MAX_TAGS, MAX_FIELDS = 256, 1024
MAX_KEY_BYTES, MAX_TAG_BYTES, MAX_FIELD_BYTES, MAX_NAME_BYTES = 256, 1024, 32 << 20, 1024
TEXT_FIELDS = ("trace_id", "span_id", "parent_id", "resource")
NUMBER_FIELDS = ("start", "duration")

Value = str | int | float | bool | bytes | None


@dataclass(frozen=True)
class Point:
    """One point as it was read."""

    name: str
    tags: dict[str, str]
    fields: dict[str, Value]
    time_ns: int

    @property
    def all(self) -> dict[str, Value]:
        """Tags and fields together: a key is one or the other."""
        return {**self.tags, **self.fields}


class BadBody(Exception):
    """What a real Dataway would answer 400 to."""


def _point_messages() -> Any:
    """The messages of DataKit's package `point`, written down once more."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/support/point.proto", package="scripted", syntax="proto3", dependency=["google/protobuf/any.proto"]
    )
    one = file.message_type.add(name="Field")
    one.oneof_decl.add(name="val")

    def add(name: str, number: int, kind: int, *, of: str = "", val: bool = False, many: bool = False) -> None:
        label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            added.type_name = of
        if val:
            added.oneof_index = 0

    message = one
    add("key", 1, kinds.TYPE_STRING)
    add("i", 2, kinds.TYPE_INT64, val=True)
    add("u", 3, kinds.TYPE_UINT64, val=True)
    add("f", 4, kinds.TYPE_DOUBLE, val=True)
    add("b", 5, kinds.TYPE_BOOL, val=True)
    add("d", 6, kinds.TYPE_BYTES, val=True)
    add("a", 7, kinds.TYPE_MESSAGE, of=".google.protobuf.Any", val=True)
    add("s", 11, kinds.TYPE_STRING, val=True)
    add("is_tag", 8, kinds.TYPE_BOOL)
    add("type", 9, kinds.TYPE_INT32)  # an enum, which is the same on the wire
    add("unit", 10, kinds.TYPE_STRING)
    message = file.message_type.add(name="PBPoint")
    add("name", 1, kinds.TYPE_STRING)
    add("fields", 2, kinds.TYPE_MESSAGE, of=".scripted.Field", many=True)
    add("time", 3, kinds.TYPE_INT64)
    message = file.message_type.add(name="PBPoints")
    add("arr", 1, kinds.TYPE_MESSAGE, of=".scripted.PBPoint", many=True)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("scripted.PBPoints"))


PBPoints: Any = _point_messages()
"""Message class of a body in protobuf; tests make bodies with it, too."""


def read_protobuf(body: bytes) -> list[Point]:
    """Points of a PBPoints; a key that is there twice is a bad body."""
    return [_of_message(point) for point in PBPoints.FromString(body).arr]


def _of_message(point: Any) -> Point:
    tags: dict[str, str] = {}
    fields: dict[str, Value] = {}
    for each in point.fields:
        kind = each.WhichOneof("val")
        value: Value = getattr(each, kind) if kind else None
        if each.key in tags or each.key in fields:
            raise BadBody(f"key {each.key!r} twice")
        if each.is_tag:
            if kind != "s":
                raise BadBody(f"tag {each.key!r} is no text")
            tags[each.key] = each.s
        else:
            fields[each.key] = value
    return Point(point.name, tags, fields, point.time)


def read_lines(body: bytes) -> list[Point]:
    """Points of a body in line protocol: `name,tag=v field=1i,other="text" time`, one a line."""
    text, points, at = body.decode(), [], 0
    while at < len(text):
        if text[at] == "\n":
            at += 1
            continue
        point, at = _LineReader(text, at).point()
        points.append(point)
    return points


@dataclass
class _LineReader:
    """Reads one line from a place on."""

    text: str
    at: int

    def point(self) -> tuple[Point, int]:
        name, tags, fields = self._word(", "), {}, {}
        while self._take(","):
            key = self._word("=")
            self._expect("=")
            tags[key] = self._word(", ")
        self._expect(" ")
        while True:
            key = self._word("=")
            self._expect("=")
            fields[key] = self._value()
            if not self._take(","):
                break
        time_ns = int(self._word("\n")) if self._take(" ") else 0
        if self.at < len(self.text):
            self._expect("\n")
        return Point(name, tags, fields, time_ns), self.at

    def _word(self, ends: str) -> str:
        out = []
        while self.at < len(self.text) and self.text[self.at] not in ends + "\n":
            if self.text[self.at] == "\\" and self.text[self.at + 1 : self.at + 2] in tuple(",= "):
                self.at += 1
            out.append(self.text[self.at])
            self.at += 1
        return "".join(out)

    def _value(self) -> Value:
        if self._take('"'):
            out = []
            while not self._take('"'):
                if self.text[self.at] == "\\" and self.text[self.at + 1] in '\\"':
                    self.at += 1
                out.append(self.text[self.at])
                self.at += 1
            return "".join(out)
        word = self._word(", ")
        if word.lower() in ("t", "true", "f", "false"):
            return word.lower() in ("t", "true")
        return int(word[:-1]) if word[-1:] in ("i", "u") else float(word)

    def _take(self, char: str) -> bool:
        if self.text[self.at : self.at + 1] != char:
            return False
        self.at += 1
        return True

    def _expect(self, char: str) -> None:
        if not self._take(char):
            raise BadBody(f"line protocol: want {char!r} at {self.at}: {self.text[self.at : self.at + 40]!r}")


READERS: dict[str, Callable[[bytes], list[Point]]] = {
    "application/protobuf; proto=com.guance.Point": read_protobuf,
    "application/line-protocol": read_lines,
}


def check(point: Point) -> None:
    """Raise BadBody for what Guance would not take, or could not show as a span."""
    if not point.name or len(point.name.encode()) > MAX_NAME_BYTES:
        raise BadBody(f"measurement {point.name[:40]!r}")
    if len(point.tags) > MAX_TAGS or not 0 < len(point.fields) <= MAX_FIELDS:
        raise BadBody(f"{len(point.tags)} tags, {len(point.fields)} fields")
    for key, value in point.all.items():
        if not key or len(key.encode()) > MAX_KEY_BYTES:
            raise BadBody(f"key {key[:40]!r}")
        limit = MAX_TAG_BYTES if key in point.tags else MAX_FIELD_BYTES
        if isinstance(value, str) and len(value.encode()) > limit:
            raise BadBody(f"value of {key} has {len(value)} characters")
    for key in TEXT_FIELDS:
        if not isinstance(point.fields.get(key), str):
            raise BadBody(f"field {key} is {point.all.get(key)!r}, not a text field")
    for key in NUMBER_FIELDS:
        if type(point.fields.get(key)) is not int:
            raise BadBody(f"field {key} is {point.all.get(key)!r}, not an integer field")
    if not re.fullmatch(r"[0-9a-f]{16}", str(point.fields["span_id"])):
        raise BadBody(f"span_id {point.fields['span_id']!r}")
    if not re.fullmatch(r"0|[0-9a-f]{16}|[0-9]{1,20}", str(point.fields["parent_id"])):
        raise BadBody(f"parent_id {point.fields['parent_id']!r}")


@dataclass(frozen=True)
class Answer:
    """One scripted answer; `kind` is ok, lost, hang or status."""

    kind: str = "ok"
    status: int = 200
    retry_after: str = ""
    code: str = "scripted"

    @classmethod
    def parse(cls, text: str) -> "Answer":
        head, *rest = text.split(":", 2)
        if not head.isdecimal():
            return cls(head, 503 if head in ("lost", "hang") else 200)
        return cls("status", int(head), rest[0] if rest else "", rest[1] if len(rest) > 1 else "scripted")


@dataclass(frozen=True)
class Totals:
    """What it was sent: `requests` in all, of which it took all but `refused`; points and ids of those taken."""

    requests: int
    refused: int
    points: int
    distinct: int
    copies: int
    body_bytes: int
    cpu_s: float


@dataclass
class Dataway:
    """The script, the counts, and what was taken."""

    script: list[Answer] = field(default_factory=list)
    always_answer: Answer = field(default_factory=Answer)
    max_raw_bytes: int = 1 << 20
    token: str = TOKEN
    points: list[Point] = field(default_factory=list)
    """Points taken."""
    bodies: list[bytes] = field(default_factory=list)
    """Bodies taken, as they came."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request."""
    raw_headers: list[dict[bytes, bytes]] = field(default_factory=list)
    """The same in bytes, as they came."""
    queries: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What was wrong with bodies that were answered 400."""
    checked_tokens: list[str] = field(default_factory=list)
    checked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a token was checked."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each request; a test may clear it."""
    port: int = 0
    _ids: set[str] = field(default_factory=set)
    _taken: int = 0
    _requests: int = 0
    _refused: int = 0
    _bytes: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Its address as ENV_DATAWAY has it."""
        return f"http://127.0.0.1:{self.port}?token={self.token}"

    def always(self, text: str) -> None:
        """From now on answer so when the script is used up."""
        self.always_answer = Answer.parse(text)

    def totals(self) -> Totals:
        return Totals(
            self._requests, self._refused, self._taken, len(self._ids), self._taken - len(self._ids), self._bytes,
            time.process_time(),
        )  # fmt: skip

    async def write(self, request: web.Request) -> web.Response:
        """POST /v1/write/tracing."""
        body = await request.read()
        answer = self.script.pop(0) if self.script else self.always_answer
        self._requests += 1
        self._bytes += len(body)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.raw_headers.append({k.lower(): v for k, v in request.raw_headers})
        self.queries.append(request.raw_path.partition("?")[2])
        try:
            return await self._answer(request, body, answer)
        finally:
            self.arrived.set()

    async def _answer(self, request: web.Request, body: bytes, answer: Answer) -> web.Response:
        if request.query.get("token") != self.token:
            self._refused += 1
            return _error(403, "dataway.tokenNotFound", "token is not known")
        if answer.kind in ("ok", "lost"):
            try:
                self._take(request, body)
            except BadBody as exc:
                self._refused += 1
                self.faults.append(str(exc))
                return _error(400, "dataway.badPoint", str(exc))
            return web.Response() if answer.kind == "ok" else _error(503, "dataway.lost", "lost after it was taken")
        self._refused += 1
        if answer.kind == "hang":
            await self._stopping.wait()
        headers = {"Retry-After": answer.retry_after} if answer.retry_after else {}
        # a backend may repeat what it was sent
        return _error(answer.status, answer.code, f"scripted answer to {request.path_qs}", headers)

    def _take(self, request: web.Request, body: bytes) -> None:
        declared = int(request.headers["X-Points"])
        if not re.fullmatch(r"dk_[0-9a-z]+", request.headers.get("X-Pkg-Id", "")):
            raise BadBody("X-Pkg-Id")
        zipped = request.headers.get("Content-Encoding") == "gzip"
        raw = gzip.decompress(body) if zipped else body
        points = READERS[request.headers["Content-Type"]](raw)
        if len(raw) > self.max_raw_bytes and len(points) > 1:
            raise BadBody(f"{len(raw)} bytes before compression")
        for point in points:
            check(point)
        ids = [str(point.fields["span_id"]) for point in points]
        self.points += points
        self.bodies.append(body)
        if len(ids) != declared:
            raise BadBody(f"X-Points is {declared}, the body has {len(ids)}")
        self._ids.update(ids)
        self._taken += len(ids)

    async def check_token(self, request: web.Request) -> web.Response:
        """GET /v1/check/token/TOKEN."""
        token = request.match_info["token"]
        self.checked_tokens.append(token)
        self.checked.set()
        return web.json_response({}) if token == self.token else _error(403, "dataway.tokenNotFound", f"no {token}")

    async def get_totals(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.totals()))

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["Dataway"]:
        """Serve on 127.0.0.1 while the context is open."""
        app = web.Application(client_max_size=256 << 20)
        app.add_routes(
            [
                web.post("/v1/write/tracing", self.write),
                web.get("/v1/check/token/{token}", self.check_token),
                web.get("/totals", self.get_totals),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self._stopping.set()
            await runner.cleanup()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status, headers=headers)


def parse_script(texts: Iterable[str]) -> Iterator[Answer]:
    return map(Answer.parse, filter(None, texts))


@asynccontextmanager
async def running_dataway(script: Iterable[str] = (), **options: Any) -> AsyncIterator[Dataway]:
    """A Dataway on a free port."""
    async with Dataway(list(parse_script(script)), **options).running() as dataway:
        yield dataway


async def serve(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    dataway = Dataway(list(parse_script(args.script.split(","))), Answer.parse(args.always))
    async with dataway.running(args.port):
        say(json.dumps({"port": dataway.port, "url": dataway.url}))
        await stop.wait()
    say(json.dumps(asdict(dataway.totals())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", default="", help="answers in order, separated by commas")
    parser.add_argument("--always", default="ok", help="the answer when the script is used up")
    asyncio.run(serve(parser.parse_args(), lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
