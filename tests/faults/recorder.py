"""Every call that changes what the disk holds, in its order: a library, loaded before the C library's own calls, that writes them down.

LMDB's writes do not go through Python, its meta page goes through a descriptor of its own, and whether that one is synchronous is what the levels
differ in. So calls are recorded beneath LMDB, with what decides their fate in a power loss: file (by inode), place, bytes, and whether the descriptor
is synchronous. Entries of folders are recorded likewise, since a file that was synchronized can still lose its name.

A call is made and recorded under one lock, over all threads and processes that have the library, so that the record is the order in which the system
got them. :func:`mark` puts a note of the program's own between them: what it takes for done at that moment. Files that are written through a mapping
(``shared``, ``lock.mdb``) are not seen; a power loss may leave anything in those.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.failing_calls import build

__all__ = ["Event", "Kind", "build_recorder", "mark", "read_trace"]


class Kind(IntEnum):
    """What an event was."""

    WRITE = 1
    """Bytes of a file."""
    TRUNCATE = 2
    """A file's new size."""
    SYNC = 3
    """A file, or a folder's entries, made durable."""
    LINK = 4
    """A new file or folder in a folder."""
    RENAME = 5
    """Another name, perhaps over what had it before."""
    UNLINK = 6
    """A name less."""
    MARK = 7
    """A note of the program's."""


class Event(NamedTuple):
    """One event.

    Attributes:
        kind: What it was.
        synchronous: Whether a write was durable when it returned.
        inode: Of the file; of the folder, for what concerns names.
        other: Offset or size; inode of the new file; inode of the folder renamed into.
        payload: Bytes written; names, with a zero byte between them.
    """

    kind: Kind
    synchronous: bool
    inode: int
    other: int
    payload: bytes


_HEAD: Final = struct.Struct("=IIQqq")

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, SYNC, LINK, RENAME, UNLINK, MARK };

struct head { uint32_t kind, synchronous; uint64_t inode; int64_t other, size; };

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static char watched[PATH_MAX];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("RECORDER_TRACE"), *folder = getenv("RECORDER_FOLDER");
    if (!path || !folder || !realpath(folder, watched))
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    trace = fcntl(fd, F_DUPFD_CLOEXEC, 700);
    syscall(SYS_close, fd);
}

static void enter(void) { pthread_mutex_lock(&mutex); while (flock(trace, LOCK_EX)) ; }
static void leave(void) { int saved = errno; flock(trace, LOCK_UN); pthread_mutex_unlock(&mutex); errno = saved; }

static void put(int kind, int synchronous, uint64_t inode, int64_t other, const struct iovec *data, int n, int64_t size)
{
    int saved = errno;
    struct head head = { kind, synchronous, inode, other, size };
    struct iovec all[1 + IOV_MAX] = { { &head, sizeof head } };
    int count = 1;
    for (int64_t left = size; left > 0 && count <= n; count++) {
        all[count] = data[count - 1];
        if ((int64_t)all[count].iov_len > left)
            all[count].iov_len = left;
        left -= all[count].iov_len;
    }
    if (syscall(SYS_writev, trace, all, count) != (ssize_t)(sizeof head + size))
        abort();  /* half a record would be worse than none */
    errno = saved;
}

static void put_bytes(int kind, uint64_t inode, int64_t other, const void *bytes, size_t size)
{
    struct iovec one = { (void *)bytes, size };
    put(kind, 0, inode, other, &one, 1, size);
}

void recorder_mark(const char *bytes, size_t size)
{
    enter();
    put_bytes(MARK, 0, 0, bytes, size);
    leave();
}

static int is_watched(const char *path)
{
    size_t length = strlen(watched);
    return trace >= 0 && strncmp(path, watched, length) == 0 && (path[length] == '/' || !path[length]);
}

/* The inode of a file or folder that is watched, or 0. */
static uint64_t watched_fd(int fd)
{
    char link[64], path[PATH_MAX];
    struct stat status;
    int saved = errno;
    uint64_t inode = 0;
    if (trace >= 0 && fd >= 0 && fd != trace) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            if (is_watched(path) && fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
                inode = status.st_ino;
        }
    }
    errno = saved;
    return inode;
}

#define RECORD_WRITE(call, data, n, at) \
    uint64_t inode = watched_fd(fd); \
    if (!inode) return call; \
    enter(); \
    off_t offset = at; \
    ssize_t done = call; \
    if (done > 0) put(WRITE, (fcntl(fd, F_GETFL) & O_DSYNC) != 0, inode, offset, data, n, done); \
    leave(); \
    return done;

static off_t position(int fd) { return (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR); }

#define ONE struct iovec one = { (void *)data, size };
ssize_t write(int fd, const void *data, size_t size) { ONE RECORD_WRITE(NEXT(write)(fd, data, size), &one, 1, position(fd)) }
ssize_t writev(int fd, const struct iovec *data, int n) { RECORD_WRITE(NEXT(writev)(fd, data, n), data, n, position(fd)) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { ONE RECORD_WRITE(NEXT(pwrite)(fd, data, size, at), &one, 1, at) }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { ONE RECORD_WRITE(NEXT(pwrite64)(fd, data, size, at), &one, 1, at) }
ssize_t pwritev(int fd, const struct iovec *data, int n, off_t at) { RECORD_WRITE(NEXT(pwritev)(fd, data, n, at), data, n, at) }
ssize_t pwritev64(int fd, const struct iovec *data, int n, off_t at) { RECORD_WRITE(NEXT(pwritev64)(fd, data, n, at), data, n, at) }

#define RECORD_CALL(call, kind, other) \
    uint64_t inode = watched_fd(fd); \
    if (!inode) return call; \
    enter(); \
    int done = call; \
    if (done == 0) put_bytes(kind, inode, other, "", 0); \
    leave(); \
    return done;

int ftruncate(int fd, off_t size) { RECORD_CALL(NEXT(ftruncate)(fd, size), TRUNCATE, size) }
int ftruncate64(int fd, off_t size) { RECORD_CALL(NEXT(ftruncate64)(fd, size), TRUNCATE, size) }
int fsync(int fd) { RECORD_CALL(NEXT(fsync)(fd), SYNC, 0) }
int fdatasync(int fd) { RECORD_CALL(NEXT(fdatasync)(fd), SYNC, 0) }

/* Split a path; return the inode of its folder, or 0 if that is not watched. */
static uint64_t folder_of(int at, const char *path, char *name)
{
    char whole[2 * PATH_MAX], link[64], real[PATH_MAX];
    struct stat status;
    int saved = errno;
    uint64_t inode = 0;
    if (trace < 0)
        return 0;
    if (path[0] != '/' && at >= 0) {
        char base[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
    } else
        snprintf(whole, sizeof whole, "%s", path);
    char *slash = strrchr(whole, '/');
    if (slash) {
        snprintf(name, NAME_MAX + 1, "%s", slash + 1);
        *slash = 0;
        if (realpath(whole, real) && is_watched(real) && stat(real, &status) == 0)
            inode = status.st_ino;
    }
    errno = saved;
    return inode;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

#define RECORD_OPEN(at, call) \
    MODE(flags) \
    char name[NAME_MAX + 1]; \
    uint64_t folder = (flags) & (O_CREAT | O_TRUNC) ? folder_of(at, path, name) : 0; \
    if (!folder) return call; \
    enter(); \
    int missing = faccessat(at, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0; \
    int fd = call; \
    struct stat status; \
    if (fd >= 0 && fstat(fd, &status) == 0) { \
        if (missing) put_bytes(LINK, folder, status.st_ino, name, strlen(name)); \
        else if (flags & O_TRUNC) put_bytes(TRUNCATE, status.st_ino, 0, "", 0); \
    } \
    leave(); \
    return fd;

int open(const char *path, int flags, ...) { RECORD_OPEN(AT_FDCWD, NEXT(open)(path, flags, mode)) }
int open64(const char *path, int flags, ...) { RECORD_OPEN(AT_FDCWD, NEXT(open64)(path, flags, mode)) }
int openat(int at, const char *path, int flags, ...) { RECORD_OPEN(at, NEXT(openat)(at, path, flags, mode)) }
int openat64(int at, const char *path, int flags, ...) { RECORD_OPEN(at, NEXT(openat64)(at, path, flags, mode)) }

#define RECORD_NAME(at, call, made) \
    char name[NAME_MAX + 1]; \
    uint64_t folder = folder_of(at, path, name); \
    if (!folder) return call; \
    enter(); \
    int done = call; \
    struct stat status; \
    if (done == 0) { \
        if (made && fstatat(at, path, &status, AT_SYMLINK_NOFOLLOW) == 0) \
            put_bytes(LINK, folder, -(int64_t)status.st_ino, name, strlen(name)); \
        else put_bytes(UNLINK, folder, 0, name, strlen(name)); \
    } \
    leave(); \
    return done;

int mkdir(const char *path, mode_t mode) { RECORD_NAME(AT_FDCWD, NEXT(mkdir)(path, mode), 1) }
int mkdirat(int at, const char *path, mode_t mode) { RECORD_NAME(at, NEXT(mkdirat)(at, path, mode), 1) }
int unlink(const char *path) { RECORD_NAME(AT_FDCWD, NEXT(unlink)(path), 0) }
int rmdir(const char *path) { RECORD_NAME(AT_FDCWD, NEXT(rmdir)(path), 0) }
int unlinkat(int at, const char *path, int flags) { RECORD_NAME(at, NEXT(unlinkat)(at, path, flags), 0) }

static int record_rename(int done, uint64_t from, const char *name, uint64_t to, const char *new)
{
    char names[2 * NAME_MAX + 2];
    if (done == 0) {
        int size = snprintf(names, sizeof names, "%s%c%s", name, 0, new);
        put_bytes(RENAME, from, to, names, size);
    }
    return done;
}

int rename(const char *old, const char *new)
{
    char name[NAME_MAX + 1], other[NAME_MAX + 1];
    uint64_t from = folder_of(AT_FDCWD, old, name), to = folder_of(AT_FDCWD, new, other);
    if (!from || !to) return NEXT(rename)(old, new);
    enter();
    int done = record_rename(NEXT(rename)(old, new), from, name, to, other);
    leave();
    return done;
}

int renameat(int at, const char *old, int into, const char *new)
{
    char name[NAME_MAX + 1], other[NAME_MAX + 1];
    uint64_t from = folder_of(at, old, name), to = folder_of(into, new, other);
    if (!from || !to) return NEXT(renameat)(at, old, into, new);
    enter();
    int done = record_rename(NEXT(renameat)(at, old, into, new), from, name, to, other);
    leave();
    return done;
}
"""


def build_recorder(folder: Path) -> Path:
    """Compile the library, and return its path. A process that is to be recorded has it in ``LD_PRELOAD``.

    It writes to the file that ``RECORDER_TRACE`` names, what concerns files and folders below ``RECORDER_FOLDER``, which exists.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    return build(folder, _SOURCE, "recorder")


def mark(note: bytes) -> None:
    """Put a note between the events; in a process that has the library."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.recorder_mark.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.recorder_mark(note, len(note))


def read_trace(path: Path) -> Iterator[Event]:
    """Read what was recorded."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        kind, synchronous, inode, other, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Event(Kind(kind), bool(synchronous), inode, other, data[at : at + size])
        at += size
