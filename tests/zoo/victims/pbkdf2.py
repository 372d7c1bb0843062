"""Deriving a key for an hour in OpenSSL, the GIL released."""

import hashlib

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"": "pending", "cut": "ended"}


def victim():
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


_backchannel.run(victim)
