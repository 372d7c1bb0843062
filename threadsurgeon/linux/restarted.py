"""Which system call a thread waits in again, after a signal or a tracer had stopped it there."""

from __future__ import annotations

from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.process import SystemCall, read_kernel_function

# restart_syscall(2): what the kernel shows, from then on, of calls with a timeout. It keeps what is left of that to itself.
RESTART = 219  # x86-64
# Of the few calls that it may stand for, where they wait in the kernel: poll (fs/select.c), futex (kernel/futex/), and
# clock_nanosleep (kernel/time/hrtimer.c), which some kernels do not name there.
_WAITS = {"poll": 7, "futex": 202, "nanosleep": 230}


def find_restarted(pid: int, tid: int, memory: Memory, call: SystemCall) -> SystemCall:
    """Return the call as it was made, with the arguments it still has; as it is where it was not restarted, or cannot be told.

    The code still says it, in glibc before 2.41: ``mov $number,%eax; syscall`` before the address. Else the kernel may.
    """
    if call.number != RESTART:
        return call
    try:
        code = memory.read(call.program_counter - 7, 7)
    except BadAddress:
        code = b""
    if code[:1] == b"\xb8" and code[5:] == b"\x0f\x05":
        return call._replace(number=int.from_bytes(code[1:5], "little"))
    function = read_kernel_function(pid, tid) or ""
    number = next((number for name, number in _WAITS.items() if name in function), RESTART)
    return call._replace(number=number)
