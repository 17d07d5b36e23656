"""How much the linker may look for by timing, so that linking keeps up with what comes."""

import logging

logger = logging.getLogger(__name__)

SHARE = 0.5
"""Of the time that passes, linking may take this much for good; receivers and exporters need theirs."""
BURST_S = 15.0
"""What it may take on top before less is looked for: a burst is linked in full, and later, rather than in part."""
RESERVE_S = 0.5
"""How far around that it may be while less is looked for."""
CUT, GROWTH = 0.5, 1.2
"""By what effort falls with each second of linking that there is no time for, and grows with each in which there is."""
LEAST = 1 / 4096


class Effort:
    """Watches how long linking takes, against the time that passes (a leaky bucket), and says how much effort is right
    from now on: 1 for all of `timing_budget`.

    Only timing can be done by halves. What it leaves out is counted (`timing_skipped`), where a linker that falls
    behind delays every trace, more with every tick.
    """

    def __init__(self, now_s: float) -> None:
        self.value = 1.0
        self._debt_s, self._at_s = 0.0, now_s
        self._told = False

    def note(self, linking_s: float, now_s: float) -> float:
        """Take note of linking that took so long since the last note, and ended now; return the effort from now on."""
        passed_s, self._at_s = max(0.0, now_s - self._at_s), now_s
        over_s = linking_s - SHARE * passed_s
        # the next burst is for when effort is whole again
        least_s = BURST_S - RESERVE_S if self.value < 1.0 else 0.0
        self._debt_s = min(max(least_s, self._debt_s + over_s), BURST_S + RESERVE_S)
        if self._debt_s > BURST_S and over_s > 0:
            self.value = max(LEAST, self.value * CUT ** min(linking_s, 1.0))
        elif self._debt_s < BURST_S and self.value < 1.0:
            self.value = min(1.0, self.value * GROWTH ** min(passed_s, 10.0))
        self._tell()
        return self.value

    def _tell(self) -> None:
        """Say that it began, and that it is over: not where effort is just about right, again and again."""
        if self.value < 1.0 and not self._told:
            self._told = True
            logger.warning(
                "linking takes longer than there is time for; timing looks at less, and leaves exits without a parent",
                extra={"counter": "timing_skipped"},
            )
        elif self._told and self._debt_s < BURST_S / 2:
            self._told = False
            logger.info("there is time for linking again; timing looks at everything")
