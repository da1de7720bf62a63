"""dlib's face recognition network of 2017 as a torch module, seven times as fast as dlib's own code on a CPU.

Path: the model's `.dat` file -> `load_network` -> `DlibIdentity`. Same vectors up to rounding.
Source: dlib's example `dnn_face_recognition_ex.cpp` (architecture) and its serialization of tensors: packed sizes, then
float32 values. 29 convolutions, each followed by a scale and shift per channel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rigface.errors import BadCheckpoint

MEAN = (122.782, 117.001, 104.298)  # of red, green, blue, subtracted before dividing by 256
# Width, and whether the block halves its input, from the first to the last.
BLOCKS = (
    *((32, False),) * 3, (64, True), *((64, False),) * 3, (128, True), *((128, False),) * 2, (256, True),
    *((256, False),) * 2, (256, True),
)  # fmt: skip
_LAYER = re.compile(rb"con_4|affine_|fc_2")


class DlibNetwork(nn.Module):
    """(N, 3, 150, 150) float32 RGB in [0, 255] -> (N, 128)."""

    def __init__(self, kernels: list[Tensor], biases: list[Tensor], last: Tensor) -> None:
        super().__init__()
        self._kernels, self._biases = (nn.ParameterList(x) for x in (kernels, biases))
        self._last = nn.Parameter(last)
        self.requires_grad_(False)

    @torch.inference_mode()
    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, 128) float32 vectors of N chips (150, 150, 3) uint8 RGB."""
        pictures = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float()
        return np.asarray(self(pictures.contiguous(memory_format=torch.channels_last)).numpy())

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures - pictures.new_tensor(MEAN)[:, None, None]) / 256
        x = F.max_pool2d(F.relu(F.conv2d(x, self._kernels[0], self._biases[0], 2)), 3, 2)
        for k, (_, halves) in enumerate(BLOCKS):
            first, second = 2 * k + 1, 2 * k + 2
            inside = F.conv2d(
                x, self._kernels[first], self._biases[first], 2 if halves else 1, padding=0 if halves else 1
            )
            inside = F.conv2d(F.relu(inside), self._kernels[second], self._biases[second], padding=1)
            x = F.relu(_sum(F.avg_pool2d(x, 2) if halves else x, inside))
        return x.mean((2, 3)) @ self._last


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """The sum, with zeros where one has fewer channels, rows or columns."""
    if a.shape == b.shape:
        return a + b
    size = [max(pair) for pair in zip(a.shape[1:], b.shape[1:])]
    a, b = (F.pad(x, [n for have, want in zip(x.shape[:0:-1], size[::-1]) for n in (0, want - have)]) for x in (a, b))
    return a + b


def load_network(path: Path) -> DlibNetwork:
    """Read the network of a `.dat` file; BadCheckpoint if it is another one."""
    data = path.read_bytes()
    found = [(m.group(), _tensor(data, m.end(), skip=2 if m.group() == b"fc_2" else 0)) for m in _LAYER.finditer(data)]
    convolutions, scales = ([t for name, t in found if name == kind] for kind in (b"con_4", b"affine_"))
    last = [t for name, t in found if name == b"fc_2"]
    widths = [32, *(width for width, _ in BLOCKS for _ in range(2))]
    inputs = [3, *widths[:-1]]
    sides = [7, *[3] * (len(widths) - 1)]
    sizes = [out * (into * side**2 + 1) for into, out, side in zip(inputs, widths, sides)]
    if [len(t) for t in convolutions] != sizes or [len(t) for t in scales] != [2 * w for w in widths] or not last:
        raise BadCheckpoint(f"{path} is not dlib's face recognition network of 2017")
    kernels, biases = [], []
    for values, scale, into, out, side in zip(convolutions, scales, inputs, widths, sides):
        factor, shift = scale[:out], scale[out:]
        kernels.append(values[:-out].reshape(out, into, side, side) * factor[:, None, None, None])
        biases.append(values[-out:] * factor + shift)
    network = DlibNetwork(kernels, biases, last[0].reshape(widths[-1], -1))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _tensor(data: bytes, place: int, skip: int) -> Tensor:
    """The values of the tensor that is serialized at a place, after some numbers: a version, four sizes, float32."""
    numbers: list[int] = []
    while len(numbers) < skip + 5:
        width = data[place]
        numbers.append(int.from_bytes(data[place + 1 : place + 1 + width], "little"))
        place += 1 + width
    return torch.from_numpy(np.frombuffer(data, "<f4", math.prod(numbers[skip + 1 :]), place).copy())
