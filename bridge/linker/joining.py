"""Which rows have equal keys: most have exactly one match, which is found here; the others are told apart elsewhere."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


def match_plain(candidates: U64Array, keys: U64Array) -> tuple[I64Array, Mask]:
    """For each key the first position among the candidates that has it, -1 for none; whether others have it, too."""
    if not candidates.size:
        return np.full(keys.size, -1, np.int64), np.zeros(keys.size, np.bool_)
    order = np.argsort(candidates, kind="stable")
    ordered = candidates[order]
    first = np.searchsorted(ordered, keys)
    here = np.minimum(first, ordered.size - 1)
    found = ordered[here] == keys
    following = np.minimum(first + 1, ordered.size - 1)
    several = found & (following > first) & (ordered[following] == keys)
    return np.where(found, order[here], -1), several


def repeated_plain(keys: U64Array) -> Mask:
    """Which keys another row has, too."""
    order = np.argsort(keys)
    same = keys[order][1:] == keys[order][:-1]
    mask = np.zeros(keys.size, np.bool_)
    mask[order[1:][same]] = True
    mask[order[:-1][same]] = True
    return mask


if TYPE_CHECKING:
    match, repeated = match_plain, repeated_plain
else:
    try:
        from bridge.linker._join import match, repeated
    except ImportError:  # no C compiler was there when the bridge was installed
        match, repeated = match_plain, repeated_plain
