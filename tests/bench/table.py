"""The table `make bench` prints: case, goal, now, committed, ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.cases import Case

HEAD = ("case", "goal", "now", "committed", "ratio", "", "")


@dataclass(frozen=True, slots=True)
class Line:
    """One case as it was measured, or why it was not."""

    case: Case
    value: float | None
    normal: float | None
    committed: float | None
    committed_normal: float | None
    notes: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """As texts, in the order of HEAD."""
        bound = "<=" if self.case.better == "less" else ">="
        goal = "" if self.case.goal is None else f"{bound} {number(self.case.goal)}"
        figures = (goal, number(self.value), number(self.committed), self._ratio())
        return (self.case.name, *figures, self.case.unit, "; ".join((*self._missed(), *self.notes)))

    def _ratio(self) -> str:
        """Now against then, machine against machine."""
        return f"{self.normal / self.committed_normal:.2f}" if self.normal and self.committed_normal else "-"

    def _missed(self) -> tuple[str, ...]:
        return ("goal missed",) if self.value is not None and not self.case.reached(self.value) else ()


def number(value: float | None) -> str:
    """With as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(lines: Sequence[Line]) -> str:
    """All lines, as Markdown that can be read as it is."""
    rows = [HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    numbers = range(1, 5)

    def text(row: Sequence[str]) -> str:
        cells = (cell.rjust(widths[i]) if i in numbers else cell.ljust(widths[i]) for i, cell in enumerate(row))
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 1) + ":" if i in numbers else "-" * (width + 2) for i, width in enumerate(widths))
    return "\n".join([text(rows[0]), f"|{rule}|", *map(text, rows[1:])])
