import numpy as np
from numpy.typing import NDArray

def digests(data: bytes, offsets: NDArray[np.int64]) -> NDArray[np.uint64]: ...
