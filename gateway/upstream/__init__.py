"""Bytes to and from an engine.

Here belongs connecting, deadlines and what is kept of an engine's answer. Which engine and what is sent to it are decided before.
"""
