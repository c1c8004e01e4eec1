"""Log is a Sequence that grows: slices, index and count as list has them, and those who wait for what comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parkit
from parkit_async._core.registry import open_namespace
from tests.faces.face import Face, calls

bounded = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOUND = st.none() | st.integers(-12, 12)


class Breaks:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _broken, ()


def _broken() -> Any:
    raise RuntimeError("cannot load")


@pytest.fixture
def log(face: Face) -> Any:
    return face.Log("ns/log")


def ten(log: Any) -> list[int]:
    log.extend(range(10))
    return list(range(10))


# Growing.


def test_append_and_extend(log: Any) -> None:
    log.append("a")
    log.extend(["b", None])
    log.extend(iter([3]))
    assert list(log) == ["a", "b", None, 3] == log[:] and len(log) == 4


def test_extend_is_one_version_and_clear_too(log: Any) -> None:
    log.extend(range(100))
    assert log.version == 1
    log.clear()
    assert (log.version, len(log), list(log)) == (2, 0, [])


def test_what_changes_nothing_leaves_the_version_alone(log: Any) -> None:
    log.extend([])
    log.clear()
    assert log.version == 0


def test_extend_that_fails_in_the_middle_leaves_nothing(log: Any) -> None:
    with pytest.raises(TypeError):
        log.extend([1, (number for number in range(2))])
    assert (len(log), log.version) == (0, 0)


def test_clear_of_many_begins_anew(log: Any) -> None:
    log.extend(range(2500))
    log.clear()
    log.append("new")
    assert list(log) == ["new"] and log[0] == "new"


def test_extend_by_itself(log: Any) -> None:
    log.extend([1, 2])
    log.extend(list(log))
    assert list(log) == [1, 2, 1, 2]


# Looking.


def test_named_methods_do_what_the_operators_do(log: Any) -> None:
    ten(log)
    assert log.get(3) == 3 and log.get(-1) == 9 and log.get(slice(2, 4)) == [2, 3] and log.len() == 10 and log.contains(4)


@pytest.mark.parametrize("index", [10, -11, 10**30])
def test_an_index_out_of_range_is_an_IndexError(log: Any, index: int) -> None:
    ten(log)
    with pytest.raises(IndexError):
        log[index]


@pytest.mark.parametrize("index", ["1", 1.0, None, (1,)])
def test_an_index_that_is_no_int_is_a_TypeError(log: Any, index: Any) -> None:
    ten(log)
    with pytest.raises(TypeError):
        log[index]


def test_an_index_may_be_anything_with___index__(log: Any) -> None:
    ten(log)

    class Third:
        def __index__(self) -> int:
            return 3

    assert log[Third()] == 3 and log[True] == 1 and log[: Third()] == [0, 1, 2]


@bounded
@given(BOUND, BOUND, BOUND.filter(lambda step: step != 0))
def test_slices_are_those_of_a_list(face: Face, start: int | None, stop: int | None, step: int | None) -> None:
    log = face.Log("ns/log")
    model = ten(log) if not len(log) else list(range(10))
    assert log[start:stop:step] == model[start:stop:step]


def test_a_slice_with_step_zero_is_a_ValueError(log: Any) -> None:
    ten(log)
    with pytest.raises(ValueError, match="zero"):
        log[::0]


@bounded
@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 4), st.integers(-10, 10), st.none() | st.integers(-10, 10))
def test_index_and_count_are_those_of_a_list(face: Face, model: list[int], value: int, start: int, stop: int | None) -> None:
    log = face.Log("ns/log")
    log.clear()
    log.extend(model)
    assert log.count(value) == model.count(value) and (value in log) == (value in model)
    bounds = (start,) if stop is None else (start, stop)
    try:
        expected = model.index(value, *bounds)
    except ValueError:
        with pytest.raises(ValueError):
            log.index(value, *bounds)
    else:
        assert log.index(value, *bounds) == expected


def test_values_are_found_by_equality(log: Any) -> None:
    log.extend([1, [2], "x"])
    assert log.index(1.0) == 0 and log.count(True) == 1 and [2] in log and log.index("x", -1) == 2


def test_an_iterator_sees_the_state_at_its_creation(log: Any) -> None:
    log.extend([1, 2])
    before = iter(log)
    log.append(3)
    assert list(before) == [1, 2] and list(log) == [1, 2, 3]
    before = iter(log)
    log.clear()
    assert list(before) == [1, 2, 3]


def test_an_iterator_may_be_left_early(log: Any) -> None:
    ten(log)
    iterator = iter(log)
    assert next(iterator) == 0
    assert open_namespace("ns").pinned()
    del iterator
    assert not open_namespace("ns").pinned()


def test_the_blocking_log_is_a_Sequence() -> None:
    log: parkit.Log[int] = parkit.Log("ns/log")
    log.extend([1, 2, 3])
    assert list(reversed(log)) == [3, 2, 1] and 2 in log and isinstance(log, parkit.Log)


def test_an_entry_that_cannot_be_decoded_does_not_hide_the_others(log: Any) -> None:
    log.extend(["a", Breaks(), "b"])
    assert (log[0], log[2], len(log)) == ("a", "b", 3)
    for call in calls(lambda: log[1], lambda: list(log), lambda: log[:], lambda: log.count("x")):
        with pytest.raises(parkit.CodecError, match="1 of 'ns/log'") as caught:
            call()
        assert (caught.value.path, caught.value.key) == ("ns/log", 1)
    assert log[::2] == ["a", "b"]


# Waiting.


def test_wait_returns_once_the_log_is_longer(face: Face, log: Any) -> None:
    assert log.wait(timeout=0) is False and log.wait(timeout=0.01) is False
    job = face.start(log.wait, 1)
    face.until_waiting(log)
    log.append(1)
    assert not job.done()
    log.append(2)
    assert job.result() is True
    assert log.wait(1) is True and log.wait(2, timeout=0) is False


def test_wait_with_a_negative_timeout_is_a_ValueError(log: Any) -> None:
    for call in calls(lambda: log.wait(timeout=-1), lambda: next(iter(log.follow(timeout=-1)))):
        with pytest.raises(ValueError, match="non-negative"):
            call()


def test_wait_and_follow_inside_a_transaction_or_snapshot_are_a_ContextError(face: Face, log: Any) -> None:
    for context in (face.transaction, face.snapshot):
        with context(log):
            with pytest.raises(parkit.ContextError):
                log.wait()
            with pytest.raises(parkit.ContextError):
                next(iter(log.follow()))
            assert log.wait(timeout=0) is False
    log.append(1)
    with face.snapshot(log):
        assert log.wait() is True


def test_wait_ends_when_the_log_is_dropped(face: Face, log: Any) -> None:
    job = face.start(log.wait, 5)
    face.until_waiting(log)
    log.drop()
    with pytest.raises(parkit.ObjectNotFoundError):
        job.result()


def test_wait_changed_sees_any_change(face: Face, log: Any) -> None:
    assert log.wait_changed(0, timeout=0) is False
    job = face.start(log.wait_changed, 0)
    face.until_waiting(log)
    log.clear()  # of nothing: no change
    log.set_attribute("note", 1)
    assert job.result() is True and log.wait_changed(0) is True


# Following.


def test_follow_gives_what_is_there_and_waits_for_what_comes(face: Face, log: Any) -> None:
    log.extend([0, 1])
    stream = iter(log.follow())
    assert [next(stream), next(stream)] == [0, 1]
    job = face.start(stream.__next__)
    face.until_waiting(log)
    log.extend([2, 3])
    assert job.result() == 2 and next(stream) == 3


@pytest.mark.parametrize(("start", "found"), [(None, [0, 1, 2]), (0, [0, 1, 2]), (1, [1, 2]), (-1, [2]), (-9, [0, 1, 2]), (3, []), (5, [])])
def test_follow_begins_where_it_is_told(log: Any, start: int | None, found: list[int]) -> None:
    log.extend([0, 1, 2])
    assert list(log.follow(start, timeout=0)) == found


def test_follow_from_the_length_gives_only_what_comes(log: Any) -> None:
    log.extend([0, 1])
    stream = iter(log.follow(len(log), timeout=30))
    log.append(2)
    assert next(stream) == 2


def test_follow_ends_when_nothing_comes_in_time(log: Any) -> None:
    ten(log)
    assert list(log.follow(8, timeout=0.01)) == [8, 9]


def test_follow_goes_on_after_a_clear(face: Face, log: Any) -> None:
    ten(log)
    stream = iter(log.follow())
    assert [next(stream) for _ in range(10)] == list(range(10))
    job = face.start(stream.__next__)
    face.until_waiting(log)
    log.clear()
    assert not job.done()
    log.append("new")
    assert job.result() == "new"


def test_follow_notices_a_log_that_was_cleared_and_refilled(log: Any) -> None:
    log.extend(["old"] * 3)
    stream = iter(log.follow(timeout=0))
    assert [next(stream) for _ in range(3)] == ["old"] * 3
    log.clear()
    log.extend(["new"] * 5)
    assert list(stream) == ["new"] * 5


def test_follow_of_more_than_a_portion(log: Any) -> None:
    log.extend(range(1000))
    assert list(log.follow(timeout=0)) == list(range(1000))


def test_follow_ends_with_ObjectNotFoundError_when_the_log_is_dropped(face: Face, log: Any) -> None:
    stream = iter(log.follow())
    job = face.start(stream.__next__)
    face.until_waiting(log)
    log.drop()
    with pytest.raises(parkit.ObjectNotFoundError):
        job.result()


def test_follow_tells_of_an_entry_that_cannot_be_decoded(log: Any) -> None:
    log.extend(["a", Breaks(), "b"])
    with pytest.raises(parkit.CodecError) as caught:
        list(log.follow(timeout=0))
    assert caught.value.key == 1
    assert list(log.follow(2, timeout=0)) == ["b"]


def test_several_follow_at_once(face: Face, log: Any) -> None:
    streams = [iter(log.follow()) for _ in range(3)]
    jobs = [face.start(stream.__next__) for stream in streams]
    face.until_waiting(log, 3)
    log.append("x")
    assert [job.result() for job in jobs] == ["x"] * 3


# Comparison.


def test_a_log_compares_by_identity_of_state(face: Face, log: Any) -> None:
    log.append(1)
    other = face.Log("ns/other")
    other.append(1)
    assert log == face.Log("ns/log") and hash(log) == hash(face.Log("ns/log"))
    assert log != other and log != [1]
