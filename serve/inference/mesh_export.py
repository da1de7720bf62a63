"""Export the textured head as GLB (one binary, opens anywhere) or OBJ (a zip of OBJ, MTL and JPEG).

Path: a reconstructed face -> fitted vertices -> GLB / OBJ. The texture is the crop; each vertex's coordinate is its
projection: right for surfaces in view, stretched for those that turn away from the camera. Source: glTF 2.0
specification, sections 3.6 and 4.4. Metres; x to the person's left, y up, z out of the face.
"""

import io
import json
import struct
import zipfile

import numpy as np
import torch

from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.head.heads import load_head
from rigface.image import encode_jpeg
from rigface.types import CROP_PX, Face, HeadSpec
from serve.protocols import MeshFormat

FLOAT, UINT = 5126, 5125
_MTL = "newmtl skin\nKd 1 1 1\nmap_Kd face.jpg\n"


def export_mesh(face: Face, spec: HeadSpec, kind: MeshFormat) -> bytes:
    """The face's fitted head, of the model that its coefficients are of, as a file."""
    head = load_head(spec)
    params = face.params.map(lambda a: torch.from_numpy(np.ascontiguousarray(a))[None])
    vertices = head.of(params)
    uv = (to_crop_px(project(vertices, params.camera), CROP_PX)[0, :, :2] / CROP_PX).clamp(0, 1).numpy()
    points, triangles = vertices[0].numpy().astype(np.float32), np.asarray(head.faces).astype(np.uint32)
    picture = encode_jpeg(face.crop, 90)
    return (
        _glb(points, uv.astype(np.float32), triangles, picture)
        if kind == "glb"
        else _obj(points, uv, triangles, picture)
    )


def _glb(points: np.ndarray, uv: np.ndarray, triangles: np.ndarray, picture: bytes) -> bytes:
    chunks = [points.tobytes(), uv.tobytes(), triangles.tobytes(), picture]
    views, blob = [], b""
    for chunk in chunks:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(chunk)})
        blob += chunk + bytes(-len(chunk) % 4)
    low, high = points.min(0).tolist(), points.max(0).tolist()
    content = {
        "asset": {"version": "2.0", "generator": "RigFace"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [
            {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}}
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": [
            {"bufferView": 0, "componentType": FLOAT, "count": len(points), "type": "VEC3", "min": low, "max": high},
            {"bufferView": 1, "componentType": FLOAT, "count": len(uv), "type": "VEC2"},
            {"bufferView": 2, "componentType": UINT, "count": triangles.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    parts = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts


def _obj(points: np.ndarray, uv: np.ndarray, triangles: np.ndarray, picture: bytes) -> bytes:
    lines = ["mtllib face.mtl", "usemtl skin"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points]
    lines += [f"vt {u:.5f} {1 - v:.5f}" for u, v in uv]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in triangles + 1]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as folder:
        folder.writestr("face.obj", "\n".join(lines) + "\n")
        folder.writestr("face.mtl", _MTL)
        folder.writestr("face.jpg", picture)
    return out.getvalue()
