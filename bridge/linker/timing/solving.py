"""Which entry triggered each exit: learn how processes behave, move exits between entries, and again."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.forest import united
from bridge.linker.timing.chains import VOTES, Chains, PlainChains
from bridge.linker.timing.evidence import first_evidence, stray_score, thread_evidence
from bridge.linker.timing.model import first_model, learnt
from bridge.linker.timing.scene import Scene

F64Array = NDArray[np.float64]
F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]

ROUNDS: Final = 8
BALLOTS: Final = 6
STARTS: Final = (0.0, 2.0)
"""How freely exits move at first, in units of log likelihood: twice from different starts, so that it shows where more
than one answer looks right."""
_SETTLED: Final = 0.002
"""Share of entries that still move below which nothing more is learnt."""
_MOST: Final = 0.98


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """Per exit of a scene the entry that most samples agree on, -1 for none, and how many do."""

    owner: I32Array
    confidence: F32Array


def solve(scene: Scene, chains: type[PlainChains] = Chains) -> Solved:
    """Assign the exits of a scene that are not fixed. Deterministic; costs a bounded number of steps per candidate."""
    stray = stray_score(scene)
    first = first_model(scene, *first_evidence(scene), stray)
    runs = [chains(scene, number) for number in range(len(STARTS))]
    for run, heat in zip(runs, STARTS, strict=True):
        run.model(first)
        run.forward(assign=True)
        run.forward(assign=False)
        run.improve(heat, voting=False)
        _settle(scene, run, stray, ROUNDS)
    best, other = runs
    best.put(_merged(best, other, stray))
    _settle(scene, best, stray, ROUNDS)
    for run in runs:
        for _ in range(BALLOTS):
            run.forward(assign=False)
            run.improve(1.0, voting=True)
    return _elected(
        np.concatenate([run.voters.reshape(-1, VOTES) for run in runs], axis=1),
        np.concatenate([run.votes.reshape(-1, VOTES) for run in runs], axis=1),
    )


def _settle(scene: Scene, run: PlainChains, stray: F64Array, rounds: int) -> None:
    """Learn and move in turn until little moves."""
    for _ in range(rounds):
        _learn(scene, run, stray)
        run.forward(assign=False)
        if run.improve(0.0, voting=False) <= _SETTLED * scene.entry_start.size:
            break
    _learn(scene, run, stray)


def _learn(scene: Scene, run: PlainChains, stray: F64Array) -> None:
    run.model(learnt(*run.record(), *thread_evidence(scene, run.owner), stray))


def _merged(one: PlainChains, two: PlainChains, stray: F64Array) -> I32Array:
    """Of two answers the better one wherever they differ, by what both believe about the processes.

    Entries that are connected by exits on which the two differ are decided upon together.
    """
    mine, theirs = one.owner.copy(), two.owner.copy()
    differ = np.flatnonzero(mine != theirs)
    if not differ.size:
        return mine
    gain = _gains(one, mine, theirs) + _gains(two, mine, theirs)
    here, there = mine[differ].astype(np.int64), theirs[differ].astype(np.int64)
    part = united(gain.size, np.where(here >= 0, here, there), np.where(there >= 0, there, here))
    part_of = part[np.maximum(here, there)]
    nobody = 2 * stray[differ] * ((there < 0).astype(np.float64) - (here < 0))
    total = np.bincount(part, gain, gain.size) + np.bincount(part_of, nobody, gain.size)
    better = total[part_of] > 0
    mine[differ[better]] = theirs[differ[better]]
    return mine


def _gains(run: PlainChains, mine: I32Array, theirs: I32Array) -> F64Array:
    """How much better each entry's chain is in the second answer, as this run sees it."""
    before = run.owner.copy()
    run.put(theirs)
    gain = run.scores()
    run.put(mine)
    gain -= run.scores()
    run.put(before)
    return gain


def _elected(voters: I32Array, votes: I32Array) -> Solved:
    """The entry with most votes for each exit; of equal ones the first."""
    n, width = voters.shape
    total = np.zeros((n, width), np.int64)
    for i in range(width):
        total[:, i] = np.where(voters == voters[:, [i]], votes, 0).sum(axis=1)
    total[voters < 0] = 0
    most = total.max(axis=1)
    owner = np.where(most > 0, voters[np.arange(n), total.argmax(axis=1)], -1)
    confidence = np.minimum(most / (len(STARTS) * BALLOTS), _MOST)
    return Solved(owner.astype(np.int32), confidence.astype(np.float32))
