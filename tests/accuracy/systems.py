"""Made-up systems, recorded: every span of every trace, in the format that espanize reads.

A system is a few services whose handlers call each other, with delays of their own and requests that come at random.
What they differ in is what makes links hard: the order of calls, how many there are, and what outlives what.
"""

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("TraceID", "SpanID", "ParentID", "PodName", "OperationName", "StartTimeUnixNano", "EndTimeUnixNano")
EPOCH_US = 1_700_000_000_000_000

Handler = Callable[["Request"], None]


@dataclass(slots=True)
class Recorder:
    """Spans of all traces; times in us from the start."""

    rng: random.Random
    replicas: int
    rows: list[tuple[str, str, str, str, str, int, int]] = field(default_factory=list)

    def span(self, trace: str, parent: str, pod: str, operation: str) -> "Open":
        return Open(self, trace, f"{self.rng.getrandbits(64):016x}", parent, pod, operation)

    def pod(self, service: str) -> str:
        return f"{service}-7c9f-{self.rng.randrange(self.replicas)}"


@dataclass(frozen=True, slots=True)
class Open:
    """A span whose times are not known yet."""

    recorder: Recorder
    trace: str
    id: str
    parent: str
    pod: str
    operation: str

    def close(self, start_us: float, end_us: float) -> None:
        start, end = (EPOCH_US * 1000 + int(t * 1000) for t in (start_us, end_us))
        self.recorder.rows.append((self.trace, self.id, self.parent, self.pod, self.operation, start, end))


@dataclass(slots=True)
class Request:
    """One request being served: `now` runs from its begin to its end."""

    system: "System"
    span: Open
    now: float

    @property
    def rng(self) -> random.Random:
        return self.span.recorder.rng

    def work(self, median_us: float, spread: float = 0.35) -> None:
        """Do something of one's own."""
        self.now += self.rng.lognormvariate(0.0, spread) * median_us

    def call(self, service: str, operation: str, *, fails: bool = False) -> float:
        """Call another service now; return when the answer comes, without waiting for it."""
        recorder = self.span.recorder
        client = recorder.span(self.span.trace, self.span.id, self.span.pod, f"call {service}/{operation}")
        wire_us = self.rng.lognormvariate(0.0, 0.4) * 150
        server = recorder.span(self.span.trace, client.id, recorder.pod(service), f"{service}/{operation}")
        request = Request(self.system, server, self.now + wire_us)
        if fails:
            request.work(250)
        else:
            self.system.handlers[service, operation](request)
        server.close(self.now + wire_us, request.now)
        answered = request.now + self.rng.lognormvariate(0.0, 0.4) * 150
        client.close(self.now, answered)
        return answered

    def wait(self, service: str, operation: str, *, fails: bool = False) -> None:
        """Call and wait for the answer."""
        self.now = self.call(service, operation, fails=fails)


@dataclass(frozen=True, slots=True)
class System:
    """Handlers by (service, operation), and which requests come from outside, with their weights."""

    handlers: dict[tuple[str, str], Handler]
    doors: tuple[tuple[str, str, float], ...]
    every_us: float
    """Mean time between two requests."""
    replicas: int = 1

    def record(self, path: Path, *, traces: int, seed: int) -> None:
        """Write the recording of so many traces; the same seed gives the same bytes."""
        recorder = Recorder(random.Random(seed), self.replicas)
        now = 0.0
        for _ in range(traces):
            now += recorder.rng.expovariate(1 / self.every_us)
            service, operation, _ = recorder.rng.choices(self.doors, [d[2] for d in self.doors])[0]
            root = recorder.span(f"{recorder.rng.getrandbits(128):032x}", "root", recorder.pod(service), operation)
            request = Request(self, root, now)
            self.handlers[service, operation](request)
            root.close(now, request.now)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(recorder.rows)


def _leaf(median_us: float, spread: float = 0.5) -> Handler:
    return lambda request: request.work(median_us, spread)


def _chain(*calls: tuple[str, str], before_us: float = 300, between_us: float = 120) -> Handler:
    """One call after the other."""

    def handle(request: Request) -> None:
        request.work(before_us)
        for service, operation in calls:
            request.wait(service, operation)
            request.work(between_us)

    return handle


def _sequential() -> System:
    return System(
        {
            ("shop", "page"): _chain(("users", "get"), ("stock", "list"), ("price", "quote"), ("stock", "reserve")),
            ("shop", "search"): _chain(("stock", "list"), ("price", "quote")),
            ("shop", "buy"): _chain(("users", "get"), ("price", "quote"), ("bank", "charge"), between_us=400),
            ("users", "get"): _leaf(900),
            ("stock", "list"): _chain(("store", "scan")),
            ("stock", "reserve"): _chain(("store", "get"), ("store", "put")),
            ("price", "quote"): _leaf(1500),
            ("bank", "charge"): _leaf(6000),
            ("store", "scan"): _leaf(700),
            ("store", "get"): _leaf(200),
            ("store", "put"): _leaf(400),
        },
        (("shop", "page", 5), ("shop", "search", 3), ("shop", "buy", 1)),
        every_us=4000,
    )


def _fan_out() -> System:
    def page(request: Request) -> None:
        request.work(400)
        answers = []
        for name in ("ads", "news", "mail", "mail"):
            answers.append(request.call(name, "get"))
            request.work(25)
        request.now = max(request.now, *answers)
        request.work(200)
        request.wait("render", "page")
        request.work(100)

    def digest(request: Request) -> None:
        request.work(300)
        request.now = max(request.call("mail", "get"), request.call("news", "get"))
        request.work(150)

    leaves: dict[tuple[str, str], Handler] = {
        ("ads", "get"): _leaf(2000, 0.8), ("news", "get"): _leaf(1500), ("mail", "get"): _leaf(1000),
        ("render", "page"): _leaf(3000),
    }  # fmt: skip
    doors = (("portal", "page", 3.0), ("portal", "digest", 2.0))
    return System({("portal", "page"): page, ("portal", "digest"): digest, **leaves}, doors, every_us=3500)


def _cache_hits() -> System:
    def read(request: Request) -> None:
        request.work(150)
        request.wait("cache", "get")
        if request.rng.random() < 0.3:
            request.work(80)
            request.wait("table", "read")
            request.work(60)
            request.wait("cache", "set")
        request.work(100)

    def listing(request: Request) -> None:
        request.work(200)
        for _ in range(request.rng.randint(1, 6)):
            request.wait("cache", "get")
            request.work(40)
        request.work(200)

    leaves: dict[tuple[str, str], Handler] = {
        ("cache", "get"): _leaf(150, 0.3), ("cache", "set"): _leaf(180, 0.3), ("table", "read"): _leaf(4000, 0.9),
    }  # fmt: skip
    doors = (("items", "read", 4.0), ("items", "list", 1.0))
    return System({("items", "read"): read, ("items", "list"): listing, **leaves}, doors, every_us=700)


def _retries() -> System:
    def order(request: Request) -> None:
        request.work(250)
        request.wait("auth", "check")
        request.work(100)
        for attempt in range(3):
            fails = attempt < 2 and request.rng.random() < 0.35
            request.wait("pay", "charge", fails=fails)
            if not fails:
                break
            request.work(1000 * 2**attempt, 0.1)
        request.work(150)
        request.wait("ship", "book")
        request.work(80)

    return System(
        {("orders", "post"): order, ("auth", "check"): _leaf(400), ("pay", "charge"): _leaf(2500, 0.6),
         ("ship", "book"): _chain(("queue", "push")), ("queue", "push"): _leaf(150)},
        (("orders", "post", 1.0),),
        every_us=3000,
        replicas=2,
    )  # fmt: skip


def _fire_and_forget() -> System:
    def signup(request: Request) -> None:
        request.work(300)
        request.wait("accounts", "create")
        request.work(60)
        request.call("mailer", "welcome")
        request.work(40)
        request.call("audit", "log")
        request.work(120)

    def login(request: Request) -> None:
        request.work(200)
        request.wait("accounts", "find")
        request.work(50)
        request.call("audit", "log")
        request.work(90)

    leaves: dict[tuple[str, str], Handler] = {
        ("accounts", "create"): _leaf(2500), ("accounts", "find"): _leaf(900), ("mailer", "welcome"): _leaf(20000, 0.7),
        ("audit", "log"): _leaf(5000, 0.7),
    }  # fmt: skip
    doors = (("front", "signup", 1.0), ("front", "login", 3.0))
    return System({("front", "signup"): signup, ("front", "login"): login, **leaves}, doors, every_us=1200)


SYSTEMS = {
    "sequential": _sequential(),
    "fan-out": _fan_out(),
    "cache hits": _cache_hits(),
    "retries": _retries(),
    "fire-and-forget": _fire_and_forget(),
}
