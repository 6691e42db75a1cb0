"""The most urgent first: how a warning, a reminder or a digest arranges what it lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from functions.email.contents import Item

MAX_SHOWN: Final = 30
"""Items a mail shows; the others are counted ("and 12 more"). Gmail cuts a mail off at 102 kB of HTML."""
WEEK_DAYS: Final = 7

Urgency = Literal["overdue", "today", "week", "later"]


@dataclass(frozen=True, slots=True)
class Group:
    """The items of one urgency: how many there are, and those that are shown."""

    urgency: Urgency
    count: int
    shown: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Arranged:
    """All groups that have items, the most urgent first."""

    groups: tuple[Group, ...]
    count: int
    hidden: int
    """Items that are counted only."""

    def count_of(self, urgency: Urgency) -> int:
        return sum(group.count for group in self.groups if group.urgency == urgency)


def urgency_of(item: Item) -> Urgency:
    """How soon an item is due: before today, today, within 7 days, later."""
    if item.days_left < 0:
        return "overdue"
    if item.days_left == 0:
        return "today"
    return "week" if item.days_left <= WEEK_DAYS else "later"


def arrange(items: Iterable[Item], *, limit: int = MAX_SHOWN) -> Arranged:
    """Group the items by urgency and keep the `limit` most urgent; the same items always give the same order."""
    ordered = sorted(items, key=lambda item: (item.days_left, item.client_name, item.title, item.category))
    groups: list[Group] = []
    room = limit
    for urgency, members in groupby(ordered, key=urgency_of):
        group = tuple(members)
        groups.append(Group(urgency, len(group), group[:room]))
        room = max(0, room - len(group))
    return Arranged(tuple(groups), len(ordered), max(0, len(ordered) - limit))
