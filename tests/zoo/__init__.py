"""Sacrificial processes: one file in ``victims/`` is one behaviour, run by every CPython found on this machine."""
