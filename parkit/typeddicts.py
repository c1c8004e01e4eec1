"""Shapes of the dictionaries that parkit hands out."""

from typing import Any, TypedDict

__all__ = ["Descriptor"]


class Descriptor(TypedDict):
    """What ``objects()`` tells of an object.

    Attributes:
        type: Name of its class: ``parkit.Dict`` and so on, or module and name of a class of the user's.
        uuid: Hexadecimal; never used again, also not by another object of the same path.
        versioned: Whether its changes are counted.
        created: ISO 8601, UTC.
        codec: Name of the codec of its values; None is the default.
        custom: What its class remembered at the creation.
    """

    type: str
    uuid: str
    versioned: bool
    created: str
    codec: str | None
    custom: dict[str, Any]
