"""Unique identifiers that follow from what a run was made of: running it again makes no second copy."""

from __future__ import annotations

import uuid

__all__ = ["uid"]

_NAMESPACE = uuid.UUID("6f1b6f0e-6f2c-5d4b-9d53-1f4c3a9c7e10")  # of this software; never to be changed


def uid(seed: str, *what: object) -> str:
    """The UID of one thing of a run.

    Parameters
    ----------
    seed : str
        Stands for inputs, parameters and version.
    what : object
        Which thing: kind of object, then the number of the instance.

    Returns
    -------
    str
        Below the arc ``2.25`` for UUIDs (PS3.5 B.2), at most 44 characters.

    Examples
    --------
    >>> uid("a", "ventilation", 1) == uid("a", "ventilation", 1) != uid("a", "ventilation", 2)
    True
    """
    name = "/".join([seed, *map(str, what)])
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"
