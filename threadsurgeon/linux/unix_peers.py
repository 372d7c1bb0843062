"""Which unix socket is connected to which: the kernel tells it by netlink (sock_diag(7)), and nowhere in ``/proc``."""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_REPLY = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_ANY = 0xFFFFFFFF


def find_peer(pid: int, inode: int) -> int | None:
    """Return the inode number of the socket at the other end.

    None where there is none or it cannot be known: in another network namespace than ours, or without CONFIG_UNIX_DIAG.
    """
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _UDIAG_SHOW_PEER, _ANY, _ANY)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return None
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(1)
            netlink.send(header + request)
            return _parse(netlink.recv(4096))
    except OSError:
        return None


def _parse(reply: bytes) -> int | None:
    if len(reply) < _HEADER.size or _HEADER.unpack_from(reply)[1] != _SOCK_DIAG_BY_FAMILY:  # else an error
        return None
    start = _HEADER.size + _REPLY.size
    while start + _ATTRIBUTE.size <= len(reply):
        size, kind = _ATTRIBUTE.unpack_from(reply, start)
        if kind == _UNIX_DIAG_PEER and size == _ATTRIBUTE.size + 4:
            return int.from_bytes(reply[start + _ATTRIBUTE.size : start + size], "little") or None
        if size < _ATTRIBUTE.size:
            break
        start += size + 3 & ~3
    return None
