"""System calls that fail: a library, loaded before the C library's own calls, that refuses the n-th of those that need room.

A full disk, a broken one, and a process without descriptors show themselves to a program as calls that fail, and which of its calls is the first to
fail is chance. So a test does not wait for that: it has one run of its operation for each call that the operation makes, and lets that call fail.

Only calls on files below one folder count (:meth:`FailingCalls.watch`), so that the interpreter around them is left alone. The library is compiled
here: LMDB's calls do not go through Python, and not every machine lets a process be traced. The process that is to suffer loads it with
``LD_PRELOAD`` and steers it through :class:`FailingCalls`; everybody else has nothing to do with it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

__all__ = ["DESCRIPTOR", "FOR_EVER", "MEMORY", "ROOM", "SYNC", "FailingCalls", "build"]

ROOM: Final = 1
"""Calls that may take room on the disk: writing, lengthening, allocating, creating and renaming files, folders and sockets."""
SYNC: Final = 2
"""Calls that make written data durable."""
DESCRIPTOR: Final = 4
"""Calls that return a new descriptor, whatever it is of."""
MEMORY: Final = 8
"""Allocations by LMDB and its binding; nobody else's, as an interpreter without memory is not what is tested. With the GNU C library only."""

FOR_EVER: Final = 1 << 60

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { ROOM = 1, SYNC = 2, DESCRIPTOR = 4, MEMORY = 8 };

static char watched[PATH_MAX], where[PATH_MAX + 64];
static long number, first, last;
static int code, kinds, half, refused;

void failing_watch(const char *folder) { strncpy(watched, folder, sizeof watched - 1); }

void failing_arm(long from, long to, int error, int of, int partly)
{
    number = 0; refused = 0; where[0] = 0;
    first = from; last = to; code = error; half = partly;
    kinds = of;
}

int failing_disarm(void) { kinds = 0; return refused; }
long failing_number(void) { return number; }
const char *failing_where(void) { return where; }

static int is_watched(const char *path) { return strncmp(path, watched, strlen(watched)) == 0; }

static const char *path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

/* Whether this call is to fail; the caller then returns -1. */
static int fails(int kind, const char *name, const char *path)
{
    if (!(kinds & kind))
        return 0;
    long mine = __atomic_add_fetch(&number, 1, __ATOMIC_SEQ_CST);
    if (mine < first || mine > last)
        return 0;
    if (!refused++)
        snprintf(where, sizeof where, "%s(%s)", name, path);
    errno = code;
    return 1;
}

static int fd_fails(int kind, const char *name, int fd)
{
    char path[PATH_MAX];
    int saved = errno;
    if (!(kinds & kind))
        return 0;
    path_of(fd, path);
    errno = saved;
    return is_watched(path) && fails(kind, name, path);
}

static int path_fails(int kind, const char *name, int folder, const char *path)
{
    char whole[2 * PATH_MAX], base[PATH_MAX];
    int saved = errno;
    if (!(kinds & kind))
        return 0;
    if (path[0] != '/' && folder >= 0)
        snprintf(whole, sizeof whole, "%s/%s", path_of(folder, base), path);
    else
        snprintf(whole, sizeof whole, "%s", path);
    errno = saved;
    return is_watched(whole) && fails(kind, name, whole);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Of a write that is to fail partly, half is written: what a disk does that fills up in the middle. */
#define WRITE(name, fd, size, whole, part) \
    if (fd_fails(ROOM, #name, fd)) { \
        if (!half || (size) < 2) return -1; \
        return part; \
    } \
    return whole;

ssize_t write(int fd, const void *data, size_t size)
{ WRITE(write, fd, size, NEXT(write)(fd, data, size), NEXT(write)(fd, data, size / 2)) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{ WRITE(pwrite, fd, size, NEXT(pwrite)(fd, data, size, at), NEXT(pwrite)(fd, data, size / 2, at)) }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{ WRITE(pwrite64, fd, size, NEXT(pwrite64)(fd, data, size, at), NEXT(pwrite64)(fd, data, size / 2, at)) }
ssize_t writev(int fd, const struct iovec *data, int n)
{ WRITE(writev, fd, n, NEXT(writev)(fd, data, n), NEXT(writev)(fd, data, n / 2)) }
ssize_t pwritev(int fd, const struct iovec *data, int n, off_t at)
{ WRITE(pwritev, fd, n, NEXT(pwritev)(fd, data, n, at), NEXT(pwritev)(fd, data, n / 2, at)) }
ssize_t pwritev64(int fd, const struct iovec *data, int n, off64_t at)
{ WRITE(pwritev64, fd, n, NEXT(pwritev64)(fd, data, n, at), NEXT(pwritev64)(fd, data, n / 2, at)) }

int ftruncate(int fd, off_t size) { return fd_fails(ROOM, "ftruncate", fd) ? -1 : NEXT(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fd_fails(ROOM, "ftruncate64", fd) ? -1 : NEXT(ftruncate64)(fd, size); }
int posix_fallocate(int fd, off_t at, off_t size)
{ return fd_fails(ROOM, "posix_fallocate", fd) ? code : NEXT(posix_fallocate)(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size)
{ return fd_fails(ROOM, "posix_fallocate64", fd) ? code : NEXT(posix_fallocate64)(fd, at, size); }
int fallocate(int fd, int mode, off_t at, off_t size) { return fd_fails(ROOM, "fallocate", fd) ? -1 : NEXT(fallocate)(fd, mode, at, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { return fd_fails(ROOM, "fallocate64", fd) ? -1 : NEXT(fallocate64)(fd, mode, at, size); }

int fsync(int fd) { return fd_fails(SYNC, "fsync", fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return fd_fails(SYNC, "fdatasync", fd) ? -1 : NEXT(fdatasync)(fd); }

/* Whether a file has to be made: one that is there takes no more room. */
static int is_missing(int folder, const char *path)
{
    int saved = errno, missing = (kinds & ROOM) && faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    errno = saved;
    return missing;
}

static int open_fails(const char *name, int folder, const char *path, int flags)
{
    if (path_fails(DESCRIPTOR, name, folder, path))
        return 1;
    return (flags & O_CREAT) && is_missing(folder, path) && path_fails(ROOM, name, folder, path);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

int open(const char *path, int flags, ...)
{ MODE(flags) return open_fails("open", AT_FDCWD, path, flags) ? -1 : NEXT(open)(path, flags, mode); }
int open64(const char *path, int flags, ...)
{ MODE(flags) return open_fails("open64", AT_FDCWD, path, flags) ? -1 : NEXT(open64)(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...)
{ MODE(flags) return open_fails("openat", folder, path, flags) ? -1 : NEXT(openat)(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...)
{ MODE(flags) return open_fails("openat64", folder, path, flags) ? -1 : NEXT(openat64)(folder, path, flags, mode); }

int mkdir(const char *path, mode_t mode)
{ return is_missing(AT_FDCWD, path) && path_fails(ROOM, "mkdir", AT_FDCWD, path) ? -1 : NEXT(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode)
{ return is_missing(folder, path) && path_fails(ROOM, "mkdirat", folder, path) ? -1 : NEXT(mkdirat)(folder, path, mode); }
int rename(const char *old, const char *new) { return path_fails(ROOM, "rename", AT_FDCWD, new) ? -1 : NEXT(rename)(old, new); }
int renameat(int from, const char *old, int to, const char *new)
{ return path_fails(ROOM, "renameat", to, new) ? -1 : NEXT(renameat)(from, old, to, new); }

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_un *local = (const void *)address;
    if (local->sun_family == AF_UNIX && local->sun_path[0] && path_fails(ROOM, "bind", AT_FDCWD, local->sun_path))
        return -1;
    return NEXT(bind)(fd, address, size);
}

#ifdef __GLIBC__
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static int memory_fails(const char *name, void *caller)
{
    Dl_info of;
    return (kinds & MEMORY) && dladdr(caller, &of) && strstr(of.dli_fname, "/lmdb/") && fails(MEMORY, name, "");
}

void *malloc(size_t size) { return memory_fails("malloc", __builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return memory_fails("calloc", __builtin_return_address(0)) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return memory_fails("realloc", __builtin_return_address(0)) ? NULL : __libc_realloc(old, size); }
#endif

/* These belong to no folder. */
int socket(int domain, int type, int protocol) { return fails(DESCRIPTOR, "socket", "") ? -1 : NEXT(socket)(domain, type, protocol); }
int socketpair(int domain, int type, int protocol, int pair[2])
{ return fails(DESCRIPTOR, "socketpair", "") ? -1 : NEXT(socketpair)(domain, type, protocol, pair); }
int pipe(int pair[2]) { return fails(DESCRIPTOR, "pipe", "") ? -1 : NEXT(pipe)(pair); }
int pipe2(int pair[2], int flags) { return fails(DESCRIPTOR, "pipe2", "") ? -1 : NEXT(pipe2)(pair, flags); }
int dup(int fd) { return fails(DESCRIPTOR, "dup", "") ? -1 : NEXT(dup)(fd); }
int epoll_create1(int flags) { return fails(DESCRIPTOR, "epoll_create1", "") ? -1 : NEXT(epoll_create1)(flags); }
int eventfd(unsigned value, int flags) { return fails(DESCRIPTOR, "eventfd", "") ? -1 : NEXT(eventfd)(value, flags); }
int inotify_init1(int flags) { return fails(DESCRIPTOR, "inotify_init1", "") ? -1 : NEXT(inotify_init1)(flags); }
"""


def build(folder: Path, source: str = _SOURCE, name: str = "failing") -> Path:
    """Compile a library to be loaded with ``LD_PRELOAD``, and return its path.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    text, library = folder / f"{name}.c", folder / f"{name}.so"
    text.write_text(source)
    names = [os.environ.get("CC", ""), (sysconfig.get_config_var("CC") or "").split(" ")[0], "cc", "gcc", "clang"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler found: install one (apt install gcc, dnf install gcc, apk add gcc musl-dev)")
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, text, "-ldl"], capture_output=True, text=True, check=False)
    if built.returncode:
        raise RuntimeError(built.stderr)
    return library


class FailingCalls:
    """Steers the library, in the process that has loaded it.

    Args:
        library: Its path.
        folder: The calls on files below this one are meant; sockets and pipes, which lie nowhere, are meant always.
    """

    def __init__(self, library: str, folder: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.failing_arm.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._library.failing_number.restype = ctypes.c_long
        self._library.failing_where.restype = ctypes.c_char_p
        self._library.failing_watch.argtypes = [ctypes.c_char_p]
        self._library.failing_watch(os.fsencode(folder))

    def arm(self, first: int, error: int, kinds: int, last: int | None = None, partly: bool = False) -> None:
        """From now on, let the ``first`` call of these kinds fail, and those up to ``last``.

        Args:
            first: 1 is the next call.
            error: What it fails with, an ``errno``.
            kinds: A sum of ROOM, SYNC, DESCRIPTOR and MEMORY.
            last: The last one to fail; None is ``first`` itself.
            partly: Writes do half of what they should, and say so, instead of failing.
        """
        self._library.failing_arm(first, first if last is None else last, error, kinds, partly)

    def pause(self) -> None:
        """Let every call do what it should again; :meth:`disarm` still tells what has failed."""
        self._library.failing_disarm()

    def disarm(self) -> str:
        """Let every call do what it should again. Return which one was the first to fail, with its path; empty if none was."""
        if not self._library.failing_disarm():
            return ""
        where: bytes = self._library.failing_where()
        return where.decode()

    @property
    def count(self) -> int:
        """How many calls of these kinds there were since they were armed."""
        return int(self._library.failing_number())
