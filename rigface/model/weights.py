"""Read and write weights: no code is executed, and names and shapes fit exactly.

Path: safetensors (or a released `.bin`, read as bare tensors) -> names and tensors -> a module they fit exactly.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile

WEIGHTS = "diffusion_pytorch_model"  # diffusers' name


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a diffusers model folder as float32: one file or shards; `.bin` only as bare tensors.

    Half-precision files (`.fp16`) are read if there are no others, those without averaging (`.non_ema`) never.

    Raises:
        MissingAsset: there are none.
        UnsafeFile: a `.bin` that is more than bare tensors; it was not executed.
        BadCheckpoint: a damaged file.
    """
    variant = variant_of(folder)
    merged: dict[str, Tensor] = {}
    if variant is not None:
        for file in _files(folder, variant):
            merged |= read_safetensors(file)
    else:
        bare = folder / f"{WEIGHTS}.bin"
        if not bare.is_file():
            raise MissingAsset(f"{folder}: want {WEIGHTS}.safetensors, it is not there")
        try:
            merged = torch.load(bare, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise UnsafeFile(
                f"{bare} is not a file of bare tensors; it was not executed. Convert it to safetensors"
            ) from error
    return {name: tensor.float() for name, tensor in merged.items()}


def variant_of(folder: Path) -> str | None:
    """The precision in which a diffusers model folder has safetensors: "" for full, "fp16", or None if it has none."""
    return next((variant for variant in ("", "fp16") if _files(folder, variant)), None)


def _files(folder: Path, variant: str) -> list[Path]:
    """One file or its shards."""
    dotted = f".{variant}" if variant else ""
    whole = folder / f"{WEIGHTS}{dotted}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{WEIGHTS}{dotted}-*-of-*.safetensors"))


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Names and tensors of one file; MissingAsset if it is not there, BadCheckpoint if it is damaged."""
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise MissingAsset(f"{file} is not there") from error
    except SafetensorError as error:
        raise BadCheckpoint(f"{file} is no safetensors file: {error}") from error


def write_safetensors(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """One file; `dtype` to store as, or each tensor's own."""
    save_file({n: t.detach().to("cpu", dtype or t.dtype).contiguous() for n, t in tensors.items()}, file)
    file.chmod(
        file.parent.stat().st_mode & 0o666
    )  # readable for all who can read the folder; the library makes it private


def write_network(
    folder: Path, network: Any, state: Mapping[str, Tensor], prefix: str, dtype: torch.dtype | None = None
) -> None:
    """Write a diffusers network as a folder that its class reads: its config, and the weights of a state dict.

    `network` is one of diffusers' models, perhaps with adapters in it, `prefix` its place in the state. BadCheckpoint
    if the weights do not fit.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    with torch.device("meta"):
        plain = type(network).from_config(network.config)
    compare(plain, own, f"weights to save as {folder.name}")
    network.save_config(folder)
    write_safetensors(folder / f"{WEIGHTS}.safetensors", own, dtype)


def fill(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Assign tensors to a module, without a copy; it may be on the meta device. Raises as `compare`."""
    compare(module, weights, what)
    module.load_state_dict(weights, assign=True)


def compare(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Check names and shapes; BadCheckpoint, naming what is missing, unexpected or of another shape in `what`."""
    want = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    got = {name: tuple(t.shape) for name, t in weights.items()}
    problems = [f"missing {name}" for name in want if name not in got]
    problems += [f"unexpected {name}" for name in got if name not in want]
    problems += [f"{n}: want {want[n]}, got {got[n]}" for n in want if n in got and want[n] != got[n]]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise BadCheckpoint(f"{what} does not fit its config: {'; '.join(problems[:8])}{more}")
