"""Configuration of a checkpoint, the content of its `config.json`.

Path: `checkpoint.save` -> config.json -> `ModelConfig` -> Composer, pipeline, training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rigface.errors import BadCheckpoint
from rigface.model.diffusion import Process
from rigface.types import HeadSpec

FORMAT = "rigface-model"
VERSION = 1
RENDER_STYLES = ("albedo", "texture", "shape")
EXPRESSION_FIELDS = ("expression", "bfm_expression")


@dataclass(frozen=True)
class ModelConfig:
    """Settings that the weights of a checkpoint were trained with.

    Args:
        process: the process that the denoiser reverses, and its default sampling.
        head: the head model of its renders and codes; None if it is not recorded.
        render_style: content of the render condition, one of `RENDER_STYLES`.
        expression_field: the field of `FaceParams` that is its expression code, one of `EXPRESSION_FIELDS`.
        size: of the pictures, in pixels.
        detail: add the detail of the render that the autoencoder loses to every decoded picture
            (`latents.lost_detail`); for a bridge, whose render is nearly the answer.
        prompt: text of the default text embedding; "" if there is none.

    Raises:
        ValueError: an unknown style or field.
    """

    process: Process = field(default_factory=Process)
    head: HeadSpec | None = None
    render_style: str = "albedo"
    expression_field: str = "expression"
    size: int = 512
    detail: bool = False
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.render_style not in RENDER_STYLES:
            raise ValueError(f"ModelConfig.render_style: want one of {RENDER_STYLES}, got {self.render_style!r}")
        if self.expression_field not in EXPRESSION_FIELDS:
            raise ValueError(
                f"ModelConfig.expression_field: want one of {EXPRESSION_FIELDS}, got {self.expression_field!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @staticmethod
    def from_json(content: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_json`; BadCheckpoint for another format, a newer version or unknown settings."""
        values = dict(content)
        if values.pop("format", None) != FORMAT:
            raise BadCheckpoint(f"config.json: want format {FORMAT!r}")
        if (version := values.pop("version", None)) != VERSION:
            raise BadCheckpoint(f"config.json: want version {VERSION}, got {version}")
        try:
            head = values.pop("head", None)
            if head is not None:
                head = HeadSpec(**head)
            return ModelConfig(**{**values, "process": Process(**values.get("process", {}))}, head=head)
        except (TypeError, ValueError) as error:
            raise BadCheckpoint(f"config.json: {error}") from error
