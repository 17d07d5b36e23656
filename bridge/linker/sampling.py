"""Which traces are kept: header flags first, then the reference's hash of the trace id."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.options import LinkOptions
from bridge.spans import Encoding, SpanColumns

U64Array = NDArray[np.uint64]

_FACTOR: Final = np.uint64(1111111111111111111)


def flags(columns: SpanColumns, options: LinkOptions) -> NDArray[np.int8]:
    """Each row's sampling flag as the options have it: 1 keep, -1 reject, 0 undecided."""
    if options.sampling_flags == "ignore":
        return np.zeros(len(columns), np.int8)
    flag = np.sign(columns.app_flag)
    if options.datadog_reject == "undecided":
        flag = np.where((flag < 0) & (columns.app_encode == Encoding.DEC), 0, flag)
    return flag.astype(np.int8)


def kept_by_rate(trace_hi: U64Array, trace_lo: U64Array, rate: float) -> NDArray[np.bool_]:
    """Whether traces of these ids are kept at this rate: equal ids are kept or not on any machine.

    (lower + upper half) * 1111111111111111111, all mod 2**64, lies below rate * 2**64.
    """
    if rate >= 1.0:
        return np.ones(trace_hi.size, np.bool_)
    return (trace_lo + trace_hi) * _FACTOR < np.uint64(int(rate * 2.0**64))


def verdict_by_flags(label: NDArray[np.int64], flag: NDArray[np.int8], n_labels: int) -> NDArray[np.int8]:
    """-1 for each label with a reject, else 1 for each with a keep, else 0; label, flag: a row each."""
    verdict = np.zeros(n_labels, np.int8)
    verdict[label[flag > 0]] = 1
    verdict[label[flag < 0]] = -1
    return verdict
