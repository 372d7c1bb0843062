"""The facts that all layers exchange, as named tuples: a thousand of them are made to list a thousand threads.

Nothing here reads, writes or prints. A module each for what is looked at and what is done, since a listing, which is asked
most and waits for its imports, needs the first of them only.
"""
