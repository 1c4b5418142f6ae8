"""Optional dependencies: which extra of the package installs a library that is missing.

Tests: `tests/test_public_api.py`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from .errors import MissingExtraError

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the name that is imported is not the name that is installed


def missing_extra(error: BaseException) -> MissingExtraError | None:
    """The error for a user whose installation lacks an optional library; None if ``error`` means something else.

    error: what an import raised.
    """
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    library = error.name.partition(".")[0]
    distribution = _DISTRIBUTIONS.get(library, library).replace("_", "-")
    extra = _extras().get(distribution)
    if extra is None:
        return None
    return MissingExtraError(f"{distribution} is not installed. Install it with: pip install 'retrograde[{extra}]'")


def import_or_explain(name: str, package: str | None = None) -> Any:
    """Import a module that needs optional libraries.

    Raises MissingExtraError if a library is missing; the message names the extra that installs it.
    """
    try:
        return import_module(name, package)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is not None:
            raise missing from error
        raise


@cache
def _extras() -> dict[str, str]:
    """The first extra in pyproject.toml that installs a distribution, by the name of the distribution."""
    import re  # late, because they take far longer than everything else in `import retrograde`
    from importlib import metadata

    found: dict[str, str] = {}
    for requirement in metadata.requires("retrograde") or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if name and extra and name[0] != __package__:
            found.setdefault(name[0].lower(), extra[1])
    return found
