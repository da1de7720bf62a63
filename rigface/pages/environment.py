"""Jinja2 environment of the HTML pages: autoescape, a base template, a style sheet and a content security policy.

Path: templates of a package + values -> `page` -> one HTML file that loads nothing from elsewhere.
"""

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, TemplateNotFound
from markupsafe import Markup


def page(package: str, name: str, /, **values: Any) -> str:
    """Render `name.html`, with `name.css` and `name.js` if the package has them in `templates/`.

    Values are escaped unless they are Markup.
    """
    own = environment(package)
    style, script = _source(own, "base.css") + _source(own, f"{name}.css"), _source(own, f"{name}.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    assets = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return own.get_template(f"{name}.html").render(assets | values)


@cache
def environment(package: str) -> Environment:
    """The templates of a package and the shared ones; names of missing values raise."""
    own = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("rigface.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own.filters["data_uri"] = data_uri
    return own


def printable(value: Any) -> Any:
    """Plain text without control characters, half surrogates and marks that turn the writing direction."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    clean = value.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "\ufffd" for c in clean)


def data_uri(data: bytes, kind: str) -> str:
    """An image (`png`, `jpeg`, `webp`) as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _source(own: Environment, name: str) -> str:
    assert own.loader is not None
    try:
        return own.loader.get_source(own, name)[0]
    except TemplateNotFound:
        return ""


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
