"""ONNX networks of the judges, and their inputs: the square around a face, and its mirror image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from rigface.errors import MissingAsset


def load_network(path: Path, outputs: int = 1) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A network of one input as a function of a float32 array; MissingAsset if the file is no such network.

    It runs on one thread of the CPU: the networks are small, and results then do not depend on the machine's load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every way to fail
        raise MissingAsset(f"{path} is no ONNX network that onnxruntime can read: {error}") from error
    given, made = session.get_inputs(), session.get_outputs()
    if len(given) != 1 or len(made) != outputs:
        raise MissingAsset(f"{path}: want one input and {outputs} outputs, got {len(given)} and {len(made)}")

    def run(batch: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, {given[0].name: batch})]

    return run


def square_around(box: np.ndarray, times: float, px: int) -> np.ndarray | None:
    """The affine (2, 3) from image px to a square of `px` around a box (4,), `times` its larger side; None if empty."""
    box = np.asarray(box, np.float64)
    side = times * max(box[2] - box[0], box[3] - box[1])
    if not side > 2:
        return None
    scale = px / side
    return np.asarray(np.concatenate([np.eye(2), side / 2 - (box[:2] + box[2:]).reshape(2, 1) / 2], 1) * scale)


def with_mirror(picture: np.ndarray) -> np.ndarray:
    """A picture (C, S, S) and its mirror image as a batch (2, C, S, S); a judge's mean treats left and right alike."""
    return np.stack([picture, picture[..., ::-1]])
