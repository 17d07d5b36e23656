import numpy as np
from numpy.typing import NDArray

def cut_out(
    datas: tuple[bytes, ...], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[bytes, NDArray[np.uint64]]:
    """The bytes at these places in the texts, counted as if these stood one behind another, and the digest of each.

    Places are in their order and do not overlap, none is empty, each is within one text. Raises ValueError for others.
    """

def span_ids(rows: NDArray[np.void], digests: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
