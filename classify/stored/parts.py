"""One store of a dataset's stores, what made its features, and layers of one or several stores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from classify.stored.memory_budget import MemoryBudget, plan_memory
from classify.stored.out_of_core import Labels, Member
from classify.stored.same_store import SameStore
from extract.core.config import TrunkSpec
from extract.core.views import ViewSpec
from extract.store.format import read_trunk
from extract.store.open import Store


class MadeBy(NamedTuple):
    """The trunk that made the features of a store, and what else decides their numbers.

    Attributes:
        name: The store's name in the names of layers; empty for the only store.
        trunk: The trunk; its name is empty if another program made the features.
        weights_sha256: Digest of the trunk's weights.
        dtype: Type of the stored features.
        precision: Type that the trunk computed in.
        calibration_sha256: Digest of the images that calibrated int8, else empty.
    """

    name: str
    trunk: TrunkSpec
    weights_sha256: str
    dtype: str
    precision: str
    calibration_sha256: str = ""

    def fields(self) -> dict[str, Any]:
        """Return all but the name, as a dataset and a trained head have them."""
        return {name: value for name, value in self._asdict().items() if name != "name"}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return self._asdict() | {"trunk": self.trunk.to_dict() if self.trunk.trunk else None}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "MadeBy":
        """Return what ``to_dict`` described; raise StoreError for an invalid trunk."""
        fields = {name: described[name] for name in cls._fields}
        trunk = read_trunk(fields["trunk"] or {"layer": ["features"]})
        return cls(**fields | {"trunk": trunk})


@dataclass(frozen=True)
class Part:
    """One of the stores, and the row of each image of the dataset in it.

    Attributes:
        same: The store, which must not change.
        rows: (N,) int64; increasing in the first store.
        shapes: Shape of one row's features, by layer.
        view_spec: How its augmented views were made.
        made_by: What made its features.
    """

    same: SameStore
    rows: Labels
    shapes: dict[str, tuple[int, ...]]
    view_spec: ViewSpec
    made_by: MadeBy

    @classmethod
    def of(cls, name: str, same: SameStore, store: Store, rows: Labels) -> "Part":
        """Describe an open store, and remember its content."""
        same.remember(store, rows)
        fields = {field: store.attributes.get(field, "") for field in MadeBy._fields[2:]}
        made_by = MadeBy(name, store.spec, **fields | {"dtype": store.dtype})
        return cls(same, rows, store.shapes, store.view_spec, made_by)

    @property
    def layers(self) -> dict[str, str]:
        """The store's layers by the names that they have in the dataset."""
        return dict(zip(name_layers(self.made_by.name, self.shapes), self.shapes, strict=True))


class Layer(NamedTuple):
    """One layer, or several joined.

    Attributes:
        name: Its name in the dataset; several are joined by ``+``.
        own_name: Its name in the store; that in the dataset where there are several stores.
        members: The store and the name there of each.
    """

    name: str
    own_name: str
    members: tuple[tuple[Part, str], ...]

    @property
    def parts(self) -> list[Part]:
        """The different stores, in the order in which they first occur."""
        return list({id(part): part for part, _ in self.members}.values())

    def read_from(self) -> list[Member]:
        """Return the layers to read, those of one store together."""
        groups = groupby(self.members, key=lambda member: id(member[0]))
        members = [list(group) for _, group in groups]
        return [
            Member(group[0][0].same, [own for _, own in group], group[0][0].rows)
            for group in members
        ]

    def __str__(self) -> str:
        return ", ".join(str(part.same.path) for part in self.parts)

    def plan(self, memory: float | None) -> MemoryBudget:
        """Return what fits into memory; joined layers of several stores have no views."""
        shapes = [part.shapes[layer] for part, layer in self.members]
        parts = self.parts
        views = parts[0].view_spec.views if len(parts) == 1 else 0
        return plan_memory(self.name, shapes, views, len(parts[0].rows), memory)


def name_layers(store: str, layers: Iterable[str]) -> list[str]:
    """Return the names of a store's layers; the only store has no name."""
    return [f"{store}:{layer}" if store else layer for layer in layers]
