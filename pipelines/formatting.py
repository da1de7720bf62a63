"""Numbers as text: bytes, durations, times in a clip, money, counts."""


def bytes_text(count: float) -> str:
    """`512 bytes`, `3.4 MB`, `120 GB` (powers of 1000)."""
    size, units = count, ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}" if units[0] != "bytes" and size < 10 else f"{size:.0f} {units[0]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `34 s`, `12 min`, `3 h 20 min`."""
    if seconds < 180:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if rest and hours < 100 else f"{hours:,} h"


def clock(seconds: float | None) -> str:
    """A time in a clip: `0:03.20`, `1:02:03.00`."""
    if seconds is None:
        return "–"
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def money(value: float) -> str:
    """`1,234.50`, `0.034`."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def rounded(value: float) -> str:
    """`12,345`, `3.4 million`."""
    return f"{value / 1e6:,.1f} million" if value >= 1e6 else f"{value:,.0f}"
