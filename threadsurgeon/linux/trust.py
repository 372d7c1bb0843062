"""Whether a program is what root may run: nobody but root can replace it, nor a folder on its way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from threadsurgeon.linux.privileges import is_in_user_namespace

OVERFLOW_USER = 65534  # /proc/sys/kernel/overflowuid, which nobody changes


def find_who_may_replace(path: str) -> str | None:
    """Say who, other than root, could put another file in place of this one, in words; None where nobody could.

    Groups are left to whoever made them: who is in the group of a system's folder is as good as root.
    """
    inside = is_in_user_namespace()  # where the owners that it does not know, such as the real root, are shown as nobody
    for place in _places(path):
        try:
            status = os.lstat(place)
        except OSError:
            continue
        if status.st_uid != 0 and not (inside and status.st_uid == OVERFLOW_USER):
            return f"{place} belongs to user {status.st_uid}"
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # as /tmp: each its own files
        if status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode) and not sticky:
            return f"{place} is writable for everyone"
    return None


def _places(path: str) -> Iterator[str]:
    """Yield the file, what it leads to where it is a link, and every folder on the way there."""
    for start in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        place = start
        while place != "/":
            yield place
            place = os.path.dirname(place)
