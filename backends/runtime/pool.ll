; The thread pool: one pattern, "run body over 0..n", and nothing else.
;
; - A pool starts no thread before the first parallel_for that needs one.  Threads are never bound to a CPU and block
;   every signal.
; - One caller at a time owns the workers (`busy`).  A second caller, or a body that calls parallel_for itself, runs its
;   loop alone: nobody ever waits for somebody else's loop.
; - Idle workers spin for some $SPIN pauses, then sleep on a futex: between the kernels of one inference they stay awake,
;   between two requests they cost nothing.
; - The caller never waits for a worker that has not joined yet: it closes the gate once no chunk is left and waits only for
;   those inside.
; - Everything but the requested size lies in a mapping that the kernel wipes in a forked child, where all zero means
;   "no thread started, nobody inside": the child starts its own threads when it needs them.
; - Workers compute with the caller's floating-point mode (rounding, flushing of subnormals), so that results do not depend
;   on who computed them.
;
; A text template: $$prefix, $$FUTEX (syscall number), $$SPIN, $$MAX_THREADS, $$CORE_BYTES and the three processor-dependent
; functions at the end are filled in by assembly.py.  Only libc is called: mmap, munmap, madvise, malloc, free, syscall,
; pthread_create, pthread_join, pthread_sigmask, sigfillset.

; What parallel_for takes as `pool`: the shared core and how many threads this user of it wants, the caller included.
%pool = type { ptr, i32 }

%slot = type { ptr, i32, i32, i64 }          ; core, worker index, generation at birth, pthread_t

%core = type {
  i32, i32, i32, [13 x i32],                 ;  0 busy, 1 threads started, 2 stop
  i32, i32, [14 x i32],                      ;  4 generation (futex of idle workers), 5 sleepers
  i32, i32, [14 x i32],                      ;  7 gate (futex of the caller): OPEN | workers inside, 8 waiting
  ptr, ptr, i64, i64, i64, i32, [5 x i32],   ; 10 body, 11 ctx, 12 n, 13 chunk, 14 floating-point mode, 15 limit
  i64, [7 x i64],                            ; 17 next index to hand out
  [$MAX_THREADS x %slot]                     ; 19
}

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)
declare ptr @malloc(i64)
declare void @free(ptr)
declare i64 @syscall(i64, ...)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)

; Sleeps until woken, unless the word no longer holds `value`.  128: FUTEX_WAIT | FUTEX_PRIVATE_FLAG.
define internal void @${prefix}futex_wait(ptr %word, i32 %value) nounwind {
  %unused = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 128, i32 %value, ptr null)
  ret void
}

; Wakes every sleeper.  129: FUTEX_WAKE | FUTEX_PRIVATE_FLAG.
define internal void @${prefix}futex_wake(ptr %word) nounwind {
  %unused = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 129, i32 2147483647)
  ret void
}

; A pool for `threads` threads, the caller included, or NULL when memory is short.
define ptr @${prefix}pool_create(i32 %threads) nounwind {
entry:
  %low = icmp slt i32 %threads, 1
  %at_least = select i1 %low, i32 1, i32 %threads
  %high = icmp sgt i32 %at_least, $MAX_THREADS
  %size = select i1 %high, i32 $MAX_THREADS, i32 %at_least
  ; PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
  %core = call ptr @mmap(ptr null, i64 $CORE_BYTES, i32 3, i32 34, i32 -1, i64 0)
  %bits = ptrtoint ptr %core to i64
  %failed = icmp eq i64 %bits, -1
  br i1 %failed, label %none, label %mapped
mapped:
  %wiped = call i32 @madvise(ptr %core, i64 $CORE_BYTES, i32 18)  ; MADV_WIPEONFORK
  %pool = call ptr @malloc(i64 16)
  %null = icmp eq ptr %pool, null
  br i1 %null, label %unmap, label %fill
unmap:
  %u = call i32 @munmap(ptr %core, i64 $CORE_BYTES)
  br label %none
fill:
  store ptr %core, ptr %pool
  %size_at = getelementptr %pool, ptr %pool, i32 0, i32 1
  ; where fork would not wipe the core, a child must not believe in threads that it does not have: no threads at all
  %unsafe = icmp ne i32 %wiped, 0
  %kept = select i1 %unsafe, i32 1, i32 %size
  store i32 %kept, ptr %size_at
  ret ptr %pool
none:
  ret ptr null
}

; Ends the threads and frees the pool.  Nobody may be running on it.
define void @${prefix}pool_destroy(ptr %pool) nounwind {
entry:
  %null = icmp eq ptr %pool, null
  br i1 %null, label %done, label %stop
stop:
  %core = load ptr, ptr %pool
  %stop_at = getelementptr %core, ptr %core, i32 0, i32 2
  store atomic i32 1, ptr %stop_at seq_cst, align 4
  %generation = getelementptr %core, ptr %core, i32 0, i32 4
  %g = atomicrmw add ptr %generation, i32 1 seq_cst
  call void @${prefix}futex_wake(ptr %generation)
  %threads_at = getelementptr %core, ptr %core, i32 0, i32 1
  %threads = load i32, ptr %threads_at
  br label %next
next:
  %i = phi i32 [ 0, %stop ], [ %after, %join ]
  %more = icmp slt i32 %i, %threads
  br i1 %more, label %join, label %release
join:
  %id_at = getelementptr %core, ptr %core, i32 0, i32 19, i32 %i, i32 3
  %id = load i64, ptr %id_at
  %j = call i32 @pthread_join(i64 %id, ptr null)
  %after = add i32 %i, 1
  br label %next
release:
  %u = call i32 @munmap(ptr %core, i64 $CORE_BYTES)
  call void @free(ptr %pool)
  br label %done
done:
  ret void
}

; Starts threads until `wanted` run or the system refuses; the owner of `busy` calls it.
define internal void @${prefix}grow(ptr %core, i32 %wanted) nounwind {
entry:
  %old_signals = alloca [128 x i8], align 8
  %all_signals = alloca [128 x i8], align 8
  %f = call i32 @sigfillset(ptr %all_signals)
  %m = call i32 @pthread_sigmask(i32 2, ptr %all_signals, ptr %old_signals)  ; SIG_SETMASK: a new thread inherits the mask
  %threads_at = getelementptr %core, ptr %core, i32 0, i32 1
  %generation_at = getelementptr %core, ptr %core, i32 0, i32 4
  br label %next
next:
  %threads = load i32, ptr %threads_at
  %more = icmp slt i32 %threads, %wanted
  br i1 %more, label %start, label %done
start:
  %slot = getelementptr %core, ptr %core, i32 0, i32 19, i32 %threads
  store ptr %core, ptr %slot
  %index_at = getelementptr %slot, ptr %slot, i32 0, i32 1
  %count = add i32 %threads, 1
  store i32 %count, ptr %index_at
  %birth_at = getelementptr %slot, ptr %slot, i32 0, i32 2
  %birth = load atomic i32, ptr %generation_at monotonic, align 4
  store i32 %birth, ptr %birth_at
  %id_at = getelementptr %slot, ptr %slot, i32 0, i32 3
  %refused = call i32 @pthread_create(ptr %id_at, ptr null, ptr @${prefix}worker, ptr %slot)
  %failed = icmp ne i32 %refused, 0
  br i1 %failed, label %done, label %started
started:
  store i32 %count, ptr %threads_at
  br label %next
done:
  %r = call i32 @pthread_sigmask(i32 2, ptr %old_signals, ptr null)
  ret void
}

; Takes chunks until none is left.
define internal void @${prefix}chunks(ptr %core, i32 %worker) nounwind {
entry:
  %body_at = getelementptr %core, ptr %core, i32 0, i32 10
  %body = load ptr, ptr %body_at
  %ctx_at = getelementptr %core, ptr %core, i32 0, i32 11
  %ctx = load ptr, ptr %ctx_at
  %n_at = getelementptr %core, ptr %core, i32 0, i32 12
  %n = load i64, ptr %n_at
  %chunk_at = getelementptr %core, ptr %core, i32 0, i32 13
  %chunk = load i64, ptr %chunk_at
  %next_at = getelementptr %core, ptr %core, i32 0, i32 17
  br label %take
take:
  %begin = atomicrmw add ptr %next_at, i64 %chunk monotonic
  %left = icmp slt i64 %begin, %n
  br i1 %left, label %run, label %done
run:
  %sum = add i64 %begin, %chunk
  %end = call i64 @llvm.smin.i64(i64 %sum, i64 %n)
  call void %body(ptr %ctx, i64 %begin, i64 %end, i32 %worker)
  br label %take
done:
  ret void
}

declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)

; A worker's life: wait for a new generation, join while the gate is open, take chunks, leave.
define internal ptr @${prefix}worker(ptr %slot) nounwind {
entry:
  %core = load ptr, ptr %slot
  %index_at = getelementptr %slot, ptr %slot, i32 0, i32 1
  %index = load i32, ptr %index_at
  %birth_at = getelementptr %slot, ptr %slot, i32 0, i32 2
  %birth = load i32, ptr %birth_at
  %stop_at = getelementptr %core, ptr %core, i32 0, i32 2
  %generation_at = getelementptr %core, ptr %core, i32 0, i32 4
  %sleepers_at = getelementptr %core, ptr %core, i32 0, i32 5
  %gate_at = getelementptr %core, ptr %core, i32 0, i32 7
  %waiting_at = getelementptr %core, ptr %core, i32 0, i32 8
  %mode_at = getelementptr %core, ptr %core, i32 0, i32 14
  %limit_at = getelementptr %core, ptr %core, i32 0, i32 15
  br label %idle
idle:
  %seen = phi i32 [ %birth, %entry ], [ %current, %try ], [ %current, %leave ], [ %current, %wake ]
  br label %spin
spin:
  %tries = phi i32 [ 0, %idle ], [ %tried, %pause ]
  %spun = load atomic i32, ptr %generation_at acquire, align 4
  %new = icmp ne i32 %spun, %seen
  br i1 %new, label %awake, label %patience
patience:
  %tried = add i32 %tries, 1
  %tired = icmp sgt i32 %tried, $SPIN
  br i1 %tired, label %sleep, label %pause
pause:
  call void @${prefix}pause()
  br label %spin
sleep:                                        ; announced first, looked second: parallel_for does it the other way round
  %s = atomicrmw add ptr %sleepers_at, i32 1 seq_cst
  br label %look
look:
  %looked = load atomic i32, ptr %generation_at seq_cst, align 4
  %called = icmp ne i32 %looked, %seen
  br i1 %called, label %rise, label %doze
doze:
  call void @${prefix}futex_wait(ptr %generation_at, i32 %seen)
  br label %look
rise:
  %r = atomicrmw sub ptr %sleepers_at, i32 1 seq_cst
  br label %awake
awake:
  %current = phi i32 [ %spun, %spin ], [ %looked, %rise ]
  %stop = load atomic i32, ptr %stop_at seq_cst, align 4
  %ending = icmp ne i32 %stop, 0
  br i1 %ending, label %end, label %knock
knock:
  br label %try
try:
  %state = load atomic i32, ptr %gate_at seq_cst, align 4
  %bit = and i32 %state, 1073741824
  %closed = icmp eq i32 %bit, 0
  br i1 %closed, label %idle, label %enter
enter:
  %inside = add i32 %state, 1
  %swap = cmpxchg ptr %gate_at, i32 %state, i32 %inside seq_cst seq_cst
  %entered = extractvalue { i32, i1 } %swap, 1
  br i1 %entered, label %joined, label %knock
joined:                                       ; the job's fields stand still while anybody is inside
  %limit = load i32, ptr %limit_at
  %wanted = icmp slt i32 %index, %limit
  br i1 %wanted, label %work, label %leave
work:
  %mode = load i64, ptr %mode_at
  call void @${prefix}set_mode(i64 %mode)
  call void @${prefix}chunks(ptr %core, i32 %index)
  br label %leave
leave:
  %before = atomicrmw sub ptr %gate_at, i32 1 seq_cst
  %last = icmp eq i32 %before, 1
  %waits = load atomic i32, ptr %waiting_at seq_cst, align 4
  %waited = icmp ne i32 %waits, 0
  %due = and i1 %last, %waited
  br i1 %due, label %wake, label %idle
wake:
  call void @${prefix}futex_wake(ptr %gate_at)
  br label %idle
end:
  ret ptr null
}

; Calls body(ctx, begin, end, worker) over disjoint chunks that cover 0..n and returns when all are done.
; The caller is worker 0; the others have numbers below the pool's size.
define void @${prefix}parallel_for(ptr %pool, ptr %body, ptr %ctx, i64 %n) nounwind {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %size, label %done
size:
  %core = load ptr, ptr %pool
  %limit_of = getelementptr %pool, ptr %pool, i32 0, i32 1
  %limit = load i32, ptr %limit_of
  %one_thread = icmp slt i32 %limit, 2
  %one_chunk = icmp eq i64 %n, 1
  %small = or i1 %one_thread, %one_chunk
  br i1 %small, label %alone, label %claim
alone:
  call void %body(ptr %ctx, i64 0, i64 %n, i32 0)
  ret void
claim:
  %busy_at = getelementptr %core, ptr %core, i32 0, i32 0
  %claimed = cmpxchg ptr %busy_at, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %claimed, 1
  br i1 %free, label %owned, label %alone
owned:
  %threads_at = getelementptr %core, ptr %core, i32 0, i32 1
  %threads = load i32, ptr %threads_at
  %helpers = sub i32 %limit, 1
  %short = icmp slt i32 %threads, %helpers
  br i1 %short, label %hire, label %open
hire:
  call void @${prefix}grow(ptr %core, i32 %helpers)
  br label %open
open:                                         ; four chunks a thread: enough to even out, few enough to be cheap
  %wide = sext i32 %limit to i64
  %parts = mul i64 %wide, 4
  %share = sdiv i64 %n, %parts
  %chunk = call i64 @llvm.smax.i64(i64 %share, i64 1)
  %body_at = getelementptr %core, ptr %core, i32 0, i32 10
  store ptr %body, ptr %body_at
  %ctx_at = getelementptr %core, ptr %core, i32 0, i32 11
  store ptr %ctx, ptr %ctx_at
  %n_at = getelementptr %core, ptr %core, i32 0, i32 12
  store i64 %n, ptr %n_at
  %chunk_at = getelementptr %core, ptr %core, i32 0, i32 13
  store i64 %chunk, ptr %chunk_at
  %mode = call i64 @${prefix}get_mode()
  %mode_at = getelementptr %core, ptr %core, i32 0, i32 14
  store i64 %mode, ptr %mode_at
  %limit_at = getelementptr %core, ptr %core, i32 0, i32 15
  store i32 %limit, ptr %limit_at
  %next_at = getelementptr %core, ptr %core, i32 0, i32 17
  store atomic i64 0, ptr %next_at monotonic, align 8
  %waiting_at = getelementptr %core, ptr %core, i32 0, i32 8
  store atomic i32 0, ptr %waiting_at monotonic, align 4
  %gate_at = getelementptr %core, ptr %core, i32 0, i32 7
  store atomic i32 1073741824, ptr %gate_at seq_cst, align 4  ; OPEN
  %generation_at = getelementptr %core, ptr %core, i32 0, i32 4
  %g = atomicrmw add ptr %generation_at, i32 1 seq_cst
  %sleepers_at = getelementptr %core, ptr %core, i32 0, i32 5
  %sleepers = load atomic i32, ptr %sleepers_at seq_cst, align 4
  %asleep = icmp ne i32 %sleepers, 0
  br i1 %asleep, label %call, label %work
call:
  call void @${prefix}futex_wake(ptr %generation_at)
  br label %work
work:
  call void @${prefix}chunks(ptr %core, i32 0)
  %left = atomicrmw and ptr %gate_at, i32 -1073741825 seq_cst
  %others = and i32 %left, -1073741825
  %nobody = icmp eq i32 %others, 0
  br i1 %nobody, label %free_pool, label %spin
spin:
  %tries = phi i32 [ 0, %work ], [ %tried, %pause ]
  %inside = load atomic i32, ptr %gate_at acquire, align 4
  %empty = icmp eq i32 %inside, 0
  br i1 %empty, label %free_pool, label %patience
patience:
  %tried = add i32 %tries, 1
  %tired = icmp sgt i32 %tried, $SPIN
  br i1 %tired, label %sleep, label %pause
pause:
  call void @${prefix}pause()
  br label %spin
sleep:
  store atomic i32 1, ptr %waiting_at seq_cst, align 4
  br label %look
look:
  %still = load atomic i32, ptr %gate_at seq_cst, align 4
  %gone = icmp eq i32 %still, 0
  br i1 %gone, label %free_pool, label %doze
doze:
  call void @${prefix}futex_wait(ptr %gate_at, i32 %still)
  br label %look
free_pool:
  store atomic i32 0, ptr %busy_at release, align 4
  br label %done
done:
  ret void
}

$processor
