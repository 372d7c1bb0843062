"""What the sockets of a process are connected to, from ``/proc/PID/net``: the target's own network namespace.

(psutil reads these tables too, but always those of our own namespace, where a container's sockets are not.)
"""

from __future__ import annotations

import socket
import struct

# include/net/tcp_states.h, in netstat's words.
TCP_STATES = {
    0x01: "ESTABLISHED",
    0x02: "SYN_SENT",
    0x03: "SYN_RECV",
    0x04: "FIN_WAIT1",
    0x05: "FIN_WAIT2",
    0x06: "TIME_WAIT",
    0x07: "CLOSE",
    0x08: "CLOSE_WAIT",
    0x09: "LAST_ACK",
    0x0A: "LISTEN",
    0x0B: "CLOSING",
    0x0C: "SYN_RECV",
}
UNNAMED = "unix socket"
# A table of a busy server has a line for every connection of the machine; more than this is not read.
MAX_TABLE = 16 * 1024 * 1024


def read_sockets(pid: int, inodes: set[str]) -> dict[str, str]:
    """Return in words what the sockets with these inode numbers are: the address of the far end, if there is one.

    One that is in no table (closed, of another kind such as netlink, or in another network namespace) is left out.
    """
    found: dict[str, str] = {}
    for table, column in (("tcp", 9), ("tcp6", 9), ("unix", 6), ("udp", 9), ("udp6", 9)):
        if len(found) == len(inodes):
            break
        for line in _read_lines(f"/proc/{pid}/net/{table}"):
            fields = line.split(None, 10)
            if len(fields) > column and fields[column] in inodes:
                found[fields[column]] = _describe_unix(line) if table == "unix" else _describe_inet(fields, table)
    return found


def describe_address(content: bytes) -> str | None:
    """Return a ``struct sockaddr`` in words, as connect(2) is given; None for a family that we do not know."""
    family = int.from_bytes(content[:2], "little")
    port = int.from_bytes(content[2:4], "big")
    if family == socket.AF_INET and len(content) >= 8:
        return _join(socket.inet_ntop(socket.AF_INET, content[4:8]), port)
    if family == socket.AF_INET6 and len(content) >= 24:
        return _join(socket.inet_ntop(socket.AF_INET6, content[8:24]), port)
    if family == socket.AF_UNIX:
        path = content[2:]
        # a name that begins with a zero byte is in no file system, and may hold more of them: unix(7)
        name = path.replace(b"\0", b"@") if path[:1] == b"\0" else path.partition(b"\0")[0]
        return f"{UNNAMED} {name.decode(errors='replace')}"
    return None


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TABLE).decode(errors="replace").split("\n")[1:-1]
    except OSError:
        return []


def _describe_inet(fields: list[str], table: str) -> str:
    """Return the address of the far end, or of the near one where there is none, and the state."""
    connected = not fields[2].endswith(":0000")
    address = _parse_address(fields[2] if connected else fields[1])
    if table.startswith("udp"):
        return f"UDP {address}"
    return f"{address} ({TCP_STATES.get(int(fields[3], 16), fields[3])})"


def _parse_address(text: str) -> str:
    """Return an address of ``/proc/net/tcp``: words of four bytes, each in the order of the machine, and a port."""
    digits, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(digits[start : start + 8], 16)) for start in range(0, len(digits), 8))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return _join(socket.inet_ntop(family, packed), int(port, 16))


def _join(host: str, port: int) -> str:
    if host.startswith("::ffff:") and "." in host:  # IPv4 in a socket for both
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _describe_unix(line: str) -> str:
    *_, path = [*line.split(None, 7), ""][:8]  # which may hold blanks, and need not be there
    return f"{UNNAMED} {path}" if path else UNNAMED
