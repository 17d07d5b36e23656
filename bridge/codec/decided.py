"""What linking decided, as it is written: what the writers of OTLP and of points have in common."""

import numpy as np
from numpy.typing import NDArray

from bridge.spans import Decisions


def confidence_of(decisions: Decisions) -> NDArray[np.float64]:
    """How sure each edge is: 0..1, rounded to 3 decimals, which is more than is known of any of them."""
    sure = np.nan_to_num(decisions.confidence.astype(np.float64), nan=0.0)
    rounded: NDArray[np.float64] = np.rint(np.clip(sure, 0.0, 1.0) * 1000) / 1000
    return rounded
