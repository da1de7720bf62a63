"""Sign the results of the service, and verify files of its callers.

Path: edited image, `EditInput`, `OutputOptions` -> `ResultSigner` -> file. Keys, manifests and watermarks are those of
`rigface.provenance.signer`.
"""

import os

import numpy as np

from rigface.provenance.signer import C2paSigner, Origin
from serve.limits import CLIP_PIXELS, MAX_PIXELS
from serve.messages import EditInput, OutputOptions
from serve.problems import ApiError


class ResultSigner(C2paSigner):
    """A signer of edits as they travel between the deployments."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder, MAX_PIXELS)

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """Watermark, encode and sign an (H, W, 3) uint8 image."""
        edit = {"source": edit_input.picture, **edit_input.record()}
        pictures = {name: data for name, data in edit_input.pictures.items() if data}
        source = pictures.pop(edit_input.picture, None)
        donors = {one.targets.get("identity") for one in edit_input.edits}
        parts = [Origin(data, "componentOf") for name, data in pictures.items() if name in donors]
        origins = [Origin(source), *parts] if source else []
        record = {**output_options.record, **edit}
        return self.sign_image(image, record, origins, output_options.format, output_options.quality)

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse a video that a caller may not send."""
        if width * height > CLIP_PIXELS:
            raise ApiError("too-large", f"video: {width} x {height} px; a frame may have {CLIP_PIXELS} px")
