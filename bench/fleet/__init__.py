"""A fleet in virtual time: the compiled scheduler, and others' policies, before simulated engines that are fed by a real trace.

Only what decides, computes and measures in virtual time belongs here; whole processes on real clocks are in ``bench.load``.
"""
