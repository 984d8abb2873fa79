"""Where objects come from: one interface, a folder of YAML behind it here, an API server behind it in a cluster.

Controllers do not know which they run on.
"""
