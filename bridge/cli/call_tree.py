"""What happens in one simulated trace: which service calls which, and when."""

from dataclasses import dataclass

SERVICES = ("gateway", "cart", "redis", "catalog", "postgres")


@dataclass(frozen=True, slots=True)
class Role:
    """One of the places in a trace. Times in us from the trace's start, before the trace's own stretch."""

    service: str
    parent: int
    """Position of the parent role, -1 at the root."""
    call: int
    """Number of the call it is one side of: both sides see the same sequence numbers."""
    entry: bool
    start_us: int
    end_us: int
    route: str
    address: int
    """Last number of the virtual address that is called."""
    caller: str = ""
    """Service of the parent, where that is another one."""


SHOP = (
    Role("gateway", -1, 0, True, 0, 12_000, "/checkout", 0),
    Role("gateway", 0, 1, False, 500, 5_500, "/cart/items", 1),
    Role("cart", 1, 1, True, 700, 5_300, "/cart/items", 1, "gateway"),
    Role("cart", 2, 2, False, 1_200, 4_200, "HGETALL", 2),
    Role("redis", 3, 2, True, 1_400, 4_000, "HGETALL", 2, "cart"),
    Role("gateway", 0, 3, False, 6_000, 11_000, "/catalog/prices", 3),
    Role("catalog", 5, 3, True, 6_200, 10_800, "/catalog/prices", 3, "gateway"),
    Role("catalog", 6, 4, False, 7_000, 10_000, "SELECT prices", 4),
    Role("postgres", 7, 4, True, 7_200, 9_800, "SELECT prices", 4, "catalog"),
)
"""A shop's checkout, nine spans."""
_FANOUT = 4
_SHORTEST_US, _STEP_US = 12_000, 2


def call_tree(spans: int) -> tuple[Role, ...]:
    """A trace of so many spans: each request makes up to four calls, one after another; the last may have no server.

    Positions: 0 is the root, call c has its exit at 2c - 1 and its entry at 2c. A trace takes 12 ms, or as long as it
    takes until each span lies within its parent by 2 us on either side.
    """
    calls = spans // 2
    begins, ends = [0] * spans, [0] * spans
    _walk(0, calls, begins, ends, 0)
    step = max(_STEP_US, _SHORTEST_US // (2 * spans))
    roles = []
    for at in range(spans):
        call = (at + 1) // 2
        entry = at % 2 == 0
        parent = at - 1 if entry else 2 * ((call - 1) // _FANOUT)
        callee = call % len(SERVICES)
        caller = (call - 1) // _FANOUT % len(SERVICES)
        roles.append(
            Role(
                SERVICES[callee if entry else caller], parent, call, entry, begins[at] * step, ends[at] * step,
                f"/step/{SERVICES[callee]}", callee + 1, SERVICES[caller] if entry and call else "",
            )
        )  # fmt: skip
    return tuple(roles)


def _walk(call: int, calls: int, begins: list[int], ends: list[int], now: int) -> int:
    """Number what begins and ends in a call, in order of time; the next number."""
    mine = [at for at in (2 * call - 1, 2 * call) if 0 <= at < len(begins)]
    for at in mine:
        begins[at], now = now, now + 1
    for below in range(_FANOUT * call + 1, min(_FANOUT * (call + 1), calls) + 1):
        now = _walk(below, calls, begins, ends, now)
    for at in reversed(mine):
        ends[at], now = now, now + 1
    return now
