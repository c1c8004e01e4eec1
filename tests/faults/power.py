"""What a disk may hold after a power loss: a model of it, without files.

The model is the weakest disk that keeps POSIX's word and a sector's:

* What was written and then synchronized is there. ``fsync`` and ``fdatasync`` cover all that was written to the file before, with the size it
  needs; a write through a synchronous descriptor (``O_DSYNC``) covers itself alone.
* Of everything else, any part may be there. The unit is the sector of 512 bytes, which is written whole or not at all. It holds what it held when it
  was last durable, or after any write since then, whatever other sectors hold: so writes are lost, torn and reordered. A size that was not
  synchronized may be any of those that the file has had since, and what lies between is zeros.
* Names are durable once their folder was synchronized; until then each step (a new name, another name, a name less) is there or not.
  A renaming is one step. That a file was synchronized says nothing of its name.

Real file systems promise more; what stands here holds on all of them. The model errs in one direction alone: a state that it gives may never come
about, but one that can come about, it gives. After Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), sections 2 and 3, where it is
shown how far they differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tests.faults.recorder import Event, Kind

__all__ = ["CHOICES", "SECTOR", "Disk", "Folder", "everything", "nothing"]

SECTOR: Final = 512
_ZEROS: Final = bytes(SECTOR)
_META: Final = 2 * 4096
"""Bytes of LMDB's two meta pages, with which its file begins."""


class Step(NamedTuple):
    """Something that may be lost.

    Attributes:
        inode: The file's, or 0 for a change of names.
        sectors: Content of each sector that was written, as it was then.
        size: The file's size then.
        is_cut: Whether it may have made the file shorter.
        names: Folder, name, and what that stands for from then on; None for nothing.
    """

    inode: int
    sectors: dict[int, bytes]
    size: int
    is_cut: bool = False
    names: tuple[tuple[int, bytes, int | None], ...] = ()

    @property
    def is_meta(self) -> bool:
        """Whether it is a write of one of LMDB's meta pages, if it is one of a file of LMDB's."""
        return any(sector * SECTOR < _META for sector in self.sectors)


Chosen = Iterable[Step]
Choice = Callable[[random.Random, list[Step]], Chosen]
"""Of the steps that may be lost, returns those that are there, in the order in which they reached the disk."""


class _Image:
    """Content of a file by sectors; those that were never written are zeros."""

    def __init__(self) -> None:
        self.sectors: dict[int, bytes] = {}
        self.size = 0

    def write(self, at: int, data: bytes) -> dict[int, bytes]:
        """Change the content; return the sectors as they are now."""
        changed = {}
        end = at + len(data)
        for sector in range(at // SECTOR, (end + SECTOR - 1) // SECTOR):
            start = sector * SECTOR
            if at <= start and start + SECTOR <= end:
                content = data[start - at : start - at + SECTOR]
            else:
                old = bytearray(self.sectors.get(sector, bytes(SECTOR)))
                first, last = max(at, start), min(end, start + SECTOR)
                old[first - start : last - start] = data[first - at : last - at]
                content = bytes(old)
            self.sectors[sector] = changed[sector] = content
        self.size = max(self.size, end)
        return changed

    def truncate(self, size: int) -> dict[int, bytes]:
        """Change the size; return the sectors that this changes."""
        self.sectors = {sector: content for sector, content in self.sectors.items() if sector * SECTOR < size}
        self.size = size
        last, kept = divmod(size, SECTOR)
        if kept and last in self.sectors:
            self.sectors[last] = self.sectors[last][:kept] + bytes(SECTOR - kept)
            return {last: self.sectors[last]}
        return {}

    def apply(self, step: Step) -> None:
        """Let a step reach the content."""
        if step.is_cut:
            self.truncate(step.size)
        self.sectors.update(step.sectors)
        self.size = max(self.size, step.size)

    def content(self) -> bytes:
        get = self.sectors.get
        return b"".join([get(sector, _ZEROS) for sector in range((self.size + SECTOR - 1) // SECTOR)])[: self.size]


Folder = dict[str, "bytes | Folder"]
"""Files with their content, and folders, by name."""


class Disk:
    """A disk, told of what happens to it.

    Args:
        root: Inode of the folder that all is in. It is there for certain, and empty at first.

    Attributes:
        steps: What has happened and may yet be lost, in its order.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._cache: dict[int, _Image] = {}
        self._durable: dict[int, _Image] = {}
        self._names: dict[int, dict[bytes, int]] = {}
        self._latest: dict[int, dict[bytes, int]] = {}
        self._folders = {root}
        self.steps: list[Step] = []

    def happen(self, event: Event) -> None:
        """Take note of an event."""
        inode = event.inode
        match event.kind:
            case Kind.WRITE:
                sectors = self._cache.setdefault(inode, _Image()).write(event.other, event.payload)
                self.steps.append(Step(inode, sectors, self._cache[inode].size))
                if event.synchronous:
                    self._sync_range(inode, sectors, event.other + len(event.payload))
            case Kind.TRUNCATE:
                image = self._cache.setdefault(inode, _Image())
                self.steps.append(Step(inode, image.truncate(event.other), event.other, is_cut=True))
            case Kind.SYNC if inode in self._folders:
                self._settle(lambda step: any(folder == inode for folder, _, _ in step.names))
            case Kind.SYNC:
                self._settle(lambda step: step.inode == inode)
            case Kind.LINK:
                if event.other < 0:
                    self._folders.add(-event.other)
                self._rename((inode, event.payload, abs(event.other)))
            case Kind.UNLINK:
                self._rename((inode, event.payload, None))
            case Kind.RENAME:
                old, new = event.payload.split(b"\0")
                moved = self._latest[inode][old]
                self._rename((inode, old, None), (event.other, new, moved))
            case Kind.MARK:
                pass

    def after(self, steps: Chosen) -> Folder:
        """Return what is there, if of what may be lost these steps have reached the disk, in this order."""
        images: dict[int, _Image] = {}
        names = {folder: dict(entries) for folder, entries in self._names.items()}
        for step in steps:
            if step.names:
                self._apply_names(names, step)
                continue
            image = images.get(step.inode)
            if image is None:
                image = images[step.inode] = _Image()
                durable = self._durable.get(step.inode)
                if durable is not None:
                    image.sectors, image.size = dict(durable.sectors), durable.size
            image.apply(step)
        return self._tree(self._root, names, images)

    def _tree(self, folder: int, names: dict[int, dict[bytes, int]], images: dict[int, _Image]) -> Folder:
        found: Folder = {}
        for name, inode in names.get(folder, {}).items():
            if inode in self._folders:
                found[name.decode()] = self._tree(inode, names, images)
            else:
                image = images.get(inode) or self._durable.get(inode)
                found[name.decode()] = image.content() if image is not None else b""
        return found

    def _rename(self, *names: tuple[int, bytes, int | None]) -> None:
        step = Step(0, {}, 0, names=names)
        self._apply_names(self._latest, step)
        self.steps.append(step)

    def _settle(self, is_durable: Callable[[Step], bool]) -> None:
        for step in self.steps:
            if is_durable(step):
                if step.names:
                    self._apply_names(self._names, step)
                else:
                    self._durable.setdefault(step.inode, _Image()).apply(step)
        self.steps = [step for step in self.steps if not is_durable(step)]

    def _sync_range(self, inode: int, sectors: dict[int, bytes], end: int) -> None:
        """Make some sectors durable, as they are now: what was written to them before, other writes may still hold for others."""
        image = self._durable.setdefault(inode, _Image())
        image.sectors.update(sectors)
        image.size = max(image.size, end)
        kept = []
        for step in self.steps:
            if step.inode == inode and not sectors.keys().isdisjoint(step.sectors):
                step = step._replace(sectors={sector: content for sector, content in step.sectors.items() if sector not in sectors})
                if not step.sectors and step.size <= image.size:
                    continue
            kept.append(step)
        self.steps = kept

    @staticmethod
    def _apply_names(names: dict[int, dict[bytes, int]], step: Step) -> None:
        for folder, name, inode in step.names:
            entries = names.setdefault(folder, {})
            if inode is None:
                entries.pop(name, None)
            else:
                entries[name] = inode


# What may have reached the disk. Sizes grow with what is there; that one is lost and another, later one is not, comes of the order.


def nothing(rng: random.Random, steps: list[Step]) -> Chosen:
    """All is lost that may be."""
    return []


def everything(rng: random.Random, steps: list[Step]) -> Chosen:
    """Nothing is lost."""
    return steps


def some(rng: random.Random, steps: list[Step]) -> Chosen:
    """Keep each write with the same chance."""
    chance = rng.choice((0.1, 0.5, 0.9))
    return [step for step in steps if rng.random() < chance]


def torn(rng: random.Random, steps: list[Step]) -> Chosen:
    """Keep each sector of each write with the same chance."""
    chance = rng.choice((0.1, 0.5, 0.9))
    return [_tear(rng, step, chance) for step in steps if step.sectors or rng.random() < chance]


def in_order(rng: random.Random, steps: list[Step]) -> Chosen:
    """Keep what came first; the last write of it is torn."""
    kept = steps[: rng.randrange(len(steps) + 1)]
    return [*kept[:-1], _tear(rng, kept[-1], 0.5)] if kept else []


def all_but_one(rng: random.Random, steps: list[Step]) -> Chosen:
    """Lose one write."""
    lost = rng.randrange(len(steps)) if steps else 0
    return [step for number, step in enumerate(steps) if number != lost]


def only_one(rng: random.Random, steps: list[Step]) -> Chosen:
    """Keep one write."""
    return [rng.choice(steps)] if steps else []


def metas_alone(rng: random.Random, steps: list[Step]) -> Chosen:
    """Keep LMDB's meta pages and the names: the commits are there, and what they consist of is not."""
    return [step for step in steps if step.is_meta or step.names]


def all_but_metas(rng: random.Random, steps: list[Step]) -> Chosen:
    """Lose LMDB's meta pages."""
    return [step for step in steps if not step.is_meta]


def reordered(rng: random.Random, steps: list[Step]) -> Chosen:
    """Let each sector be as after any of its writes, the sizes in any order that makes a file shorter, too."""
    kept = [_tear(rng, step, 0.5) for step in steps if not step.names or rng.random() < 0.5]
    sizes = [step for step in kept if step.inode]
    if sizes:
        size = rng.choice(sizes).size
        kept = [step if step.names else step._replace(size=min(step.size, size)) for step in kept]
    return kept


CHOICES: Final[dict[str, Choice]] = {
    choice.__name__: choice for choice in (nothing, everything, some, torn, in_order, all_but_one, only_one, metas_alone, all_but_metas, reordered)
}


def _tear(rng: random.Random, step: Step, chance: float) -> Step:
    return step._replace(sectors={sector: content for sector, content in step.sectors.items() if rng.random() < chance})
