"""Faces of a dataset as another profile sees them, so that any model can be evaluated on any dataset.

Path: a row's Face, a model's FaceProfile -> `ProfileFaces` -> Face in that profile's head, mask and expression code.
"""

from functools import cache

from rigface.face.analyzer import FaceAnalyzer
from rigface.profile import OWN, ConditionSpec, FaceProfile
from rigface.types import Face, HeadSpec


class ProfileFaces:
    """Analyses the crops of a dataset anew where a profile differs from the dataset's.

    Args:
        head: of the dataset's coefficients.
        parser: of its masks, with its version, as in `DetectorSpec`.
    """

    def __init__(self, head: HeadSpec, parser: str) -> None:
        self._head, self._parser = head, parser.partition("-")[0]
        self._analyzer = cache(FaceAnalyzer.load)

    def __call__(self, face: Face, profile: FaceProfile) -> tuple[Face, HeadSpec]:
        """The face, and the head model of its coefficients; MissingAsset if a network is not on this machine."""
        has_codes = profile.expression_codes == "none" or face.params.bfm_expression is not None
        is_alike = has_codes and (self._head.name, self._parser) == (profile.head, profile.parser)
        is_own = profile == OWN and self._head.name in ("open", "fake")  # another parser's masks hold the same classes
        if is_alike or is_own:
            return face, self._head
        analyzer = self._analyzer(profile)
        return analyzer.again(face), analyzer.head


def plain_conditions(head: HeadSpec, size: int) -> ConditionSpec:
    """Conditions that any faces of a head model have: for targets, which no model sees."""
    if head.name in ("open", "fake"):
        return ConditionSpec("texture", size)
    return ConditionSpec("shape", size, profile=FaceProfile(head=head.name, margin=0.0))  # type: ignore[arg-type]
