"""May these native frames be dropped just now? Not while one of them is changing what all threads share.

What CPython and libc export has names; of what they do not export, the functions are known that those call, and the names
where a build was not stripped. A frame in doubt is not dropped: the thread runs on until that function has returned.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.linux.elf import NotElf
from threadsurgeon.linux.function_names import FunctionNames
from threadsurgeon.linux.mappings import Image
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.unwind import CodeMap, NativeFrame

# In CPython: memory, the GIL and other locks, garbage collection, dictionaries and types that others see half changed.
_PYTHON = {
    "memory allocation": r"Py(Mem|Object)_(Raw)?(Malloc|Calloc|Realloc|Free|New|Del)$|_?PyObject_(GC_\w+|New\w*|Init\w*)$"
    r"|_PyMem_\w+|_Py(Object|Mem)_Free\w*|PyObject_(Clear|Free)\w*|PyType_GenericAlloc|_PyType_AllocNoTrack|_Py_NewReference\w*",
    "the GIL": r"PyEval_(Save|Restore|Acquire|Release)(Thread|Lock)|_PyEval_(Acquire|Release)Lock|PyGILState_\w+"
    r"|_?PyThreadState_(Swap|Attach|Detach|New|Delete|Clear|Suspend)\w*|_Py_HandlePending|_PyEval_SetSwitchInterval",
    "a lock": r"PyThread_(acquire|release|allocate|free)_lock\w*|_?PyMutex_\w+|_PyRecursiveMutex_\w+|_PyParkingLot_\w+"
    r"|_PySemaphore_\w+|PyCriticalSection\w*|_PyCriticalSection\w*|_PyOnceFlag_\w+|_PyRWMutex_\w+|_PyEvent_\w+|PyEvent_\w+",
    "garbage collection": r"_?PyGC_(Collect|CollectNoFail|CollectIfEnabled)|_PyGC_\w+|_Py_RunGC",
    "deallocation": r"_Py_Dealloc|_?PyTrash_\w+|_PyTrash_\w+|PyObject_CallFinalizer\w*|PyObject_ClearWeakRefs"
    r"|_PyObject_ClearManagedDict|_Py_MergeZeroLocalRefcount|_Py_DecRef\w*|Py_DecRef|\w+_dealloc|_Py\w+_ExactDealloc",
    "a list of free objects": r"\w*[Ff]ree_?[Ll]ist\w*",
    "a change of a dictionary": r"_?PyDict_(SetItem|SetDefault|DelItem|Pop|Clear|Copy|New|Insert|Resize)\w*"
    r"|_PyObjectDict_SetItem|_PyDictKeys_\w+|_PyObjectGenericSetAttrWithDict|PyUnicode_Intern\w+|_PyUnicode_Intern\w+",
    "a change of a list": r"PyList_(Append|Insert|SetSlice)|_PyList_AppendTakeRef\w*",
    "a change of a set": r"PySet_(Add|Discard|Pop|Clear)",
    "a change of a type": r"_?PyType_(Modified\w*|Ready|InitCache|Lookup\w*|From\w+|ClearCache|Watch|AssignId)\w*",
    "a generator's frame": r"_?PyGen_(Finalize|New\w*)|_PyGen_yf",
    "the interpreter's own bookkeeping": r"Py_(Finalize\w*|Initialize\w*|AddPendingCall|EndInterpreter|NewInterpreter\w*)"
    r"|PyInterpreterState_\w+|_PyRuntime\w*_\w+|PyOS_(AfterFork|BeforeFork|Readline)\w*|PyImport_(Acquire|Release)Lock"
    r"|_PyImport_\w+Lock|PyErr_Print\w*|_PyErr_WriteUnraisable\w*|PyErr_(SetNone|SetObject|SetString|Restore|Format)\w*",
}
# Such a change waits for one of these only where all is in order: they may run any Python code, and may fail.
_MAY_RUN_ANYTHING = re.compile(
    r"_?PyObject_(Hash\w*|RichCompare\w*|Call\w*|Vectorcall\w*|IsTrue|MakeTpCall|GetAttr\w*|GetIter|Repr|Str)|PyIter_Next"
)
_CHANGES = ("a change of a dictionary", "a change of a set", "a change of a list", "a change of a type")
_ALLOCATORS = (
    *("PyObject_Malloc", "PyObject_Free", "PyObject_Realloc", "PyObject_Calloc", "PyMem_Malloc"),
    *("PyMem_Free", "PyMem_Realloc", "PyMem_Calloc", "PyMem_RawMalloc", "PyMem_RawFree"),
)
# Their nameless helpers: of which exported functions, how deep.
_PYTHON_HELPERS = (
    ("the GIL", ("PyEval_SaveThread", "PyEval_RestoreThread", "PyEval_AcquireThread", "PyEval_ReleaseThread"), 3),
    ("garbage collection", ("PyGC_Collect", "_PyObject_GC_New", "PyObject_GC_Del", "_Py_RunGC"), 2),
    ("a change of a dictionary", ("PyDict_SetItem", "PyDict_DelItem", "PyDict_SetDefault"), 2),
    ("a change of a list", ("PyList_Append", "PyList_Insert"), 1),
    ("a change of a set", ("PySet_Add", "PySet_Discard"), 2),
    ("a change of a type", ("PyType_Modified",), 2),
)  # fmt: skip

# Their type slots, as (a field of the layout, bytes behind it). A type is garbage-collected from the first moment, and while
# it is half made that ends the process (type_traverse); other objects are empty then, which the collector can bear.
_TP_DEALLOC, _TP_NEW = ("tp_itemsize", 8), ("tp_dictoffset", 24)
_PYTHON_SLOTS = (
    ("PyType_Type", _TP_NEW, "a change of a type"),
    *(
        (f"Py{name}_Type", _TP_DEALLOC, "deallocation")
        for name in ("Type", "List", "Dict", "Tuple", "Set", "FrozenSet", "Unicode", "Long", "Float", "Bytes", "ByteArray",
                     "Function", "Method", "CFunction", "Gen", "Coro", "Code", "Frame", "Cell", "Module", "Property", "Slice")
    ),
)  # fmt: skip

# What changes a container runs for long where it is given an endless iterator. It is halfway through while it runs itself, not
# while it waits for code of the iterator or of the elements, which may look at the container. LTO merges what such methods
# consist of into few functions without names (a set and a deque cut on 3.14.10 were damaged): tables of methods lead there.
_CHANGING_METHODS = re.compile(
    rb"(add|append|appendleft|clear|discard|extend|extendleft|fromkeys|insert|pop|popitem|popleft|remove|reverse|rotate|setdefault"
    rb"|(\w+_)?update|__init__)\0"
)
_METHOD_DEPTH = 3  # what the argument clinic made, the method itself, what it does to one element
_LONGEST_NAME = 40
_RUNTIME_HEAD = 4096  # the allocators are in its first kilobyte
_WRITABLE = 2

# Anywhere: what holds a lock, or is halfway through shared data, whichever library has it.
_ANYWHERE = {
    "malloc": r"(__libc_)?(malloc|calloc|realloc|free|cfree|memalign|aligned_alloc|posix_memalign|p?valloc|reallocarray)$"
    r"|malloc_\w+|(je|tc|mi)_?(malloc|calloc|realloc|free)\w*|_Zn[wa]m\w*|_Zd[la]Pv\w*",
    "the dynamic loader": r"_?dl(open|close|sym|vsym|iterate_phdr|addr)\w*$|_dl_\w+|__tls_get_addr|__libc_dl\w+",
    "a lock": r"pthread_(mutex|cond|rwlock|spin|barrier|once|join|create|detach|key|exit|cancel|setcancel)\w*"
    r"|__pthread_(mutex|cond|rwlock|once)\w*|sem_\w+|mtx_\w+|cnd_\w+|call_once|thrd_\w+|__cxa_guard\w*|__lll_\w+",
    "fork": r"_*(v?fork|clone3?|posix_spawn\w*|exec\w+|system|popen|pclose|daemon|exit|abort|atexit|cxa_\w*atexit)$",
    "an exception of C++": r"_Unwind_\w+|__cxa_(throw|rethrow|begin_catch|end_catch|allocate_exception)|__gxx_personality\w*",
}

# In libc all is refused but this: what only computes, and the thinnest wrappers of system calls.
_LIBC_PLAIN = re.compile(
    r"_*(mem|wmem|str|wcs|bcmp|bcopy|bzero|rawmem)(?!dup|tok|error|signal|coll|xfrm|ftime|ptime|fmon)\w*$"
    r"|_*(qsort(_r)?|bsearch|lfind|lsearch|abs|labs|div|ldiv|ffs\w*|toupper|tolower|is[a-z]+|random_r|rand_r|drand48_r)$"
    r"|_*(pause|nanosleep|clock_nanosleep|usleep|sleep|sched_yield|poll|ppoll|select|pselect|epoll_p?wait2?|read|pread(64|v)?"
    r"|readv|write|pwrite(64|v)?|writev|recv|recvfrom|recvm?msg|send|sendto|sendm?msg|accept4?|connect|wait(pid|id|[34])?"
    r"|flock|lockf(64)?|fcntl(64)?|ioctl|fsync|fdatasync|open(at)?(64)?|close|sigsuspend|sigtimedwait|sigwait(info)?"
    r"|msgrcv|msgsnd|semop|semtimedop|getrandom|clock_gettime|gettimeofday|time|times|getpid|gettid|getppid|syscall"
    r"|lseek(64)?|stat|fstat|getrusage|sched_getaffinity|splice|tee|sendfile(64)?|copy_file_range)$"
)
# System calls that only wait or move data, by their numbers on x86-64. Not futex: that is a lock, or a condition.
_PLAIN_CALLS = frozenset(
    (0, 1, 7, 17, 18, 19, 20, 22, 23, 24, 34, 35, 40, 42, 43, 44, 45, 46, 47, 61, 65, 68, 69, 70, 72, 73, 74, 75, 128, 130)
) | frozenset((220, 230, 232, 247, 270, 271, 275, 276, 281, 288, 295, 296, 299, 307, 318, 326, 441))

_LIBC = re.compile(r"(libc|libpthread|ld-linux[\w-]*|ld-musl[\w-]*|libc\.musl[\w-]*|ld|librt|libdl)[-.]")

_COPY = "memory allocation, or its caller"


@dataclass(frozen=True, slots=True)
class Danger:
    """A frame that may not be dropped, by its position among those to be dropped, innermost first; and what it is in.

    ``entries``: where the thread must come by on its way into it, if that is known. There are no loops in it: a thread that
    comes back to where it is without coming by there is in another part of that function, and not in danger.
    """

    index: int
    what: str
    entries: tuple[int, ...] = ()


class SafetyRules:
    """The rules for one process. Made before the thread is stopped."""

    def __init__(self, runtime: Runtime, memory: Memory, code_map: CodeMap, names: FunctionNames) -> None:
        interpreter = runtime.image
        self._names = names
        self._interpreter = interpreter
        self._python = {what: re.compile(pattern) for what, pattern in _PYTHON.items()}
        self._anywhere = {what: re.compile(f"(?:{pattern})") for what, pattern in _ANYWHERE.items()}
        self._helpers: dict[int, str] = {}
        for what, functions, depth in _PYTHON_HELPERS:
            for start in names.helpers(interpreter, functions, depth):
                self._helpers.setdefault(start, what)
        allocators = names.helpers(interpreter, _ALLOCATORS, 1) | _find_runtime_functions(runtime, memory, code_map)
        inner = names.called_from(interpreter, (start - interpreter.bias for start in allocators), 2)
        self._helpers.update(dict.fromkeys(allocators | inner, "memory allocation"))
        slots = runtime.layout.type_object
        for name, slot, what in _PYTHON_SLOTS:
            address = interpreter.symbol(name)
            try:
                if address is not None:
                    offset = getattr(slots, slot[0]) + slot[1]
                    self._helpers[int.from_bytes(memory.read(address + offset, 8), "little")] = what
            except BadAddress:
                continue
        self._changers: set[int] = set()
        for image in code_map.images:
            if image.file.start == interpreter.file.start or _is_extension_module(image, names):
                methods = set(_find_changing_methods(image, memory, code_map))
                self._changers |= {method + image.bias for method in methods}
                self._changers |= names.called_from(image, methods, _METHOD_DEPTH)
        # Builds made with a profile have copies of the allocators in their callers, such as _PyLong_New of Debian's 3.13: cuts
        # between two stores to pymalloc's lists of pools ended the process.
        self._copies = names.mentioning(interpreter, allocators)
        for image in code_map.images:
            if is_libc(image):
                exported = [name for name in names.of_image(image).values() if self._anywhere["malloc"].match(name)]
                for start in names.helpers(image, exported, 3):
                    self._helpers.setdefault(start, "malloc")

    def find_danger(self, frames: Sequence[NativeFrame], system_call: int | None) -> Danger | None:
        """Return the outermost of the frames, given innermost first, that may not be dropped now; None if all may.

        ``system_call``: the number of the one that the innermost frame is in.
        """
        for index in reversed(range(len(frames))):
            what = self._what(frames, index, system_call)
            if what is not None:
                entries = self._copies.get(frames[index].code.start, ()) if what == _COPY and index == 0 else ()
                return Danger(index, what, entries)
        return None

    def _what(self, frames: Sequence[NativeFrame], index: int, system_call: int | None) -> str | None:
        frame = frames[index]
        if frame.code.fde.signal_frame:
            return "a signal handler"
        helper = self._helpers.get(frame.code.start)
        if helper is not None:
            return None if helper in _CHANGES and self._waits_for_anything(frames, index) else helper
        if all(is_libc(other.code.image) for other in frames[:index]):  # it runs itself
            if frame.code.start in self._changers:
                return "a change of a container"
            if frame.code.start in self._copies:
                return _COPY
        name = self._names.find_exported(frame.code)
        if name is not None:
            for what, pattern in self._anywhere.items():
                if pattern.match(name):
                    return f"{what} ({name})"
        if frame.code.image.file.start == self._interpreter.file.start:
            name = self._names.find(frame.code)
            if name is not None:
                for what, pattern in self._python.items():
                    if pattern.fullmatch(name):
                        harmless = what in _CHANGES and self._waits_for_anything(frames, index)
                        return None if harmless else f"{what} ({name})"
            return None
        if is_libc(frame.code.image):
            return self._what_in_libc(frames, index, name, system_call)
        return None

    def _waits_for_anything(self, frames: Sequence[NativeFrame], index: int) -> bool:
        """Say whether the frame has called what may run any Python code, be it through others."""
        names = (self._names.find(inner.code) for inner in frames[:index])
        return any(name is not None and _MAY_RUN_ANYTHING.fullmatch(name) is not None for name in names)

    def _what_in_libc(
        self, frames: Sequence[NativeFrame], index: int, name: str | None, system_call: int | None
    ) -> str | None:
        if name is not None:
            return None if _LIBC_PLAIN.match(name) else f"libc ({name})"
        if system_call is not None:
            # The waits of libc 2.41 and later stand in local functions, whose callers have the names.
            return None if system_call in _PLAIN_CALLS else f"libc, in system call {system_call}"
        innermost = index == 0
        entered_here = index + 1 == len(frames) or not is_libc(frames[index + 1].code.image)
        if innermost or not entered_here:
            return None  # memcpy and its like, chosen by the processor's abilities, are local; and helpers of what has a name
        return "libc"


def _find_runtime_functions(runtime: Runtime, memory: Memory, code_map: CodeMap) -> set[int]:
    """Return the functions that ``_PyRuntime`` points to: the allocators, from 3.12 on.

    PyObject_Malloc jumps there, and is not on the stack then; in a shared library its code does not tell where to.
    """
    if runtime.layout.version < (3, 12):
        return set()
    starts = set(code_map.table(runtime.image).starts)
    try:
        words = array("Q", memory.read(runtime.address, _RUNTIME_HEAD))
    except BadAddress:
        return set()
    return {word for word in words if word - runtime.image.bias in starts}


def _is_extension_module(image: Image, names: FunctionNames) -> bool:
    return any(name.startswith("PyInit_") for name in names.of_image(image).values())


def _find_changing_methods(image: Image, memory: Memory, code_map: CodeMap) -> Iterator[int]:
    """Yield where in the file the methods begin that change containers. A PyMethodDef begins with its name and function."""
    starts = set(code_map.table(image).starts)
    for load in image.elf.loads:
        if not load.flags & _WRITABLE:
            continue
        first = (load.address + image.bias + 7) // 8 * 8
        try:  # from memory, not from the file: there the addresses are relocated
            words = array("Q", memory.read(first, (load.file_size - 8) // 8 * 8))
        except BadAddress:
            continue
        for name, function in pairwise(words):
            if function - image.bias in starts:
                try:
                    text = image.elf.content(name - image.bias, _LONGEST_NAME)
                except NotElf:
                    continue
                if _CHANGING_METHODS.match(text):
                    yield function - image.bias


def is_libc(image: Image) -> bool:
    """Say whether it is the C library, a part of it as in older ones, or the dynamic loader."""
    return _LIBC.match(os.path.basename(image.file.path)) is not None
