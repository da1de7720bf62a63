"""Ranges of numbers in configurations, checked when a configuration is made."""

from rigface.errors import PlanError

SEED = "[0, 9223372036854775808)"


def in_range(config: object, interval: str, *names: str) -> None:
    """Refuse attributes (numbers, tuples of them, or None) outside of an interval, or not finite, by a PlanError.

    The interval is such as `[0, 1]`, `(0, inf)` or `[1, 5)`; a round bracket leaves its bound out.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            above = number > low or (interval[0] == "[" and number == low)
            below = number < high or (interval[-1] == "]" and number == high)
            if not (above and below):
                raise PlanError(f"--{name.replace('_', '-')}: want {_text(interval, low, high)}, got {number}")


def _text(interval: str, low: float, high: float) -> str:
    """`at least 0 and at most 1`, `above 0`."""
    text = f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"
    if high == float("inf"):
        return text
    return f"{text} and {'at most' if interval[-1] == ']' else 'below'} {high:g}"
