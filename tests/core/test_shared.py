"""The shared table: who owns a slot, what survives a death or a fork, and what a registration costs in system calls."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkit_async._core.errors import ParkitError, StoragePathError
from parkit_async._core.shared import ONE_OF, SLOTS, WORD_FREE, WORD_USED, SharedTable, TableFullError
from tests.conftest import RunScript, Spawn

DEADLINE = 60


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SharedTable]:
    opened = SharedTable(tmp_path / "table")
    yield opened
    opened.close()


def test_file_is_private_and_starts_empty(table: SharedTable) -> None:
    assert stat.S_IMODE(os.stat(table.path).st_mode) & 0o077 == 0
    assert all(word == 0 for word in table.words)
    assert table.waiters({1: 15}) == []
    assert len(table.words) >= WORD_FREE + 32


def test_words_are_seen_by_another_process(table: SharedTable, run_script: RunScript) -> None:
    table.words[WORD_USED] = 2**64 - 1
    code = """
import sys
from parkit_async._core.shared import SharedTable, WORD_USED, WORD_FREE
table = SharedTable(sys.argv[1])
table.words[WORD_FREE] = table.words[WORD_USED] - 1
table.close()
"""
    run_script(code, table.path)
    assert table.words[WORD_FREE] == 2**64 - 2


def test_opening_again_keeps_the_content(tmp_path: Path) -> None:
    first = SharedTable(tmp_path / "table")
    first.words[WORD_FREE] = 7
    first.close()
    second = SharedTable(tmp_path / "table")
    assert second.words[WORD_FREE] == 7
    second.close()


def test_shorter_file_is_grown_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"\5")
    opened = SharedTable(tmp_path / "table")
    assert opened.words[0].to_bytes(8, sys.byteorder)[0] == 5
    assert opened.waiters({0: 15}) == []
    opened.close()


def test_a_second_table_of_a_path_is_refused(table: SharedTable, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = descriptors()
    for path in (table.path, tmp_path / "link" / "table", tmp_path / "." / "table"):
        with pytest.raises(StoragePathError, match="open in this process already"):
            SharedTable(path)
    assert descriptors() == before


def test_failing_to_open_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    before = descriptors()
    for name in ("missing/table", "folder", "link", "pipe"):
        for _ in range(2):  # the second attempt fails for the same reason, not because the first holds the path
            with pytest.raises(StoragePathError, match=r"cannot open|regular"):
                SharedTable(tmp_path / name)
    assert descriptors() == before
    assert not (tmp_path / "target").exists()


def test_a_table_that_finds_no_memory_leaves_nothing_and_can_be_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an OSError that said nothing of the store."""

    def exhausted(*arguments: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", exhausted)
        for _ in range(2):
            with pytest.raises(StoragePathError, match=r"cannot map the shared table .*table: Cannot allocate memory; .*ulimit -v"):
                SharedTable(tmp_path / "table")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            SharedTable(tmp_path / "table")
    assert descriptors() == before
    SharedTable(tmp_path / "table").close()


def test_close_is_idempotent_and_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors()
    opened = SharedTable(tmp_path / "table")
    slot = opened.register(1, 1, 1)
    opened.close()
    opened.close()
    assert descriptors() == before
    opened.unregister(slot)
    assert not opened.evict(slot, 1)
    with pytest.raises(ValueError, match="closed"):
        opened.register(1, 1, 1)
    again = SharedTable(tmp_path / "table")
    assert again.waiters({1: 15}) == []
    again.close()


# -- waiters -----------------------------------------------------------------------------------------------------------------------------


def test_waiters_match_object_and_mask(table: SharedTable) -> None:
    first = table.register(1, 1 | 2, 2**64 - 1)
    second = table.register(2**63, 8, 12)
    third = table.register(1, 4, 13)
    assert table.waiters({1: 2}) == [(first, 2**64 - 1)]
    assert table.waiters({1: 15, 2**63: 8}) == [(first, 2**64 - 1), (second, 12), (third, 13)]
    assert table.waiters({1: 8, 2**63: 7, 3: 15}) == []
    table.unregister(first)
    assert table.waiters({1: 15}) == [(third, 13)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 15), st.booleans()), max_size=40), st.dictionaries(st.integers(1, 4), st.integers(0, 15)))
def test_waiters_are_those_of_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]], events: dict[int, int]
) -> None:
    opened = SharedTable(tmp_path_factory.mktemp("model") / "table")
    try:
        model: dict[int, tuple[int, int, int]] = {}
        for address, (oid, mask, leave) in enumerate(steps):
            if leave and model:
                opened.unregister(next(iter(model)))
                del model[next(iter(model))]
            else:
                slot = opened.register(oid, mask, address)
                assert slot not in model
                model[slot] = (oid, mask, address)
        assert opened.waiters(events) == sorted((slot, address) for slot, (oid, mask, address) in model.items() if mask & events.get(oid, 0))
    finally:
        opened.close()


def test_reusing_a_slot_makes_no_system_call(table: SharedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    lockf = fcntl.lockf

    def counted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", counted)
    table.unregister(table.register(1, 1, 1))
    assert calls == 1
    for _ in range(100):
        table.unregister(table.register(1, 1, 1))
    assert calls == 1


def test_slots_beyond_those_kept_are_given_back(table: SharedTable, run_script: RunScript) -> None:
    for slot in [table.register(1, 1, 1) for _ in range(100)]:
        table.unregister(slot)
    code = """
import sys
from parkit_async._core.shared import SharedTable, SLOTS, TableFullError
table = SharedTable(sys.argv[1])
count = 0
try:
    while True:
        table.register(1, 1, 1)
        count += 1
except TableFullError:
    print(count)
table.close()
"""
    kept = SLOTS - int(run_script(code, table.path).stdout)
    assert 0 < kept < 100


def test_unregistering_twice_does_not_hand_out_a_slot_twice(table: SharedTable) -> None:
    slot = table.register(1, 1, 1)
    table.unregister(slot)
    table.unregister(slot)
    assert table.register(1, 1, 1) != table.register(1, 1, 1)


def test_full_table(table: SharedTable) -> None:
    slots = [table.register(1, 1, number) for number in range(SLOTS)]
    assert sorted(slots) == list(range(SLOTS))
    with pytest.raises(TableFullError, match="all 4096 waiter slots") as caught:
        table.register(1, 1, 1)
    assert isinstance(caught.value, ParkitError)
    assert len(table.waiters({1: 1})) == SLOTS
    table.unregister(slots[77])
    assert table.register(2, 1, 5) == slots[77]


def test_threads_get_distinct_slots(table: SharedTable) -> None:
    begin = threading.Barrier(8)
    taken: list[list[int]] = []

    def register() -> None:
        begin.wait(DEADLINE)
        for _ in range(50):
            table.unregister(table.register(1, 1, 1))
        taken.append([table.register(1, 1, 1) for _ in range(50)])

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len({slot for slots in taken for slot in slots}) == 400


def test_64_processes_get_distinct_slots(tmp_path: Path, run_script: RunScript) -> None:
    code = """
import os, sys
from parkit_async._core.shared import SharedTable
go, start = os.pipe()
answers, answer = os.pipe()
held, hold = os.pipe()
children = []
for _ in range(64):
    child = os.fork()
    if not child:
        os.close(start)
        os.close(hold)
        os.read(go, 1)
        table = SharedTable(sys.argv[1])
        slots = [table.register(1, 1, os.getpid()) for _ in range(4)]
        os.write(answer, b"".join(slot.to_bytes(2, "big") for slot in slots))
        os.read(held, 1)
        os._exit(0)
    children.append(child)
os.close(start)
os.close(answer)
got = b""
while len(got) < 64 * 8:
    part = os.read(answers, 4096)
    if not part:
        sys.exit("a child died")
    got += part
slots = {got[at : at + 2] for at in range(0, len(got), 2)}
table = SharedTable(sys.argv[1])
found = table.waiters({1: 1})
print(len(slots), len(found), sorted({address for _, address in found}) == sorted(children))
table.close()
os.close(hold)
for child in children:
    os.waitpid(child, 0)
"""
    assert run_script(code, tmp_path / "table").stdout.split() == ["256", "256", "True"]


# -- death and fork ----------------------------------------------------------------------------------------------------------------------

WAIT = """
import sys
from parkit_async._core.shared import SharedTable
table = SharedTable(sys.argv[1])
print(table.register(1, 1, 42), flush=True)
sys.stdin.read()
"""


def test_slot_of_a_killed_process_is_evicted_and_of_a_live_one_not(table: SharedTable, spawn: Spawn) -> None:
    script = spawn(WAIT, table.path)
    slot = int(script.read_line())
    assert table.waiters({1: 1}) == [(slot, 42)]
    assert not table.evict(slot, 42)
    assert table.waiters({1: 1}) == [(slot, 42)]
    assert table.register(1, 1, 43) != slot
    script.kill()
    assert table.evict(slot, 42)
    assert [address for _, address in table.waiters({1: 1})] == [43]
    assert table.register(1, 1, 44) == slot


def test_slot_of_a_killed_process_is_claimed_without_evicting(table: SharedTable, spawn: Spawn) -> None:
    script = spawn(WAIT, table.path)
    slot = int(script.read_line())
    script.kill()
    assert table.register(2, 1, 43) == slot
    assert table.waiters({1: 1, 2: 1}) == [(slot, 43)]


def test_own_registration_is_evicted_only_with_its_bell_and_never_reused_before_its_end(table: SharedTable) -> None:
    slot = table.register(1, 1, 42)
    assert not table.evict(slot, 41)
    assert table.waiters({1: 1}) == [(slot, 42)]
    assert table.evict(slot, 42)
    assert table.waiters({1: 1}) == []
    assert table.register(1, 1, 43) != slot
    table.unregister(slot)
    assert not table.evict(slot, 42)
    assert table.register(1, 1, 44) == slot


def test_forked_child_has_slots_of_its_own(tmp_path: Path, run_script: RunScript) -> None:
    code = """
import os, sys
from parkit_async._core.shared import SharedTable
table = SharedTable(sys.argv[1])
mine, idle = table.register(1, 1, 10), table.register(1, 1, 11)
table.unregister(idle)
held, hold = os.pipe()
answers, answer = os.pipe()
child = os.fork()
if not child:
    os.close(hold)
    table.unregister(mine)
    theirs = [table.register(1, 1, 20), table.register(1, 1, 21)]
    assert not {mine, idle} & set(theirs), theirs
    assert not table.evict(mine, 10)
    os.write(answer, b"x")
    os.read(held, 1)
    table.close()
    os._exit(0)
os.close(held)
assert os.read(answers, 1) == b"x"
assert sorted(address for _, address in table.waiters({1: 1})) == [10, 20, 21]
assert table.register(1, 1, 12) == idle
os.close(hold)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert table.waiters({1: 1}) == [(mine, 10), (idle, 12)]
table.close()
"""
    run_script(code, tmp_path / "table")


def test_forked_child_may_open_its_own_in_place_of_the_unused_inherited_one(tmp_path: Path, run_script: RunScript) -> None:
    code = """
import os, sys
from parkit_async._core.errors import StoragePathError
from parkit_async._core.shared import SharedTable
table = SharedTable(sys.argv[1])
mine = table.register(1, 1, 10)
child = os.fork()
if not child:
    own = SharedTable(sys.argv[1])
    slot = own.register(1, 1, 20)
    table.close()
    grandchild = os.fork()
    if not grandchild:
        # Both the lock of the parent and that of the child must hold: a descriptor closed too many would have dropped the latter.
        assert not own.evict(slot, 20) and not own.evict(mine, 10)
        own.register(1, 1, 30)
        try:
            SharedTable(sys.argv[1])
        except StoragePathError:
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
    assert own.waiters({1: 1})[:2] == [(mine, 10), (slot, 20)]
    own.close()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (mine, 10) in table.waiters({1: 1})
table.close()
"""
    run_script(code, tmp_path / "table")


# -- commit times ------------------------------------------------------------------------------------------------------------------------


def test_commit_times(table: SharedTable) -> None:
    last = 20_000
    for txn_id in range(1, last + 1):
        table.note_commit(txn_id, 10**18 + txn_id)
    for txn_id in range(last - 4000, last + 1):
        assert table.commit_time(txn_id, last) == 10**18 + txn_id
    for txn_id in range(1024, last - 4096):
        assert table.commit_time(txn_id, last) == 10**18 + txn_id // 1024 * 1024
    assert table.commit_time(1000, last) is None


def test_commit_times_of_an_empty_table(table: SharedTable) -> None:
    assert table.commit_time(0, 0) is None
    assert table.commit_time(5, 5) is None


def test_commit_times_fall_off_the_coarse_ring(table: SharedTable) -> None:
    table.note_commit(1024, 10**18)
    assert table.commit_time(1024, 4_000_000) == 10**18
    assert table.commit_time(1024, 5_000_000) is None


@given(st.sets(st.integers(5000, 6000), max_size=3))
def test_a_commit_never_noted_is_dated_by_an_earlier_one(tmp_path_factory: pytest.TempPathFactory, lost: set[int]) -> None:
    opened = SharedTable(tmp_path_factory.mktemp("lost") / "table")
    try:
        for txn_id in range(1, 6001):
            if txn_id not in lost:
                opened.note_commit(txn_id, 10**18 + txn_id)
        for txn_id in lost:
            time = opened.commit_time(txn_id, 6000)
            assert time is not None and txn_id - 4 <= time - 10**18 < txn_id
    finally:
        opened.close()


# Those of whom one is enough.


def test_of_those_of_whom_one_is_enough_each_commit_finds_another(table: SharedTable) -> None:
    slots = [table.register(ONE_OF, 1, address) for address in (11, 12, 13)]
    other = table.register(7, 1, 21)
    found = [table.waiters({ONE_OF: 1}) for _ in range(4)]
    assert found == [[(slots[0], 11)], [(slots[1], 12)], [(slots[2], 13)], []], "each is chosen once, until it registers anew"
    table.unregister(slots[1])
    again = table.register(ONE_OF, 1, 14)
    assert table.waiters({ONE_OF: 2}) == []
    assert sorted(table.waiters({ONE_OF: 1, 7: 1})) == sorted([(again, 14), (other, 21)])


def test_everybody_is_found_when_one_may_not_have_been_rung(table: SharedTable) -> None:
    slots = [table.register(ONE_OF, 1, address) for address in (11, 12)]
    assert table.waiters({ONE_OF: 1}) == [(slots[0], 11)]
    assert table.waiters({ONE_OF: 1}, everybody=True) == [(slots[0], 11), (slots[1], 12)]
