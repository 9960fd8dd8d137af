"""The classes of a data set or of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Color = tuple[int, int, int]  # red, green, blue, 0 to 255

_IDS = "{}_dataset_id_to_contiguous_id"


@dataclass(frozen=True)
class Classes:
    """K classes, in the order of the model's outputs.

    A class has two numbers: its index, 0 to K - 1, which a model and Detectron2's dataset dicts use
    (Detectron2 calls it the contiguous id), and its id in the files of the data set.

    Attributes:
        names: K names.
        ids: K ids in the data set.
        things: indices of the classes that are things, whose objects are separate; None if they
            are not known.
        colors: K colours; None if the data set does not have one per class.
        ignore_label: label of pixels without a class in label maps; None if it is not known.

    Raises:
        ValueError: the numbers of names, ids and colours differ.
    """

    names: Sequence[str]
    ids: Sequence[int]
    things: frozenset[int] | None = None
    colors: Sequence[Color] | None = None
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        for key in ("names", "ids"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        if self.colors is not None:
            object.__setattr__(self, "colors", tuple((r, g, b) for r, g, b in self.colors))
        if len(self.names) != len(self.ids) or len(self.colors or self.ids) != len(self.ids):
            raise ValueError(
                f"{len(self.names)} names, {len(self.ids)} ids and {len(self.colors or ())} "
                "colours do not belong to the same classes"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[int, int]:
        """The index of each id in the data set."""
        return {category_id: i for i, category_id in enumerate(self.ids)}

    @property
    def void_label(self) -> int:
        """A label of pixels without a class, which is `ignore_label` unless that is a class."""
        if self.ignore_label is not None and not 0 <= self.ignore_label < len(self):
            return self.ignore_label
        return 255 if len(self) < 256 else 65535

    def is_thing(self, index: int) -> bool:
        """Return whether a class is known to be a thing."""
        return self.things is not None and index in self.things

    @classmethod
    def numbered(cls, count: int) -> Classes:
        """Return `count` classes with made-up names: "class 0" and so on."""
        return cls([f"class {i}" for i in range(count)], range(count))

    @classmethod
    def from_categories(cls, categories: Sequence[Mapping[str, Any]]) -> Classes:
        """Return the classes of COCO's ``categories``, in the same order.

        Args:
            categories: ``id``, ``name`` and optionally ``isthing`` (default: 1) and ``color``.

        Raises:
            ValueError: two categories have the same id.
        """
        ids = [category["id"] for category in categories]
        if len(set(ids)) < len(ids):
            raise ValueError(f"{len(ids)} categories have {len(set(ids))} different ids")
        colors = [category.get("color") for category in categories]
        return cls(
            [category["name"] for category in categories],
            ids,
            frozenset(i for i, category in enumerate(categories) if category.get("isthing", True)),
            None if None in colors else colors,  # type: ignore[arg-type]
        )

    def to_categories(self) -> list[dict[str, Any]]:
        """Return the classes as COCO's ``categories``."""
        return [
            {"id": category_id, "name": name, "isthing": int(self.is_thing(i))}
            | ({"color": list(self.colors[i])} if self.colors else {})
            for i, (category_id, name) in enumerate(zip(self.ids, self.names, strict=True))
        ]

    @classmethod
    def from_metadata(cls, metadata: Any, num_classes: int | None = None) -> Classes | None:
        """Return the classes that Detectron2's metadata of a data set describes.

        Semantic data sets name their classes in ``stuff_classes``, and instance data sets in
        ``thing_classes``. Panoptic data sets name all classes in ``stuff_classes``, and may name
        only the things in ``thing_classes``.

        Args:
            metadata: metadata of a data set, from ``MetadataCatalog`` or from `read_metadata`.
            num_classes: number of classes of the model. None takes all semantic classes or, without
                these, the things; they need not have names then.

        Returns:
            The classes, or None if the metadata does not describe that many classes.
        """
        for kind in ("stuff", "thing"):
            names = metadata.get(f"{kind}_classes")
            if num_classes is None and not names:  # ids alone are enough to evaluate
                last = max((metadata.get(_IDS.format(kind)) or {}).values(), default=-1)
                names = cls.numbered(last + 1).names
            if names and num_classes in (None, len(names)):
                break
        else:
            return None
        count = len(names)
        thing_index = metadata.get(_IDS.format("thing")) or {}
        if max(thing_index.values(), default=0) >= count:
            thing_index = {}  # these are indices among other classes
        stuff_index = (metadata.get(_IDS.format("stuff")) or {}) if kind == "stuff" else {}
        ids = {i: category_id for m in (thing_index, stuff_index) for category_id, i in m.items()}
        things: frozenset[int] | None = frozenset(thing_index.values() or range(count))
        if kind == "stuff" and not thing_index:
            things = None
        colors = metadata.get(f"{kind}_colors") or ()
        return cls(
            names,
            [ids.get(i, i) for i in range(count)],
            things,
            colors if len(colors) == count else None,
            metadata.get("ignore_label"),
        )

    def to_metadata(self, task: str) -> dict[str, Any]:
        """Return the entries of Detectron2's ``MetadataCatalog`` for the classes.

        Args:
            task: task of the data set. "instance" gives the keys with ``thing``, and "semantic"
                those with ``stuff``. "panoptic" gives both; then the keys with ``thing`` hold only
                the things, and their contiguous ids are indices among all classes.
        """
        kinds: dict[str, Sequence[int]] = {}
        if task != "semantic":
            everything = task == "instance" or self.things is None
            kinds["thing"] = range(len(self)) if everything else sorted(self.things or ())
        if task != "instance":
            kinds["stuff"] = range(len(self))
        metadata: dict[str, Any] = {}
        for kind, indices in kinds.items():
            metadata[f"{kind}_classes"] = [self.names[i] for i in indices]
            metadata[_IDS.format(kind)] = {self.ids[i]: i for i in indices}
            if self.colors is not None:
                metadata[f"{kind}_colors"] = [list(self.colors[i]) for i in indices]
        if self.ignore_label is not None:
            metadata["ignore_label"] = self.ignore_label
        return metadata
