"""Problem types: errors that a caller or a full disk causes are never `internal`."""

import errno

import av
import pytest
import torch

from rigface.errors import BadImage, BadVideo, NoFace, StorageGone
from serve.problems import problem_of


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (BadImage("torn"), "bad-image"),
        (BadVideo("torn"), "bad-clip"),
        (NoFace("none"), "no-face"),
        (StorageGone("away"), "busy"),
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), "busy"),
        (OSError(errno.EIO, "Input/output error"), "busy"),
        (MemoryError(), "busy"),
        (torch.OutOfMemoryError(), "busy"),
        (av.error.InvalidDataError(1, "torn"), "bad-clip"),
        (TimeoutError(), "timeout"),
        (PermissionError(errno.EACCES, "Permission denied"), "internal"),
        (KeyError("nose"), "internal"),
    ],
)
def test_problem_of_error(error, slug):
    problem = problem_of(error)
    assert problem.slug == slug
    assert "/tmp" not in problem.detail
