"""Helpers of the public Python API: names imported late, settings as keywords."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from extract.core.errors import SettingError, unknown_name
from extract.core.flags import describe

P = ParamSpec("P")
R = TypeVar("R")


def load_late(package: str, public: Mapping[str, Iterable[str]], name: str) -> Any:
    """Import a public name of a package when it is first used.

    Args:
        package: The package.
        public: Module -> public names in it.
        name: The name.
    """
    for module, names in public.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def public(*declared_in: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show the settings of a public function one by one, and name the nearest to a mistyped one.

    The function takes them as ``**settings: Unpack[SomeTypedDict]``, which type checkers read. Its
    signature, and so ``help()`` and completions, list them; their texts end its docstring.

    Args:
        *declared_in: The settings dataclasses that declare them.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = _expanded(inspect.signature(function))
        known = list(signature.parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise SettingError(unknown_name(f"{function.__name__}: argument", name, known))
            return function(*args, **kwargs)

        texts = {name: text for settings in declared_in for name, text in describe(settings)}
        lines = [f"    {name}: {texts[name]}" for name in known if name in texts]
        docstring = inspect.getdoc(function) or ""
        checked.__doc__ = "\n".join([docstring, "", "Settings:", *lines]) if lines else docstring
        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked

    return decorate


def _expanded(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature with ``**settings: Unpack[SomeTypedDict]`` spelled out."""
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is parameters[-1].VAR_KEYWORD:
        hints = get_type_hints(get_args(parameters.pop().annotation)[0])
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in hints.items()
        ]
    return signature.replace(parameters=parameters)
