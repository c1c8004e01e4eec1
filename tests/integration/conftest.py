"""parkit inside what others have made: executors, logging, web servers."""

from __future__ import annotations

from tests.pool.conftest import Pool, own_pool, pool, shared  # noqa: F401 - the fixtures of a pool
