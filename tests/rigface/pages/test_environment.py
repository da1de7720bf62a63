"""Environment of the pages: escaping, missing values, text without control characters."""

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from rigface.pages.environment import environment


def render(source, **values):
    return environment("rigface.pages").from_string(source).render(**values)


def test_values_are_escaped_unless_markup():
    assert render("{{ a }}{{ b }}", a="<i>", b=Markup("<b>")) == "&lt;i&gt;<b>"


def test_missing_value_raises():
    with pytest.raises(UndefinedError):
        render("{{ nothing }}")


@pytest.mark.parametrize(
    ("text", "shown"), [("a\u202eb", "a\ufffdb"), ("a\x00\tb", "a\ufffd b"), ("a\nb", "a\nb"), ("\ud800", "?")]
)
def test_controls_and_direction_marks_are_replaced(text, shown):
    assert render("{{ text }}", text=text) == shown


def test_bytes_become_data_uri():
    assert render("{{ data|data_uri('png') }}", data=b"abc") == "data:image/png;base64,YWJj"
