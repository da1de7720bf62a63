"""Editing pipeline in the manner of diffusers, and the conversion of its inputs."""

from rigface.model.pipeline.pipeline import RigFaceOutput as RigFaceOutput
from rigface.model.pipeline.pipeline import RigFacePipeline as RigFacePipeline
