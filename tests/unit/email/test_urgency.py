"""The most urgent first."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from functions.email.contents import Item
from functions.email.urgency import arrange, urgency_of


def item(days_left: int, title: str = "VAT return") -> Item:
    return Item(category="filing", title=title, client_name="Acme", due_date=date(2026, 3, 2), days_left=days_left)


def test_the_borders() -> None:
    assert [urgency_of(item(days)) for days in (-1, 0, 1, 7, 8)] == ["overdue", "today", "week", "week", "later"]


def test_all_are_counted_and_the_most_urgent_are_shown() -> None:
    arranged = arrange([item(days) for days in (9, 0, -3, 5, -1, 30)], limit=3)
    assert [(group.urgency, group.count, len(group.shown)) for group in arranged.groups] == [
        ("overdue", 2, 2),
        ("today", 1, 1),
        ("week", 1, 0),
        ("later", 2, 0),
    ]
    assert (arranged.count, arranged.hidden, arranged.count_of("overdue")) == (6, 3, 2)
    assert [shown.days_left for shown in arranged.groups[0].shown] == [-3, -1]


@given(
    st.lists(st.builds(item, st.integers(-40, 40), st.text("ab", min_size=1, max_size=3)), min_size=1),
    st.integers(1, 40),
)
def test_nothing_shown_is_less_urgent_than_what_is_hidden(items: list[Item], limit: int) -> None:
    arranged = arrange(items, limit=limit)
    shown = [shown for group in arranged.groups for shown in group.shown]
    assert len(shown) + arranged.hidden == len(items) == arranged.count == sum(g.count for g in arranged.groups)
    assert [one.days_left for one in shown] == sorted(one.days_left for one in items)[:limit]
    assert arrange(reversed(items), limit=limit) == arranged
