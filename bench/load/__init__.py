"""The load rig: the gateway beside its peers on pinned cores, under one engine and one load, compared in one table.

Only what starts, loads, measures and reports whole processes belongs here; benchmarks of single calls are in ``bench.micro``.
"""
