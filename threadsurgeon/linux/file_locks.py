"""Who holds the file lock that a process waits for, from ``/proc/locks`` (proc_locks(5))."""

from __future__ import annotations

LOCKS = "/proc/locks"

def find_lock_holder(pid: int, inode: int | None) -> int | None:
    """Return the process that holds the lock on a file that process ``pid`` waits for; None where it cannot be told.

    ``inode`` is the file's; where it is None (before Linux 5.14), any file for which the process waits.
    """
    try:
        with open(LOCKS, encoding="ascii") as file:
            lines = [line.split() for line in file if not line.isspace()]
    except OSError:
        return None
    # "7: FLOCK  ADVISORY  WRITE 812 fd:01:1234 0 EOF", and for each that waits for it "7: -> FLOCK ADVISORY WRITE 815 …".
    holders = {fields[0]: fields for fields in lines if len(fields) == 8}
    for number, *fields in lines:
        if len(fields) == 8 and fields[0] == "->" and fields[4] == str(pid):
            holder = holders.get(number)
            if holder is not None and inode in (None, int(fields[5].rpartition(":")[2])):
                # -1: a lock that belongs to an open file, not to a process
                return int(holder[4]) if int(holder[4]) > 0 else None
    return None
