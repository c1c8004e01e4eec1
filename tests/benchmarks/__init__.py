"""What parkit costs: ``python -m tests.benchmarks.run``.

Two halves. The budgets set parkit's operations against the same work done with LMDB and multiprocessing directly, as ratios of slices that ran next
to each other (``single``, ``queues``, ``loops``, ``processes``, ``pool``, ``startup``, with ``measure`` and ``bare``). The comparison sets it beside
what else one might use (``scenarios``, ``rivals``, with ``comparison``). ``report`` and ``plots`` show both.
"""
