"""Runs inside gdb's own Python: standard library and ``gdb`` only, Python 3.9 and later, nothing imported from threadsurgeon.

The rules of this folder:

- One command (``-ts-…``) per file, the twin of a technique in ``threadsurgeon/surgery``.
- Every change to the target is a ``with`` block that takes it back on every way out.
- No software breakpoint, ever: only one thread is traced, any other thread that ran into one would die of SIGTRAP.
- A reply is one JSON text; an expected failure is a ``gdb.GdbError`` with one clear line.
"""
