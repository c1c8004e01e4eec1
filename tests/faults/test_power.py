"""The model of a disk, by hand-made events: what must be there, what may, and what cannot."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tests.faults.power import CHOICES, SECTOR, Disk, Folder, everything, nothing
from tests.faults.recorder import Event, Kind

ROOT, FILE, OTHER, FOLDER = 1, 2, 3, 4
RNG = random.Random(0)


def link(folder: int, name: bytes, inode: int) -> Event:
    return Event(Kind.LINK, False, folder, inode, name)


def write(at: int, data: bytes, synchronous: bool = False, inode: int = FILE) -> Event:
    return Event(Kind.WRITE, synchronous, inode, at, data)


def truncate(size: int) -> Event:
    return Event(Kind.TRUNCATE, False, FILE, size, b"")


def sync(inode: int = FILE) -> Event:
    return Event(Kind.SYNC, False, inode, 0, b"")


NAMED = [link(ROOT, b"f", FILE), sync(ROOT)]


def disk(*events: Event) -> Disk:
    made = Disk(ROOT)
    for event in events:
        made.happen(event)
    return made


def least(made: Disk) -> Folder:
    return made.after(nothing(RNG, made.steps))


def most(made: Disk) -> Folder:
    return made.after(everything(RNG, made.steps))


def sectors(*letters: str) -> bytes:
    return b"".join(letter.encode() * SECTOR for letter in letters)


def test_what_is_not_synchronized_may_be_lost() -> None:
    made = disk(*NAMED, write(0, b"abc"))
    assert least(made) == {"f": b""}
    assert most(made) == {"f": b"abc"}


def test_a_synchronization_covers_all_that_was_written_before_and_nothing_after() -> None:
    made = disk(*NAMED, write(0, b"abc"), write(600, b"d"), sync(), write(0, b"x"))
    assert least(made) == {"f": b"abc" + bytes(597) + b"d"}
    assert most(made) == {"f": b"xbc" + bytes(597) + b"d"}


def test_a_synchronization_concerns_its_own_file_alone() -> None:
    made = disk(*NAMED, link(ROOT, b"g", OTHER), sync(ROOT), write(0, b"abc"), write(0, b"def", inode=OTHER), sync(OTHER))
    assert least(made) == {"f": b"", "g": b"def"}


def test_a_synchronous_write_covers_itself_and_not_what_was_written_elsewhere() -> None:
    made = disk(*NAMED, write(SECTOR, sectors("a")), write(0, sectors("m"), synchronous=True))
    assert least(made) == {"f": sectors("m")}
    assert most(made) == {"f": sectors("m", "a")}


def test_a_synchronous_write_takes_what_its_sector_held_along() -> None:
    made = disk(*NAMED, write(0, b"abc"), write(1, b"X", synchronous=True))
    assert least(made) == {"f": b"aX"}, "the sector is there, and the size only as far as it must"
    assert most(made) == {"f": b"aXc"}


def test_a_synchronous_write_behind_the_end_makes_the_size_durable_and_what_lies_between_may_be_zeros() -> None:
    made = disk(*NAMED, write(0, sectors("a", "a")), write(2 * SECTOR, sectors("m"), synchronous=True))
    assert least(made) == {"f": bytes(2 * SECTOR) + sectors("m")}


def test_writes_are_lost_independently() -> None:
    made = disk(
        *NAMED, write(0, sectors("a", "a", "a")), sync(), write(0, sectors("b")), write(SECTOR, sectors("c")), write(2 * SECTOR, sectors("d"))
    )
    found = {bytes(made.after(kept)["f"]) for n in range(4) for kept in combinations(made.steps, n)}  # type: ignore[arg-type]
    assert found == {sectors(x, y, z) for x in "ab" for y in "ac" for z in "ad"}


def test_a_sector_may_hold_what_any_write_has_left_in_it_and_nothing_else() -> None:
    made = disk(*NAMED, write(0, sectors("a")), sync(), write(0, b"12"), write(1, b"3"))
    found = {bytes(made.after(choice(random.Random(n), made.steps))["f"])[:3] for choice in CHOICES.values() for n in range(50)}  # type: ignore[arg-type]
    assert found == {b"aaa", b"12a", b"13a"}


def test_a_write_is_torn_at_sectors() -> None:
    made = disk(*NAMED, write(0, sectors("a", "a")), sync(), write(0, sectors("b", "b")))
    found = {bytes(made.after(CHOICES["torn"](random.Random(n), made.steps))["f"]) for n in range(100)}  # type: ignore[arg-type]
    assert found == {sectors(x, y) for x in "ab" for y in "ab"}


def test_a_size_is_one_that_the_file_had_and_a_hole_is_zeros() -> None:
    made = disk(*NAMED, write(0, sectors("a")), sync(), write(SECTOR, sectors("b")), write(2 * SECTOR, sectors("c")))
    only_the_last = made.after(made.steps[1:])
    assert only_the_last == {"f": sectors("a") + bytes(SECTOR) + sectors("c")}
    found = {len(made.after(choice(random.Random(n), made.steps))["f"]) for choice in CHOICES.values() for n in range(50)}
    assert found == {SECTOR, 2 * SECTOR, 3 * SECTOR}


def test_a_file_that_was_cut_keeps_nothing_of_what_was_behind() -> None:
    made = disk(*NAMED, write(0, sectors("a", "a")), sync(), truncate(100), write(SECTOR, b"x"))
    assert least(made) == {"f": sectors("a", "a")}
    assert most(made) == {"f": b"a" * 100 + bytes(SECTOR - 100) + b"x"}
    made.happen(sync())
    assert least(made) == most(made)


def test_a_synchronized_file_may_still_lose_its_name() -> None:
    made = disk(link(ROOT, b"f", FILE), write(0, b"abc"), sync())
    assert least(made) == {}
    made.happen(sync(ROOT))
    assert least(made) == {"f": b"abc"}


def test_a_renaming_is_one_step_and_durable_with_its_folder() -> None:
    made = disk(*NAMED, write(0, b"old"), sync(), link(ROOT, b"g", OTHER), write(0, b"new", inode=OTHER), sync(OTHER))
    made.happen(Event(Kind.RENAME, False, ROOT, ROOT, b"g\0f"))
    assert least(made) == {"f": b"old"}
    assert most(made) == {"f": b"new"}
    made.happen(sync(ROOT))
    assert least(made) == {"f": b"new"}


def test_a_folder_takes_what_is_in_it_along() -> None:
    made = disk(link(ROOT, b"draft", -FOLDER), link(FOLDER, b"f", FILE), write(0, b"abc"), sync(), sync(FOLDER))
    made.happen(Event(Kind.RENAME, False, ROOT, ROOT, b"draft\0there"))
    assert least(made) == {}
    made.happen(sync(ROOT))
    assert least(made) == {"there": {"f": b"abc"}}
    made.happen(Event(Kind.UNLINK, False, FOLDER, 0, b"f"))
    assert least(made) == {"there": {"f": b"abc"}}
    assert most(made) == {"there": {}}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=list(CHOICES))
def test_no_choice_loses_what_is_durable(choice: object) -> None:
    assert callable(choice)
    for number in range(100):
        rng = random.Random(number)
        made, durable = disk(*NAMED), bytearray(8 * SECTOR)
        for _ in range(10):
            made.happen(write(rng.randrange(8) * SECTOR, sectors(rng.choice("abc")), synchronous=rng.random() < 0.3))
        made.happen(sync())
        whole = most(made)
        assert made.after(choice(rng, made.steps)) == whole
        content = whole["f"]
        assert isinstance(content, bytes)
        durable[: len(content)] = content
        made.happen(write(3 * SECTOR, sectors("z")))
        after = made.after(choice(rng, made.steps))["f"]
        assert isinstance(after, bytes)
        after = after.ljust(8 * SECTOR, b"\0")
        assert after[: 3 * SECTOR] + after[4 * SECTOR :] == bytes(durable[: 3 * SECTOR] + durable[4 * SECTOR :])
