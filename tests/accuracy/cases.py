"""Which recordings, what is done to them, and what is to be reached."""

from dataclasses import dataclass

from tests.accuracy.systems import SYSTEMS

ONLINE_BOUTIQUE = "online-boutique"
TRAIN_TICKET = "train-ticket"


@dataclass(frozen=True, slots=True)
class Case:
    """A recording by name and the options of espanize.py; goals are recalls, precisions and shares, 0 for none."""

    recording: str
    options: str
    recall: float = 0.0
    precision: float = 0.0
    whole: float = 0.0
    across: float = 0.0
    """Recall of cross-process edges."""

    @property
    def threadless(self) -> bool:
        """Whether neither threads nor ids tell, so that there is a bound to what can be found."""
        return not any(f"--threads {told}" in self.options for told in ("exact", "agent"))

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.recording} {self.options}"


def _recorded(name: str, *rows: tuple[str, float, float, float, float]) -> list[Case]:
    return [Case(name, options, *goals) for options, *goals in rows]


CASES = (
    *_recorded(
        ONLINE_BOUTIQUE,
        ("--threads exact --compress 20 --resp-loss 0.02", 1.0, 1.0, 0.99, 0.999),
        ("--threads agent", 1.0, 1.0, 0.99, 0.999),
        ("--threads agent --compress 20 --resp-loss 0.02 --start-jitter-ms 2", 0.995, 0.995, 0.97, 0.999),
        ("--threads async", 0.97, 0.98, 0, 0.999),
        ("--threads async --compress 20 --resp-loss 0.02", 0.90, 0.94, 0, 0.999),
        ("--threads pool --compress 20 --resp-loss 0.02", 0.90, 0.94, 0, 0.999),
        ("--threads none --compress 5", 0.96, 0.97, 0, 0.999),
        ("--threads none --compress 5 --seed 7", 0.96, 0.97, 0, 0.999),
        ("--threads agent --resp-loss 0.02 --skew-ms 200", 0, 0, 0, 0.999),
        ("--threads agent --zero-seq 0.05", 0, 0, 0, 0.97),
        ("--threads agent --zero-seq 0.05 --skew-ms 200", 0, 0, 0, 0.97),
        ("--threads agent --duplicate 0.05 --drop 0.01", 0.99, 0.99, 0, 0.99),
        ("--threads none --compress 5 --drop 0.01", 0.95, 0.96, 0, 0.99),
    ),
    *_recorded(
        TRAIN_TICKET,
        ("--threads exact", 0.99, 0.99, 0, 0.999),
        ("--threads agent", 0.99, 0.99, 0, 0.999),
        ("--threads pool --compress 5", 0.95, 0.97, 0, 0.999),
        ("--threads async --compress 5", 0.95, 0.97, 0, 0.999),
        ("--threads none --compress 20 --resp-loss 0.02", 0.90, 0.95, 0, 0.999),
        ("--threads agent --resp-loss 0.02 --skew-ms 200", 0, 0, 0, 0.999),
        ("--threads agent --zero-seq 0.05 --skew-ms 200", 0, 0, 0, 0.97),
    ),
    *(
        Case(name, options)
        for name in SYSTEMS
        for options in (
            "--threads agent",
            "--threads async",
            "--threads pool --compress 5",
            "--threads none --compress 5",
        )
    ),
)
