"""A TensorFlow Lite model as a torch module: the operators of MediaPipe's networks, in batches, on any device.

Path: bytes of a `.tflite` file -> TfliteNetwork -> its outputs for a batch.
Source: the schema of such files, which the package `mediapipe` holds, and the reference kernels of TensorFlow Lite.

In a file the first axis of every feature map is 1. Here it is the batch, and no operator touches it. Weights in float16
become float32, which TensorFlow Lite computes with, too. Feature maps stay (N, H, W, C), as in the file; torch's
convolutions see the same memory as (N, C, H, W) in the format `channels_last`.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rigface.errors import BadCheckpoint

_SAME = 0  # padding such that ceil(size / stride) places come out; more of it at the end if it is odd
_ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {0: lambda x: x, 1: torch.relu, 3: F.relu6}
_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}


class TfliteNetwork(nn.Module):
    """The graph of a model, ready to run on the CPU; `.to(device)` takes its constants along.

    Raises:
        BadCheckpoint: the bytes are no such model, or it has operators or kinds of numbers that are not known here.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        schema = _schema()
        try:
            parsed: Any = schema.ModelT.InitFromPackedBuf(model)
            (graph,) = parsed.subgraphs
        except Exception as e:  # the reader checks nothing: anything may come of wrong offsets
            raise BadCheckpoint(f"this is no TensorFlow Lite model ({e})") from e
        names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
        codes = [
            code.customCode.decode() if code.customCode else names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            for code in parsed.operatorCodes
        ]
        if unknown := sorted({*codes} - {*_OPERATORS, "DEQUANTIZE"}):
            raise BadCheckpoint(f"this model has operators that are not known here: {', '.join(unknown)}")
        constants = {
            number: _constant(tensor, parsed.buffers[tensor.buffer].data)
            for number, tensor in enumerate(graph.tensors)
            if parsed.buffers[tensor.buffer].data is not None
        }
        self._steps: list[tuple[str, Any, list[int], int]] = []  # operator, options, its inputs, its output
        for operator in graph.operators:
            inputs, output = [int(number) for number in operator.inputs], int(operator.outputs[0])
            if (name := codes[operator.opcodeIndex]) == "DEQUANTIZE":
                constants[output] = constants[inputs[0]]
            else:
                self._steps.append((name, operator.builtinOptions, inputs, output))
        self._input, self._outputs = int(graph.inputs[0]), [int(number) for number in graph.outputs]
        last_use = {number: k for k, (_, _, inputs, _) in enumerate(self._steps) for number in inputs}
        self._done = [
            [number for number in {*inputs} - constants.keys() if last_use[number] == k]
            for k, (_, _, inputs, _) in enumerate(self._steps)
        ]
        self._numbers = {n: value for n, value in constants.items() if isinstance(value, tuple)}
        self._weights = sorted({*last_use} & {*constants} - {*self._numbers})
        for number in self._weights:
            self.register_buffer(f"constant_{number}", cast(Tensor, constants[number]))

    def forward(self, batch: Tensor) -> list[Tensor]:
        """The outputs, each (N, ...) float32, in the file's order, of a batch (N, ...) float32."""
        values: dict[int, Any] = {self._input: batch, **self._numbers}
        values |= {number: getattr(self, f"constant_{number}") for number in self._weights}
        for (name, options, inputs, output), done in zip(self._steps, self._done):
            values[output] = _OPERATORS[name](options, *(values[number] for number in inputs))
            for number in done:
                del values[number]  # a feature map of a large batch has a hundred MB
        return [values[number] for number in self._outputs]


@cache
def _schema() -> Any:
    """The module of the schema, without the rest of MediaPipe, which takes half a second to import."""
    package = find_spec("mediapipe")
    assert package is not None and package.origin is not None  # noqa: PT018
    file = Path(package.origin).parent / "tasks" / "metadata" / "schema_py_generated.py"
    spec = spec_from_file_location("mediapipe_schema", file)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _constant(tensor: Any, data: np.ndarray) -> Tensor | tuple[Any, ...]:
    """Weights as a float32 tensor, or the numbers (axes, shapes) that parametrize an operator as nested tuples."""
    if tensor.type not in _DTYPES:
        raise BadCheckpoint(f"this model has constants of TensorFlow Lite's type {tensor.type}, not known here")
    values = np.frombuffer(data.tobytes(), _DTYPES[tensor.type]).reshape(
        tensor.shape if tensor.shape is not None else ()
    )
    if values.dtype != np.int32:
        return torch.from_numpy(values.astype(np.float32))
    numbers: Any = np.atleast_1d(values).tolist()
    return tuple(tuple(n) if isinstance(n, list) else n for n in numbers)


def _same_padding(options: Any, x: Tensor, kernel: tuple[int, int], value: float = 0.0) -> Tensor:
    """A feature map (N, H, W, C), padded if the options say SAME."""
    if options.padding != _SAME:
        return x
    pads: list[int] = []
    for size, side, stride in zip(x.shape[2:0:-1], kernel[::-1], (options.strideW, options.strideH)):
        more = max((-(-size // stride) - 1) * stride + side - size, 0)
        pads += [more // 2, more - more // 2]
    return F.pad(x, (0, 0, *pads), value=value) if any(pads) else x


def _convolution(options: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _convolved(options, x, weight.permute(0, 3, 1, 2), bias, groups=1)


def _depthwise(options: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _convolved(options, x, weight.permute(3, 0, 1, 2), bias, groups=x.shape[3])


def _convolved(options: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """(N, H, W, C) with a weight (O, C / groups, h, w)."""
    padded = _same_padding(options, x, (weight.shape[2], weight.shape[3])).permute(0, 3, 1, 2)
    stride, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    y = F.conv2d(padded, weight, bias, stride, dilation=dilation, groups=groups)
    return _ACTIVATIONS[options.fusedActivationFunction](y).permute(0, 2, 3, 1)


def _transposed(options: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """MediaPipe's transposed convolution with a bias, whose places do not overlap."""
    y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight.permute(3, 0, 1, 2), bias, weight.shape[1:3])
    return y.permute(0, 2, 3, 1)


def _average_pool(options: Any, x: Tensor) -> Tensor:
    kernel = options.filterHeight, options.filterWidth
    if options.padding == _SAME and (x.shape[1] % options.strideH or x.shape[2] % options.strideW):
        raise BadCheckpoint("this model averages over padding (AVERAGE_POOL_2D with SAME), which is not known here")
    return F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, (options.strideH, options.strideW)).permute(0, 2, 3, 1)


def _enlarge(options: Any, x: Tensor, size: tuple[int, ...]) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    return F.interpolate(x, size, mode="bilinear", align_corners=bool(options.alignCorners)).permute(0, 2, 3, 1)


def _max_pool(options: Any, x: Tensor) -> Tensor:
    kernel = options.filterHeight, options.filterWidth
    padded = _same_padding(options, x, kernel, -torch.inf).permute(0, 3, 1, 2)
    return F.max_pool2d(padded, kernel, (options.strideH, options.strideW)).permute(0, 2, 3, 1)


def _pad(options: Any, x: Tensor, pads: tuple[tuple[int, int], ...]) -> Tensor:
    return F.pad(x, [n for pair in reversed(pads) for n in pair])


def _concatenate(options: Any, *parts: Tensor) -> Tensor:
    count = max(len(part) for part in parts)  # a constant part has one for all of the batch
    return torch.cat([part.expand(count, *part.shape[1:]) for part in parts], options.axis)


def _slice(options: Any, x: Tensor, begin: tuple[int, ...], end: tuple[int, ...], step: tuple[int, ...]) -> Tensor:
    """A strided slice; of the batch all is kept, also where the file drops that axis."""
    chosen = [slice(None)] * x.ndim
    for axis in range(1, x.ndim):
        first = None if options.beginMask >> axis & 1 else begin[axis]
        chosen[axis] = slice(first, None if options.endMask >> axis & 1 else end[axis], step[axis])
    return x[tuple(chosen)]


def _reshape(options: Any, x: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    return x.reshape(len(x), *(options.newShape.tolist() if shape is None else shape)[1:])


def _prelu(options: Any, x: Tensor, slope: Tensor) -> Tensor:
    return F.prelu(x.permute(0, 3, 1, 2), slope.flatten()).permute(0, 2, 3, 1)


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "ADD": lambda options, a, b: _ACTIVATIONS[options.fusedActivationFunction](a + b),
    "AVERAGE_POOL_2D": _average_pool,
    "CONCATENATION": _concatenate,
    "CONV_2D": _convolution,
    "Convolution2DTransposeBias": _transposed,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DIV": lambda options, a, b: a / b,
    "HARD_SWISH": lambda options, x: F.hardswish(x),
    "LOGISTIC": lambda options, x: torch.sigmoid(x),
    "MAX_POOL_2D": _max_pool,
    "MEAN": lambda options, x, axes: x.mean(axes, keepdim=options.keepDims),
    "MUL": lambda options, a, b: a * b,
    "NEG": lambda options, x: -x,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": lambda options, x: torch.relu(x),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _enlarge,
    "RSQRT": lambda options, x: torch.rsqrt(x),
    "SQRT": lambda options, x: torch.sqrt(x),
    "SQUARED_DIFFERENCE": lambda options, a, b: (a - b).square(),
    "STRIDED_SLICE": _slice,
    "SUB": lambda options, a, b: a - b,
    "SUM": lambda options, x, axes: x.sum(axes, keepdim=options.keepDims),
    "TRANSPOSE": lambda options, x, order: x.permute(order),
}
