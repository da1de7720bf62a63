"""Expression codes seen in a mirror, for training examples that are mirrored left to right.

Path: expression field and head -> `code_mirror` -> code (E,) -> mirrored code (E,).

Named axes change places with their twins. The axes of the Basel head are principal components, so its codes are mapped
by least squares: mirror the motion of the vertices, and find the code that makes it, M = pinv(B) P B, with B (3 V, 64)
the expression basis and P the exchange of mirrored vertices with a change of sign of x.
"""

from collections.abc import Callable

import numpy as np

from rigface.examples import mirrored_expression
from rigface.face.head.head_model import Head
from rigface.face.head.heads import load_head
from rigface.profile import ExpressionField
from rigface.types import HeadSpec

Mirror = Callable[[np.ndarray], np.ndarray]


def code_mirror(expression_field: ExpressionField, head: HeadSpec) -> Mirror:
    """A function from an expression code (E,) to the same code in a mirror.

    Raises:
        MissingAsset: the Basel head, for `bfm_expression`, is not on this machine.
        ValueError: the head's axes have no names.
    """
    if expression_field == "bfm_expression":
        matrix = mirror_matrix(load_head("basel"))
        return lambda code: (matrix @ code).astype(np.float32)
    order = mirrored_expression(head.expression_names)
    return lambda code: code[order]


def mirror_matrix(head: Head) -> np.ndarray:
    """(E, E) float64 from expression coefficients to those of the mirrored face; exact for a symmetric basis."""
    from scipy.spatial import cKDTree

    points, flip = head.template.numpy().astype(np.float64), np.array([-1.0, 1, 1])
    twin = cKDTree(points).query(points * flip)[1]
    basis = head.expression_basis.numpy().astype(np.float64)
    mirrored = basis[twin] * flip[:, None]
    return np.asarray(np.linalg.pinv(basis.reshape(-1, basis.shape[2])) @ mirrored.reshape(-1, basis.shape[2]))
