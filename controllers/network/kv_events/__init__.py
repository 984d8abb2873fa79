"""Follows engines' KV-cache events into the prefix index: exactly what each engine holds, by token.

``events`` decodes, ``apply`` writes the index, ``sequence`` and ``replay`` say what was missed, ``follower`` is one engine's task,
``followers`` has one for each endpoint whose server asks for it. Nothing here raises because of what an engine sends: it is counted.
"""
