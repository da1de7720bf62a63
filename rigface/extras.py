"""Imports of optional packages, with an error that names the extra to install."""

from collections.abc import Iterator
from contextlib import contextmanager

from rigface.errors import MissingExtra


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an extra of pyproject.toml, `with extra("serve"): import httpx`, or say how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed; run `pip install 'rigface[{name}]'`") from error
