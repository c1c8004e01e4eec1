"""What parkit costs, as ratios to bare LMDB and to multiprocessing: ``python -m tests.benchmarks.run``."""
