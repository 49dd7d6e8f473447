"""mtcnn-rnet: face or not, on the 100 faces and 100 other pictures of scikit-image's lfw_subset.

The network wants 24 x 24 pixels, transposed, in [-1, 1]. The test scales the pictures of 25 x 25; calibration sees them mirrored and
cut.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..feeds import Feeds
from ..fetch import fetch
from .metrics import share_equal
from .task import Data, Measure, Requirement, Runs, Task, outputs

SIDE = 24
PROBABILITIES = 1  # the network's second output


def load(f32: Runs) -> Data:
    pictures = np.load(fetch(["lfw-subset"])["lfw-subset"], allow_pickle=False).astype(np.float32)
    is_face = [k < len(pictures) // 2 for k in range(len(pictures))]
    measure = Measure(
        "faces",
        "accuracy",
        outputs("mtcnn-rnet", [_feed(_scaled(p)) for p in pictures], PROBABILITIES),
        lambda given, _: share_equal([bool(y[0, 1] > 0.5) for y in given], is_face),
        Requirement(0.995, "higher"),
    )
    return Data({"mtcnn-rnet": [_feed(p[:SIDE, -2 : -SIDE - 2 : -1]) for p in pictures]}, (measure,))


def _scaled(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _feed(grey: np.ndarray) -> Feeds:
    """f32[24, 24] in [0, 1] as the network wants it, the same in its three channels."""
    normal = ((grey.T * 255 - 127.5) / 128).astype(np.float32)
    return {"input_2": np.repeat(normal[None, :, :, None], 3, axis=3)}


TASK = Task("mtcnn-rnet", ("mtcnn-rnet",), "the 200 pictures of scikit-image's lfw_subset; calibration sees them mirrored", load)
