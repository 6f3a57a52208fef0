"""Which unlabelled video to label next.

python scripts/labelling_order.py    # accuracy by number of labels, against random order
"""

import numpy as np


def labelling_order(scores: np.ndarray) -> list[int]:
    """Positions of unlabelled videos; the first helps most when it is labelled.

    Args:
        scores: Softmax scores (videos, classes) of the present head.
    """
    ranked = np.sort(scores, axis=1)
    margin = ranked[:, -1] - ranked[:, -2]
    return np.argsort(margin, kind="stable").tolist()
