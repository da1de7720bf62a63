"""Weights that users bring, made by hand: networks whose outputs are known.

A model pack like InsightFace's, in ONNX, whose outputs are numbers, and a tiny SegFormer that says hair everywhere.

SCRFD's nine outputs are constants, times the mean of the picture's red: so a red picture has a face and a blue one
has none, which also tells whether colours arrive in the right order. `in_red=False` leaves that out: a face in every
picture.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 640
LANDMARKS = np.linspace(-0.6, 0.6, 212).astype(np.float32)  # x, y of 106 points in [-1, 1]
ARCFACE = np.arange(1, 513, dtype=np.float32)


def save(path, shape, outputs: dict[str, np.ndarray], scaled: set[str]) -> None:
    """A network with one input (1, 3, H, W); outputs are constants, those in `scaled` times (mean of channel 0 + 1) /
    2."""
    nodes = [
        helper.make_node("Slice", ["input", "zero", "one", "axis"], ["red"]),
        helper.make_node("ReduceMean", ["red"], ["bright"], keepdims=0),
        helper.make_node("Add", ["bright", "unit"], ["above"]),
        helper.make_node("Div", ["above", "two"], ["share"]),
    ]
    constants = {"zero": [0], "one": [1], "axis": [1]}
    weights = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()]
    weights += [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in (("unit", 1), ("two", 2))]
    for name, value in outputs.items():
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"{name}_value"))
        factor = "share" if name in scaled else "unit"
        nodes.append(helper.make_node("Mul", [f"{name}_value", factor], [name], name=f"out_{name}"))
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, v.shape) for name, v in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


Seen = tuple[int, int, int, float, tuple[float, float, float, float]]


def scrfd(path, faces: list[Seen], in_red: bool = True) -> None:
    """SCRFD that sees faces: (stride, column, row, score, distances left, top, right, bottom in strides)."""
    outputs = {}
    for stride in (8, 16, 32):
        count = (SIZE // stride) ** 2 * 2  # two anchors per place
        scores, boxes, points = np.zeros((count, 1)), np.zeros((count, 4)), np.zeros((count, 10))
        for own, column, row, score, distances in faces:
            if own == stride:
                at = (row * (SIZE // stride) + column) * 2
                scores[at], boxes[at] = score, distances
        outputs |= {f"score_{stride}": scores, f"box_{stride}": boxes, f"points_{stride}": points}
    ordered = {f"{kind}_{s}": outputs[f"{kind}_{s}"] for kind in ("score", "box", "points") for s in (8, 16, 32)}
    save(path, [1, 3, SIZE, SIZE], ordered, {name for name in ordered if in_red and name.startswith("score")})


ONE = [(16, 10, 12, 0.9, (3.0, 4.0, 5.0, 6.0))]  # around (160, 192): x 112-240, y 128-288


def pack(folder: Path, faces: list[Seen] = ONE, in_red: bool = True) -> Path:
    """A folder like buffalo_l."""
    scrfd(folder / "det_10g.onnx", faces, in_red)
    save(folder / "2d106det.onnx", [1, 3, 192, 192], {"fc1": LANDMARKS[None]}, set())
    save(folder / "w600k_r50.onnx", [1, 3, 112, 112], {"embedding": ARCFACE[None]}, {"embedding"} if in_red else set())
    return folder


def tiny_segformer(folder, labels) -> None:
    """A face parser of these labels; its bias says hair everywhere."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(labels)),
        label2id={name: k for k, name in enumerate(labels)},
    )
    network = SegformerForSemanticSegmentation(config)
    torch.nn.init.zeros_(network.decode_head.classifier.weight)
    with torch.no_grad():
        network.decode_head.classifier.bias[:] = torch.tensor([3.0 if name == "hair" else 0.0 for name in labels])
    network.save_pretrained(folder)
