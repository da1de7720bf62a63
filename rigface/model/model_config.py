"""What a checkpoint's weights mean: the content of its `config.json`.

Path: `checkpoint.save` -> config.json -> `ModelConfig` -> whoever composes for the model, samples it or trains on.
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
    """What a checkpoint's weights mean; `compose` and the pipeline read it, so that nobody has to remember it.

    Args:
        process: what the denoiser undoes, and how it is sampled by default.
        head: the head model whose renders and codes it was trained with; None where that is not recorded.
        render_style: what the render condition shows, one of `RENDER_STYLES`.
        expression_field: the field of `FaceParams` that is its expression code, one of `EXPRESSION_FIELDS`.
        size: of the pictures, in pixels.
        detail: what the autoencoder loses of the render is added to every picture decoded (`latents.lost_detail`); for
            a bridge, whose render is nearly the answer.
        prompt: the words behind the default text embedding; "" where there are none.

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
        """The inverse of `to_json`.

        Raises:
            BadCheckpoint: not ours, from a newer version, or with settings this version does not know.
        """
        values = dict(content)
        if values.pop("format", None) != FORMAT:
            raise BadCheckpoint(f"config.json: want format {FORMAT!r}")
        if (version := values.pop("version", None)) != VERSION:
            raise BadCheckpoint(f"config.json: want version {VERSION}, got {version}")
        try:
            head = values.pop("head", None)
            if head is not None:
                head = HeadSpec(**{**head, "expression_names": tuple(head.get("expression_names", ()))})
            return ModelConfig(**{**values, "process": Process(**values.get("process", {}))}, head=head)
        except (TypeError, ValueError) as error:
            raise BadCheckpoint(f"config.json: {error}") from error
