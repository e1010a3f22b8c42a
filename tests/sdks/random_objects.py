"""Random JSON objects that a provider's own types accept, made by walking those types: pydantic's fields, typed
dictionaries, and botocore's shapes.

Some objects are coherent (wholes in the thousands, details below 100, so that the parts fit in), others hold any
numbers. Fields that may be absent often are; those that may be null sometimes are.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Annotated, Any, Final, Literal, NotRequired, Required, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

ABSENT: Final = object()
_WORD: Final = "word"
_MAX_DEPTH: Final = 8


@dataclass(frozen=True)
class Draw:
    """Draws values. ``skipped`` are fields by name that are left out: no counts, and costly to make."""

    random: Random
    is_coherent: bool
    skipped: frozenset[str] = frozenset()

    def of(self, kind: Any, depth: int = 0) -> Any:
        """Return a random JSON value that ``kind`` accepts; ABSENT where there is none that is worth making."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Annotated, Required, NotRequired, typing_extensions.Required, typing_extensions.NotRequired):
            return self.of(args[0], depth)
        if origin is typing_extensions.ReadOnly:
            return self.of(args[0], depth)
        if origin in (Union, types.UnionType):
            return self._one_of(args, depth)
        if origin is Literal:
            return self.random.choice(args)
        if origin in (list, Sequence, tuple, set, frozenset) or kind in (list, tuple):
            return self._list(args[0] if args else int, depth)
        if origin in (dict, Mapping) or kind is dict:
            return self._dictionary(args[1] if args else int, depth)
        if isinstance(kind, typing_extensions.TypeAliasType):
            return self.of(kind.__value__, depth)
        if isinstance(origin, typing_extensions.TypeAliasType):
            return self.of(origin.__value__[args], depth)
        if not isinstance(kind, type):
            return ABSENT
        if issubclass(kind, BaseModel) and not kind.model_fields:
            return ABSENT
        if issubclass(kind, BaseModel):
            return self.model(kind, depth + 1)
        if hasattr(kind, "__total__"):
            return self.typed_dictionary(kind, depth + 1)
        return self._scalar(kind, depth)

    def _scalar(self, kind: type, depth: int) -> Any:
        if issubclass(kind, Enum):
            return self.random.choice(list(kind)).value
        if issubclass(kind, bool):
            return self.random.random() < 0.5
        if issubclass(kind, int):
            return self.count(depth)
        if issubclass(kind, float):
            return float(self.count(depth))
        return _WORD if issubclass(kind, str) else ABSENT

    def count(self, depth: int) -> int:
        """Return a count, often 0. Coherent ones are in the thousands outside, and below 100 inside of details."""
        if self.random.random() < 0.25:
            return 0
        if not self.is_coherent:
            return self.random.randrange(1, 10 ** self.random.randrange(1, 7))
        return self.random.randrange(1, 100) if depth else self.random.randrange(2_000, 100_000)

    def _one_of(self, kinds: Sequence[Any], depth: int) -> Any:
        others = [kind for kind in kinds if kind is not types.NoneType]
        if len(others) < len(kinds) and self.random.random() < 0.25:
            return None
        value = self.of(self.random.choice(others), depth)
        return None if value is ABSENT and len(others) < len(kinds) else value

    def _list(self, kind: Any, depth: int) -> list[Any]:
        items = [self.of(kind, depth) for _ in range(self.random.randrange(3) if depth < _MAX_DEPTH else 0)]
        return [item for item in items if item is not ABSENT]

    def _dictionary(self, kind: Any, depth: int) -> dict[str, Any]:
        return _present({f"key{n}": self.of(kind, depth + 1) for n in range(self.random.randrange(2))})

    def model(self, kind: type[BaseModel], depth: int = 0) -> dict[str, Any]:
        """Return a random object of a pydantic model, by the names that it has on the wire."""
        drawn = {}
        for name, field in kind.model_fields.items():
            if name not in self.skipped and (field.is_required() or self.random.random() < 0.6):
                drawn[field.alias or name] = self.of(field.annotation, depth)
        return _present(drawn)

    def typed_dictionary(self, kind: Any, depth: int = 0) -> dict[str, Any]:
        """Return a random object of a typed dictionary."""
        drawn = {}
        for name, annotation in typing_extensions.get_type_hints(kind, include_extras=True).items():
            if name not in self.skipped and (name in kind.__required_keys__ or self.random.random() < 0.6):
                drawn[name] = self.of(annotation, depth)
        return _present(drawn)

    def shape(self, shape: Any, depth: int = 0) -> Any:
        """Return a random value of a botocore shape."""
        if shape.type_name == "structure":
            return {
                name: self.shape(member, depth + (member.type_name in ("structure", "list")))
                for name, member in shape.members.items()
                if name in shape.required_members or self.random.random() < 0.6
            }
        if shape.type_name == "list":
            return [self.shape(shape.member, depth) for _ in range(self.random.randrange(3))]
        if shape.type_name in ("integer", "long"):
            return self.count(depth)
        return self.random.choice(shape.enum) if getattr(shape, "enum", None) else _WORD


def _present(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drawn.items() if value is not ABSENT}
