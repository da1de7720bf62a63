"""Weights of published networks: read without executing anything, and filled in completely or not at all.

Path: `.pth`, `.tar`, `.pt` -> read_weights -> tensors by name -> build -> a network ready to run. Torch's own
restricted unpickler reads the files; for a Lightning checkpoint see `emoca.py`.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.face.networks.resnet50 import ResNet50

N = TypeVar("N", bound=nn.Module)
_DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError)
_UNREAD = ".num_batches_tracked"  # counters that only training reads


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a torch file, on the CPU, mapped from the file if it can be.

    Raises:
        MissingAsset: there is no such file.
        UnsafeFile: the file names something besides tensors and plain values; it was not executed.
        BadCheckpoint: the file is damaged, or is not a dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"{path} is not there")
    try:
        whole = zipfile.is_zipfile(path)  # only this format can be mapped: what is not wanted is then not read
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except _DAMAGED as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UnsafeFile(
                f"{path} asks for {named[1]}, which is no tensor; it was not run. Do not use it"
            ) from error
        raise BadCheckpoint(f"{path} is damaged, or is no torch file; download it again") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path}: want a dictionary of tensors, got a {type(content).__name__}")
    return _named(content)


def part(content: Mapping[str, Any], key: str, path: object) -> dict[str, Any]:
    """The dictionary under a key of a file; BadCheckpoint, naming the keys that are there, if there is none."""
    found = content.get(key)
    if not isinstance(found, dict):
        raise BadCheckpoint(
            f"{path}: want {key!r} in it, it has {_few(list(content)) or 'nothing'}; is it another file?"
        )
    return _named(found)


def below(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def without_wrapper(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The entries without the `module.` that training on several devices puts before every name."""
    return {name.removeprefix("module."): value for name, value in weights.items()}


def build(
    make: Callable[[], N], weights: Mapping[str, Any], path: object, device: str = "cpu", unused: Sequence[str] = ()
) -> N:
    """A network with these weights, for inference: batch norms folded, channels last, float32.

    Args:
        make: makes the network; its parameters are not allocated before the weights are checked.
        weights: a tensor for each of its names; names of counters may be missing.
        path: their file, for the message.
        unused: beginnings of names that may be there besides, such as heads for training.

    Raises:
        BadCheckpoint: a name is missing or unknown, or a shape differs; the message names the first few of each.
    """
    with torch.device("meta"):
        network = make().eval()
    wanted = {name: value.shape for name, value in network.state_dict().items() if not name.endswith(_UNREAD)}
    given = {k: v for k, v in weights.items() if not k.endswith(_UNREAD) and not k.startswith(tuple(unused))}
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {_shape(given[name])}, want {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and getattr(given[name], "shape", None) != shape
    ]
    if missing or unknown or shapes:
        problems = [f"{len(missing)} of {len(wanted)} tensors are missing ({_few(missing)})"] if missing else []
        problems += [f"{len(unknown)} are unknown ({_few(unknown)})"] if unknown else []
        problems += [f"{len(shapes)} have another shape ({_few(shapes)})"] if shapes else []
        title = (type(network).__doc__ or type(network).__name__).splitlines()[0].rstrip(".")
        raise BadCheckpoint(f"{path} does not hold this network ({title}): {'; '.join(problems)}. Is it another file?")
    network.load_state_dict(
        {name: given[name].to(torch.float32, copy=True) for name in wanted}, assign=True, strict=False
    )
    fold_batch_norms(network)
    network.requires_grad_(False)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution declared right before it; the outputs stay, to rounding."""
    for module in network.modules():
        before: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            before = name, child


def halve(network: N) -> N:
    """Let a network's ResNet-50 compute in bfloat16, which processors that multiply it natively do twice as fast."""
    for module in network.modules():
        if isinstance(module, ResNet50):
            module.bfloat16()
    return network


def _named(content: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in content.items()}


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else "no tensor"
