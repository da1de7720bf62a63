"""Numbers as text: bytes, durations, times."""

import pytest

from pipelines import formatting


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formatting.bytes_text(999), "999 bytes"), (formatting.bytes_text(3_400_000), "3.4 MB"),
        (formatting.duration(0.42), "0.4 s"), (formatting.duration(89), "89 s"),
        (formatting.duration(12_000), "3 h 20 min"),
        (formatting.money(0.0345), "0.035"), (formatting.money(1234.5), "1,234.50"),
        (formatting.rounded(12_345), "12,345"), (formatting.rounded(3_400_000), "3.4 million"),
        (formatting.clock(59.999), "1:00.00"), (formatting.clock(3723.5), "1:02:03.50"),
    ],
)  # fmt: skip
def test_number_is_written_with_its_unit(shown, wanted):
    assert shown == wanted
