"""Wires: the second process. Everything that asks the network for anything lives here.

Placeholder docstring, replaced by the room's own.
"""
