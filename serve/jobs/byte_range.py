"""Range header of HTTP (RFC 9110, section 14.2): the part of a result that a caller asks for."""

import re

from serve.problems import ApiError

RANGE = re.compile(r"bytes=(?=.*\d)(\d{0,18})-(\d{0,18})")


def requested_range(text: str, size: int) -> tuple[int, int]:
    """Start and end of the bytes of a Range header: all for none, several or another unit; or `bad-range`."""
    match = RANGE.fullmatch(text.strip())
    if match is None:
        return 0, size
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise ApiError("bad-range", f"the result has {size} bytes")
    return start, end
