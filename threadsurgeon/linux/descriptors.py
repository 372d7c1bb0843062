"""What the open descriptors of a process are, in words.

Only the links and notes in ``/proc`` are read. What they lead to is never opened, nor asked for its status: a file system
that hangs its user would hang us, too.
"""

from __future__ import annotations

import os
import re
import stat

from threadsurgeon.linux.holders import Holders
from threadsurgeon.linux.process import describe_process, read_link
from threadsurgeon.linux.sockets import UNNAMED, read_sockets
from threadsurgeon.linux.unix_peers import find_peer

MAX_WATCHED = 10_000
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)  # proc_pid_fdinfo(5)
_INODE = re.compile(r"^ino:\s*(\d+)", re.MULTILINE)  # Linux 5.14
_PROCESS = re.compile(r"^Pid:\s*(\d+)", re.MULTILINE)


class Descriptors:
    """The open descriptors of one process during one look, each read when first asked for, and once."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._holders = Holders(pid)
        self._sockets: dict[str, str] | None = None
        self._known: dict[int, str] = {}

    def describe(self, number: int) -> str:
        """Return what the descriptor is: a file's path, a socket's address and state, a pipe and who has its other end."""
        if number not in self._known:
            self._known[number] = self._describe(number)
        return self._known[number]

    def list_watched(self, number: int) -> list[int]:
        """Return the descriptors that an epoll descriptor watches."""
        return [int(found) for found in _WATCHED.findall(self._read_notes(number))[:MAX_WATCHED]]

    def find_inode(self, number: int) -> int | None:
        """Return the number of the inode that the descriptor leads to, None where the kernel does not tell."""
        found = _INODE.search(self._read_notes(number))
        return int(found[1]) if found else None

    def _describe(self, number: int) -> str:
        path = f"/proc/{self._pid}/fd/{number}"
        try:
            link = read_link(path)
        except OSError:
            return f"descriptor {number}"
        if link.startswith("socket:"):
            return self._describe_socket(link, number)
        if link.startswith("pipe:"):
            return self._describe_pipe(link, path, number)
        if link.startswith("anon_inode:"):
            return self._describe_special(link.partition(":")[2].strip("[]"), number)
        if link.startswith(("/dev/pts/", "/dev/tty")):
            return f"terminal {link}"
        return link

    def _describe_socket(self, link: str, number: int) -> str:
        if self._sockets is None:
            self._sockets = read_sockets(self._pid, self._list_socket_inodes())
        inode = link[len("socket:[") : -1]
        words = self._sockets.get(inode, "socket")
        if words == UNNAMED:
            return self._describe_unnamed(int(inode), number)
        return f"{words} (descriptor {number})" if words == "socket" else words

    def _describe_unnamed(self, inode: int, number: int) -> str:
        """Return what a unix socket without a name is connected to: the client's end of a connection has none."""
        peer = find_peer(self._pid, inode)
        if peer is None:
            return f"{UNNAMED} (descriptor {number})"
        named = read_sockets(self._pid, {str(peer)}).get(str(peer), UNNAMED)
        if named != UNNAMED:
            return named
        holder = self._holders.describe_holder(f"socket:[{peer}]", writing=True)
        return f"{UNNAMED} (descriptor {number}){f', connected to {holder}' if holder else ''}"

    def _list_socket_inodes(self) -> set[str]:
        folder = f"/proc/{self._pid}/fd"
        inodes: set[str] = set()
        try:
            names = os.listdir(folder)
        except OSError:
            return inodes
        for name in names:
            try:
                match = _SOCKET.match(os.readlink(f"{folder}/{name}"))
            except OSError:
                continue
            if match:
                inodes.add(match[1])
        return inodes

    def _describe_pipe(self, link: str, path: str, number: int) -> str:
        try:
            writing = not os.lstat(path).st_mode & stat.S_IRUSR
        except OSError:
            return f"pipe (descriptor {number})"
        other = self._holders.describe_holder(link, writing=not writing)
        if other is None:
            return f"pipe (descriptor {number})"
        return f"pipe (descriptor {number}), {'read' if writing else 'written'} by {other}"

    def _describe_special(self, kind: str, number: int) -> str:
        if kind == "pidfd":
            found = _PROCESS.search(self._read_notes(number))
            named = describe_process(int(found[1])) if found else None
            if named:
                return named
        return f"{kind} (descriptor {number})"

    def _read_notes(self, number: int) -> str:
        try:
            with open(f"/proc/{self._pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
                return file.read()
        except OSError:
            return ""
