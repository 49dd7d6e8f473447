"""The native pool: every index once, worker numbers in range, callers that never wait for each other, forks that survive."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from octavo.backends.runtime import native, threads
from octavo.backends.runtime.native import jit_pool
from octavo.ir.errors import OctavoError, TargetError

BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32)
LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, BODY, ctypes.c_void_p, ctypes.c_int64)


class Pool:
    """A share of the process's pool, as machine code sees it."""

    def __init__(self, count: int):
        share = threads.share(count, jit_pool)
        assert share is not None
        self.share = share
        loop, self.pool = ctypes.cast(share.address, ctypes.POINTER(ctypes.c_void_p * 2)).contents
        self.loop = LOOP(loop)

    def parallel_for(self, body, n: int) -> None:
        self.loop(self.pool, BODY(body), None, n)

    def chunks(self, n: int) -> list[tuple[int, int, int]]:
        """What the bodies of one loop were called with: (begin, end, worker)."""
        ran: list[tuple[int, int, int]] = []
        self.parallel_for(lambda _, begin, end, worker: ran.append((begin, end, worker)), n)
        return ran


def indices(chunks: list[tuple[int, int, int]]) -> list[int]:
    return sorted(i for begin, end, _ in chunks for i in range(begin, end))


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 64, 1000])
def test_every_index_runs_once_on_a_worker_in_range(workers: int, n: int):
    pool = Pool(workers)
    for _ in range(20):
        ran = pool.chunks(n)
        assert indices(ran) == list(range(n))
        assert all(0 <= worker < workers for *_, worker in ran)


def test_workers_take_part():
    pool, seen = Pool(2), set()
    meet = threading.Barrier(2, timeout=30)

    def body(_, begin, end, worker):
        if begin < 2:
            seen.add(worker)
            meet.wait()

    pool.parallel_for(body, 2)  # two chunks of one, which only two threads at the same time can leave
    assert seen == {0, 1}


def test_a_worker_begins_with_the_same_part_of_every_loop():
    pool, firsts = Pool(2), set()
    for _ in range(20):
        meet, first = threading.Barrier(2, timeout=30), {}

        def body(_, begin, end, worker, meet=meet, first=first):
            if worker not in first:
                first[worker] = begin
                meet.wait()

        pool.parallel_for(body, 64)
        firsts.add((first[0], first[1]))
    assert firsts == {(0, 32)}


def test_whoever_is_done_takes_over_from_a_slow_worker():
    pool, ran = Pool(2), {0: 0, 1: 0}
    meet, done = threading.Barrier(2, timeout=30), threading.Event()

    def body(_, begin, end, worker):
        if not ran[worker]:
            meet.wait()
            if worker == 1:
                done.wait(30)  # stuck in its first chunk until the other has run all the rest
        ran[worker] += end - begin
        if ran[0] == 60:
            done.set()

    pool.parallel_for(body, 64)
    assert ran == {0: 60, 1: 4}


def test_a_small_share_uses_no_more_threads_of_a_large_pool():
    Pool(8).parallel_for(lambda *_: None, 1000)
    workers = set()
    small = Pool(2)
    for _ in range(200):
        small.parallel_for(lambda _, begin, end, worker: workers.add(worker), 64)
    assert workers <= {0, 1}


def test_a_loop_inside_a_loop_runs_on_the_calling_thread():
    pool, inner = Pool(2), []

    def body(_, begin, end, worker):
        me = threading.get_ident()
        for _ in range(begin, end):
            pool.parallel_for(lambda _, b, e, w: inner.append((e - b, w, threading.get_ident() == me)), 10)

    pool.parallel_for(body, 8)
    assert inner == [(10, 0, True)] * 8


def test_callers_at_the_same_time_all_finish():
    pool, wrong = Pool(2), []

    def caller():
        for n in range(1, 60):
            if indices(pool.chunks(n)) != list(range(n)):
                wrong.append(n)

    callers = [threading.Thread(target=caller) for _ in range(6)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


_MODE = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()
@arrived = internal global i32 0
define void @mode_body(ptr %out, i64 %begin, i64 %end, i32 %worker) {
entry:
  %at = getelementptr i32, ptr %out, i64 %begin
  call void @llvm.x86.sse.stmxcsr(ptr %at)
  %bit = shl i32 1, %worker
  %before = atomicrmw or ptr @arrived, i32 %bit seq_cst
  br label %wait
wait:                                         ; for the other thread, some seconds at most
  %i = phi i64 [ 0, %entry ], [ %next, %wait ]
  %next = add i64 %i, 1
  call void @llvm.x86.sse2.pause()
  %here = load atomic i32, ptr @arrived seq_cst, align 4
  %both = icmp eq i32 %here, 3
  %tired = icmp sgt i64 %next, 100000000
  %stop = or i1 %both, %tired
  br i1 %stop, label %done, label %wait
done:
  ret void
}
define i32 @mode_run(ptr %loop, ptr %pool, ptr %out, i32 %mode) {
  %old = alloca i32
  %new = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old)
  store i32 %mode, ptr %new
  call void @llvm.x86.sse.ldmxcsr(ptr %new)
  store atomic i32 0, ptr @arrived seq_cst, align 4
  call void %loop(ptr %pool, ptr @mode_body, ptr %out, i64 64)
  call void @llvm.x86.sse.ldmxcsr(ptr %old)
  %arrived = load atomic i32, ptr @arrived seq_cst, align 4
  ret i32 %arrived
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the control register of x86-64")
def test_workers_compute_in_the_mode_of_the_caller():
    address, owner = native.link_in_process([_MODE], ["mode_run"])
    assert owner
    run = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3, ctypes.c_int32)(address)
    pool, seen = Pool(2), (ctypes.c_int32 * 64)()
    loop, _ = ctypes.cast(pool.share.address, ctypes.POINTER(ctypes.c_void_p * 2)).contents
    for mode in (0x1F80, 0x9FC0):  # the default; subnormals flushed
        assert run(loop, pool.pool, seen, mode) == 0b11  # both workers took chunks
        assert {m & ~0x3F for m in seen[::4]} == {mode & ~0x3F}  # sixteen chunks of four; the low bits are sticky flags


def test_pools_can_be_made_and_ended():
    code = jit_pool()
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int32)(code.create)
    destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.owner["octavo_pool_destroy"])  # type: ignore[index]
    before = len(os.listdir("/proc/self/task"))
    pool, ran = create(4), []
    LOOP(code.parallel_for)(pool, BODY(lambda _, begin, end, worker: ran.extend(range(begin, end))), None, 100)
    assert sorted(ran) == list(range(100))
    assert len(os.listdir("/proc/self/task")) == before + 3
    destroy(pool)
    deadline = time.monotonic() + 10  # a joined thread stays listed until the kernel has buried it
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(os.listdir("/proc/self/task")) == before


def _run(script: str, **env: str) -> str:
    """Runs Python code in a process of its own, where forking and signals hurt nobody."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **env, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_child_starts_threads_of_its_own():
    output = _run(
        """
        import os, sys, threading
        import numpy as np
        from handmade import affine
        from octavo.backends.runtime import native
        native.thread_count = lambda _: 2
        model = native.load_native(affine())
        x = np.ones((1000, 3), np.float32)
        expected = model.run([x])[0]
        count = lambda: len(os.listdir("/proc/self/task"))
        before = count()
        child = os.fork()
        if child == 0:
            alone = count()
            same = np.array_equal(model.run([x])[0], expected)
            os._exit(0 if same and alone == 1 and count() == before else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(model.run([x])[0], expected))
        """,
        OPENBLAS_NUM_THREADS="1",
    )
    assert output.split() == ["0", "True"]


def test_a_process_with_sleeping_workers_ends():
    assert _run(
        """
        import numpy as np
        from test_runtime_threads import Pool
        Pool(4).parallel_for(lambda *_: None, 100)
        print("done")
        """
    ).split() == ["done"]


def test_workers_leave_all_signals_but_their_own_faults_to_the_main_thread():
    output = _run(
        """
        import os, signal, time
        from pathlib import Path
        from test_runtime_threads import Pool
        before = set(os.listdir("/proc/self/task"))
        Pool(2).parallel_for(lambda *_: None, 100)
        (worker,) = set(os.listdir("/proc/self/task")) - before
        time.sleep(0.5)  # a thread that begins blocks all of them
        blocked = next(l for l in Path(f"/proc/self/task/{worker}/status").read_text().splitlines() if l.startswith("SigBlk"))
        print(*(int(blocked.split()[1], 16) >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGSEGV, signal.SIGILL)))
        """
    )
    assert output.split() == ["1", "0", "0"]


def test_the_count_is_the_least_of_all_limits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(threads, "_quota", lambda: 5)
    monkeypatch.delenv("OCTAVO_THREADS", raising=False)
    assert threads.thread_count() == 5
    assert threads.thread_count(3) == 3
    monkeypatch.setenv("OCTAVO_THREADS", "2")
    assert threads.thread_count(3) == 2


@pytest.mark.parametrize("bad", ["0", "-1", "many", "1.5"])
def test_a_thread_count_that_is_none_is_refused(bad: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_THREADS", bad)
    with pytest.raises(OctavoError, match="OCTAVO_THREADS"):
        threads.thread_count()
    monkeypatch.delenv("OCTAVO_THREADS")
    with pytest.raises(TargetError, match="is not a number of threads; give an integer of 1 or more"):
        threads.thread_count(0)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/", {}, 256),
        ("0::/a", {"a/cpu.max": "10000 100000"}, 1),
        ("0::/a", {"a/cpu.max": "nonsense"}, 256),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 256),
    ],
)
def test_the_quota_of_the_control_group_counts(tmp_path: Path, membership: str, files: dict[str, str], expected: int):
    (tmp_path / "membership").write_text(membership + "\n")
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert threads._quota(tmp_path / "membership", tmp_path / "root") == expected
