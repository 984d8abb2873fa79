"""The API kinds of ``serving.penstock.dev/v1alpha1``: types, defaults and validation. No I/O.

Field names are those of the API (camelCase in YAML); a fault names the field by its path, so that a store can add file and line.
"""
