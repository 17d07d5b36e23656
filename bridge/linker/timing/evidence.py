"""How much it counts that an exit ran on the thread of an entry, and how little that an exit has no entry at all."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.timing.scene import Scene, open_entries

F64Array = NDArray[np.float64]
I32Array = NDArray[np.int32]
Mask = NDArray[np.bool_]

_SUREST: Final = 0.98
_STRAY: Final = 1e-4
"""Share of exits that are taken to have no entry."""


def first_evidence(scene: Scene) -> tuple[F64Array, F64Array]:
    """`thread_evidence` before owners are known: from how many exits find their thread among open entries."""
    shared, chance = _open_beside(scene, scene.entry_thread, scene.exit_thread) > 0, _chance(scene)
    beside = _open_beside(scene, scene.entry_process, scene.exit_process)
    by_chance = 1 - (1 - chance) ** beside
    told = (scene.exit_thread >= 0) & (beside > 0)
    return _weights(scene, told, shared, by_chance, chance)


def thread_evidence(scene: Scene, owner: I32Array) -> tuple[F64Array, F64Array]:
    """What it adds to the score of each exit to share its entry's thread, and what it adds not to.

    owner: entries that exits are thought to belong to, -1 for none. Per process, a share s of exits run on the thread
    of their entry for a reason, the others on any: s is what agrees beyond chance. Where one thread does everything,
    or any thread does anything, s is 0 and threads count for nothing.
    """
    chance = _chance(scene)
    told = (owner >= 0) & (scene.exit_thread >= 0) & (scene.entry_thread[owner] >= 0)
    return _weights(scene, told, scene.entry_thread[owner] == scene.exit_thread, chance, chance)


def _weights(
    scene: Scene, told: Mask, agrees: Mask, by_chance: F64Array, chance: F64Array
) -> tuple[F64Array, F64Array]:
    """told: exits that count; by_chance: how likely each was to agree anyway."""
    processes, process = scene.exits_of.size - 1, scene.exit_process
    known = process[told]
    count = np.bincount(known, minlength=processes)
    agreed = np.bincount(known, agrees[told], processes)
    expected = np.bincount(known, by_chance[told], processes)
    share = np.clip((agreed - expected) / np.maximum(count - expected + 1.0, 1.0), 0.0, _SUREST)[process]
    agree = np.log(share / np.maximum(chance, 1e-6) + 1 - share)
    on_thread = scene.exit_thread >= 0
    return np.where(on_thread, agree, 0.0), np.where(on_thread, np.log1p(-share), 0.0)


def _open_beside(scene: Scene, entry_key: NDArray[np.integer], exit_key: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many entries with the key of each exit are open when it begins."""
    key, at = np.concatenate([entry_key, exit_key]), np.concatenate([scene.entry_start, scene.exit_start])
    end = np.concatenate([scene.entry_end, scene.exit_end])
    entry = np.arange(key.size) < entry_key.size
    order = np.argsort(key, kind="stable")
    count = np.empty(key.size, np.int64)
    count[order] = open_entries(key[order].astype(np.int64), at[order], end[order], entry[order])
    return count[entry_key.size :]


def _chance(scene: Scene) -> F64Array:
    """Share of its process's entries that ran on the thread of each exit; threads belong to one process each."""
    threads = int(max(scene.entry_thread.max(initial=-1), scene.exit_thread.max(initial=-1))) + 1
    served = np.bincount(scene.entry_thread[scene.entry_thread >= 0], minlength=threads + 1)
    entries = np.diff(scene.entries_of)[scene.exit_process]
    return served[np.maximum(scene.exit_thread, 0)] / np.maximum(entries, 1)


def stray_score(scene: Scene) -> F64Array:
    """Log density of an exit that belongs to no entry: any time is as good as any other."""
    process = scene.exit_process
    count = np.diff(scene.exits_of)
    first, last = scene.exits_of[:-1], np.maximum(scene.exits_of[1:] - 1, 0)
    span = np.zeros(count.size)
    some = count > 0
    span[some] = scene.exit_start[last[some]] - scene.exit_start[first[some]]
    rate = (count + 1) / (span + 1e9)
    return np.log(_STRAY * rate)[process]
