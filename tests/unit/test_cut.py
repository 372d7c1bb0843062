"""What a cut decides before it is made: what a call is to return, the chain of returns, and whether the moment is safe."""

import struct

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.cpython.eval_loop import TABLE_LENGTH, _find_runs, _find_tables
from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.surgery.error_contract import MINUS_ONE, NULL, find_contract
from threadsurgeon.surgery.return_chain import Chain, Pieces, find_pieces
from threadsurgeon.surgery.safe_moment import _ANYWHERE, _LIBC_PLAIN, _PYTHON

CHECK_RESULT = 0x9000


def contract(*texts, function=None, more=None):
    """The contract that instructions tell, at 0x1000 and so on; ``more``: those at other addresses."""
    blocks = {0x1000: texts, **(more or {})}

    def disassemble(address):
        return [(address + 4 * index, text) for index, text in enumerate(blocks.get(address, ()))]

    return find_contract(disassemble, 0x1000, function, {CHECK_RESULT: "_Py_CheckFunctionResult"}.get)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["test   %rax,%rax", "je     0x2000"], NULL),
        (["mov    %rax,%r12", "mov    0x8(%rsp),%rdi", "call   0x3000", "test   %r12,%r12", "jne    0x2000"], NULL),
        (["mov    %rax,-0x98(%rbp)", "cmpq   $0x0,-0x98(%rbp)", "je     0x2000"], NULL),
        (["mov    %rax,-0x278(%rbp)", "call   0x3000", "cmpq   $0x0,-0x278(%rbp)", "setne  %r14b"], NULL),
        (["test   %eax,%eax", "js     0x2000"], MINUS_ONE),
        (["mov    %eax,%ebx", "test   %ebx,%ebx", "jle    0x2000"], MINUS_ONE),
        (["mov    %eax,-0x14(%rbp)", "cmpl   $0x0,-0x14(%rbp)", "jns    0x2000"], MINUS_ONE),
        (["cmp    $0xffffffff,%eax", "je     0x2000"], MINUS_ONE),
        (["cmp    $0xffffffffffffffff,%rax", "je     0x2000"], MINUS_ONE),
        # unpack_iterable() returns 0 on error, others -1: a test for zero tells nothing.
        (["test   %eax,%eax", "je     0x2000"], None),
        (["test   %eax,%eax", "jne    0x2000"], None),
        # Another value is tested, or the result is lost before.
        (["test   %rbx,%rbx", "je     0x2000", "ret"], None),
        (["call   0x3000", "test   %rax,%rax", "je     0x2000"], None),
        (["xor    %eax,%eax", "test   %rax,%rax", "je     0x2000"], None),
        (["mov    %rax,%rdx", f"call   {CHECK_RESULT:#x}", "mov    %rax,%r13"], NULL),
        (["mov    %rax,%rdx", "call   0x3000", "ret"], None),
        ([], None),
    ],
)
def test_contract(texts, expected):
    """The result is followed to where it is tested, and the test tells what means an error."""
    assert contract(*texts) == expected


def test_contract_behind_a_loop():
    """A loop that gives arguments back stands between the call and the test of its result."""
    more = {
        0x2000: ["sub    $0x1,%r13d", "js     0x3000", "call   0x5000", "jmp    0x2000"],
        0x3000: ["cmpq   $0x0,-0x278(%rbp)", "je     0x4000"],
    }

    assert contract("mov    %rax,-0x278(%rbp)", "jmp    0x2000", more=more) == NULL


def test_contract_of_endless_code_is_not_known():
    """Each block leads to two more."""
    more = {where: [f"je     {where * 2:#x}", f"jmp    {where * 2 + 64:#x}"] for where in range(0x2000, 0x40000, 64)}

    assert contract("jmp    0x2000", more=more) is None


@pytest.mark.parametrize(
    ("function", "expected"),
    [("PyObject_Vectorcall", NULL), ("PyNumber_Add", NULL), ("PyObject_SetItem", -1), ("PySequence_Contains", MINUS_ONE)],
)
def test_contract_by_name(function, expected):
    """Exported functions have documented contracts, however their result is tested."""
    assert contract("test   %eax,%eax", "jne    0x2000", function=function) == expected


PIECES = Pieces(pop_saved=0x100, pop_rdi=0x109, return_=0x10A, pop_rsp=0x200, pop_rax=0x300)


def run_chain(chain, result, stack_pointer, return_address):
    """Do what a processor does with the chain: return (calls, rax, saved registers, program counter, rsp)."""
    address, content = chain.build(result, stack_pointer)
    assert address + len(content) <= stack_pointer - 128
    words = dict(zip(range(address, address + len(content), 8), struct.unpack(f"<{len(content) // 8}Q", content), strict=True))
    words[chain.return_slot] = return_address
    rsp, pc, rdi, rax, saved, calls = address, PIECES.pop_saved, None, None, [], []

    def pop():
        nonlocal rsp
        rsp += 8
        return words[rsp - 8]

    for _ in range(100):
        if pc == return_address:
            return calls, rax, saved, rsp
        if pc == PIECES.pop_saved:
            saved = [pop() for _ in range(6)]
        elif pc == PIECES.pop_rdi:
            rdi = pop()
        elif pc == PIECES.pop_rax:
            rax = pop()
        elif pc == PIECES.pop_rsp:
            rsp = pop()
        elif pc != PIECES.return_:
            assert rsp % 16 == 8  # psABI 3.2.2: as after a call
            calls.append((pc, rdi))
        pc = pop()
    raise AssertionError("the chain does not end")


@pytest.mark.parametrize("stack_pointer", [0x7000, 0x7008, 0x7004, 0x70F8])
@pytest.mark.parametrize("result", [0, -1])
@pytest.mark.parametrize("functions", [[(0x5000, 1)], [(0x6000, 7), (0x5000, 1)], []])
def test_chain_runs_the_functions_and_returns(stack_pointer, result, functions):
    """Each with an aligned stack; then all is as if the cut frames had returned."""
    chain = Chain(PIECES, [1, 2, 3, 4, 5, 6], 0x8000)
    for function, argument in functions:
        chain.call(function, argument)
    calls, rax, saved, rsp = run_chain(chain, result, stack_pointer, 0x4444)

    assert calls == functions
    assert rax == result & (1 << 64) - 1
    assert saved == [1, 2, 3, 4, 5, 6]
    assert rsp == 0x8008


def test_pieces_are_found_also_across_chunks():
    """In any of the ranges, and in the parts of longer sequences."""
    code = bytearray(1 << 21)
    code[(1 << 20) - 5 : (1 << 20) + 6] = b"\x5b\x5d\x41\x5c\x41\x5d\x41\x5e\x41\x5f\xc3"
    code[100:103] = b"\x41\x5c\xc3"
    pieces = find_pieces(FakeMemory({0x1000: bytes(code), 0x900000: b"\x58\xc3"}), [(0x1000, 1 << 21), (0x900000, 2)])

    end = 0x1000 + (1 << 20) + 6
    assert pieces == Pieces(
        pop_saved=end - 11, pop_rdi=end - 2, return_=end - 1, pop_rsp=0x1000 + 101, pop_rax=0x900000
    )


def test_missing_piece_is_named():
    """Nothing is done then."""
    with pytest.raises(UnsupportedPython, match="pop_saved"):
        find_pieces(FakeMemory({0x1000: b"\x58\xc3\x5c\xc3"}), [(0x1000, 4), (0x5000, 4)])


def rule_for(name):
    """Under which rules a name falls: in CPython, anywhere, and whether libc's is plain."""
    import re

    return (
        [what for what, pattern in _PYTHON.items() if re.fullmatch(pattern, name)],
        [what for what, pattern in _ANYWHERE.items() if re.match(f"(?:{pattern})", name)],
        bool(_LIBC_PLAIN.match(name)),
    )


@pytest.mark.parametrize(
    "name",
    ["malloc", "free", "realloc", "__libc_malloc", "dlopen", "pthread_mutex_lock", "pthread_cond_timedwait", "sem_wait",
     "fork", "_Znwm", "_ZdlPv", "_Unwind_RaiseException", "__tls_get_addr", "posix_memalign", "je_malloc"],
)  # fmt: skip
def test_dangerous_anywhere(name):
    """Memory, the loader, locks, fork, exceptions."""
    assert rule_for(name)[1]


@pytest.mark.parametrize(
    "name",
    ["PyObject_Malloc", "PyMem_RawFree", "PyEval_RestoreThread", "PyGILState_Ensure", "PyThread_acquire_lock_timed",
     "PyGC_Collect", "_Py_Dealloc", "PyDict_SetItem", "PyList_Append", "PyType_Modified", "_PyObject_GC_New"],
)  # fmt: skip
def test_dangerous_in_cpython(name):
    """Memory, the GIL, locks, collection, and what is half changed."""
    assert rule_for(name)[0]


@pytest.mark.parametrize(
    "name",
    ["PyObject_Vectorcall", "PyIter_Next", "PyObject_RichCompareBool", "PySequence_Contains", "PyNumber_Add", "PyDict_Update",
     "PyDict_MergeFromSeq2", "_PyObject_MakeTpCall", "PyObject_IsTrue", "PyLong_FromSsize_t", "ffi_call", "deflate"],
)  # fmt: skip
def test_harmless_names(name):
    """What an endless C loop is made of."""
    assert rule_for(name)[:2] == ([], [])


@pytest.mark.parametrize(("name", "plain"), [
    ("pause", True), ("__nanosleep", True), ("clock_nanosleep", True), ("poll", True), ("read", True), ("memcpy", True),
    ("__memcpy_chk", True), ("strlen", True), ("qsort", True), ("lfind", True),
    ("strdup", False), ("strtok", False), ("printf", False), ("fread", False), ("getaddrinfo", False), ("exit", False),
    ("opendir", False), ("syslog", False), ("strerror", False), ("strsignal", False),
])  # fmt: skip
def test_plain_functions_of_libc(name, plain):
    """What only computes or only waits may be cut; what allocates, locks or buffers may not."""
    assert rule_for(name)[2] is plain


def test_dispatch_table_is_found_among_other_pointers():
    """Two hundred and fifty-six in a row that lead to few places."""
    indices = [*range(300), *[7] * 200, *[8] * 56, *range(300, 500)]

    assert 300 in list(_find_tables(indices))
    assert list(_find_tables(list(range(2000)))) == []
    assert list(_find_tables([7] * 255)) == []


def test_runs_of_code_pointers():
    """At the beginning, in the middle and at the end; none that is too short."""
    from array import array

    words = array("Q", [5000] * 300 + [0] * 100 + [5000] * 255 + [0] * 10 + [5000] * TABLE_LENGTH)

    assert list(_find_runs(words, 4096, 8192)) == [(0, 300), (665, 921)]
