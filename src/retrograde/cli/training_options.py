"""Each option of training as a parameter of a command: of ``train``, and of ``doctor`` for data.

Tests: `tests/test_options.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

import typer

from ..errors import OptionError
from ..option import Option
from ..options import OPTIONS

WIDE = 24  # choices longer than this are listed in the help text, not in the narrow column of types
C = TypeVar("C", bound=Callable[..., None])


def switch(names: str, panel: str | None, help: str) -> Any:
    """An option of a command that is no option of training."""
    return typer.Option(*names.split(), help=help, rich_help_panel=panel, show_default=False)


def given(invocation: typer.Context, options: dict[str, Any], no_clip: bool) -> dict[str, Any]:
    """The options that the user gave."""
    found = {}
    for name, value in options.items():
        source = invocation.get_parameter_source(name)
        if source is not None and not source.name.startswith("DEFAULT"):
            found[name] = value
    if no_clip:
        if any(found.get(name) is not None for name in ("clip_norm", "clip_value", "clip_quantile")):
            raise OptionError("--no-clip excludes --clip-norm, --clip-value and --clip-quantile; give one of them.")
        found["clip_norm"] = None
    return found


def _parameters(command: inspect.Signature) -> Iterator[inspect.Parameter]:
    """Parameters with one for each option in place of ``**options``, in the order of the help."""
    own = {name: one for name, one in command.parameters.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
    no_clip = own.pop("no_clip")
    yield from own.values()
    for name, option in OPTIONS.items():
        kind: Any = str if option.parse is not None else option.kind
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=Annotated[kind | None if option.optional else kind, _parameter(option)],
        )
        if name == "clip_quantile":
            yield no_clip


def _parameter(option: Option) -> Any:
    names = option.names or ((option.flag,) if option.kind is bool else ())
    default = f" [dim]\\[default: {words}][/dim]" if (words := option.default_words()) else ""
    return typer.Option(
        *names,
        help=option.help.format(choices=", ".join(option.choices)) + default,
        rich_help_panel=option.panel,
        show_default=False,
        metavar="<choice>" if len("|".join(option.choices)) > WIDE else None,
    )


def with_training_options(command: C) -> C:
    """Give a command with ``no_clip`` and ``**options`` a parameter for each option of training."""
    signature = inspect.signature(command, eval_str=True)
    command.__signature__ = signature.replace(parameters=list(_parameters(signature)))  # type: ignore[attr-defined]
    return command
