"""The order of first starts, as the chaos run judges it."""

from __future__ import annotations

from itertools import permutations
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from duecourse.chaos.turns import Place, overtaken

GROUPS = ("a", "b")
MOMENTS = st.floats(0, 9, allow_nan=False)


def _id(number: int) -> UUID:
    return UUID(int=number)


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[UUID, Place], dict[UUID, float], dict[UUID, float]]:
    places, heard, began = {}, {}, {}
    for number in range(draw(st.integers(0, 7))):
        job_id, timed = _id(number), draw(st.booleans())
        due_from, due_until = sorted((draw(MOMENTS), draw(MOMENTS)))
        if not timed:
            due_from, due_until = number, number + 0.5  # one after the other
        places[job_id] = Place(draw(st.sampled_from(GROUPS)), number, timed, due_from, due_until)
        if draw(st.booleans()):
            heard[job_id] = draw(MOMENTS)
        if draw(st.booleans()):
            began[job_id] = draw(MOMENTS)
    return places, heard, began


@given(runs())
def test_a_job_is_overtaken_when_a_later_one_of_its_group_was_heard_of_before_it_started(
    run: tuple[dict[UUID, Place], dict[UUID, float], dict[UUID, float]],
) -> None:
    places, heard, began = run
    expected = set()
    for earlier, later in permutations(places, 2):
        first, second = places[earlier], places[later]
        timed = first.timed or second.timed
        before = first.due_until < second.due_from if timed else first.number < second.number
        starts = [instants[earlier] for instants in (heard, began) if earlier in instants]
        if first.group == second.group and before and later in heard and not any(at <= heard[later] for at in starts):
            expected.add(earlier)
    found = list(overtaken(places, heard, began))
    assert {item.job for item in found} == expected
    assert len(found) == len(expected)
    assert all(places[item.by].group == places[item.job].group and item.seconds > 0 for item in found)


def test_of_two_that_came_due_at_unknown_moments_nothing_is_said() -> None:
    places = {
        _id(1): Place("a", 1, timed=True, due_from=4.0, due_until=6.0),
        _id(2): Place("a", 2, timed=False, due_from=5.0, due_until=7.0),
    }
    assert list(overtaken(places, {_id(1): 20.0, _id(2): 10.0}, {})) == []
    assert list(overtaken(places, {_id(1): 10.0, _id(2): 20.0}, {})) == []
