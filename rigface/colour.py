"""Colorimetry of linear sRGB: luminance, CIELAB and the individual typology angle (ITA) of skin.

Source: IEC 61966-2-1:1999 for the primaries and D65; Chardon, Cretois and Hourseau 1991 for the angle.
"""

import numpy as np

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB, Rec. 709
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2 degrees) of linear sRGB colours (..., 3); negative components count as 0."""
    xyz = np.maximum(np.asarray(linear, np.float64) @ _TO_XYZ.T / _TO_XYZ.sum(1), 0)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def ita_deg(linear: np.ndarray, min_yellow: float = -np.inf) -> np.ndarray:
    """Individual typology angle of colours (..., 3) linear sRGB: (...,) degrees, light skin high.

    atan2(L* - 50, b*); above 55 very light, below -30 dark. Of a photograph it depends on exposure and colour cast.
    Smaller b* count as `min_yellow`: skin is yellowish (b* > 0), and light or a grey image can make it bluish.
    """
    lightness, _, yellow = np.moveaxis(lab(linear), -1, 0)
    return np.asarray(np.degrees(np.arctan2(lightness - 50, np.maximum(yellow, min_yellow))))
