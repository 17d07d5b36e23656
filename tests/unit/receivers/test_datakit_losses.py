"""When losses of DataKit agents are logged."""

import logging

from bridge.receivers.datakit.losses import LOG_AGAIN_S, Losses


def test_a_line_tells_what_was_lost_since_the_last(caplog) -> None:
    """For each reason alone; once a minute is over the next loss tells of all before it, and the end of the rest."""
    now_s = [100.0]
    losses = Losses(now_s=lambda: now_s[0])

    def lose(reason: str, points: int) -> None:
        losses.add_points(reason, points)
        losses.add_request(reason)

    def told() -> list[tuple[int, str, int, int]]:
        lines = [(r.levelno, *(vars(r)[key] for key in ("reason", "requests", "points"))) for r in caplog.records]
        caplog.clear()
        return lines

    for reason in ("held_too_long", "held_too_long", "too_many_held", "invalid"):
        lose(reason, 3)
    assert told() == [(logging.ERROR, "held_too_long", 1, 3), (logging.ERROR, "too_many_held", 1, 3)]
    now_s[0] += LOG_AGAIN_S - 1
    lose("held_too_long", 5)
    assert told() == []
    now_s[0] += 1
    losses.add_request("held_too_long")
    assert told() == [(logging.ERROR, "held_too_long", 3, 8)]
    lose("too_many_held", 1)
    lose("too_many_held", 1)
    assert told() == [(logging.ERROR, "too_many_held", 1, 1)]
    losses.tell_rest()
    losses.tell_rest()
    assert told() == [(logging.ERROR, "too_many_held", 1, 1)]
