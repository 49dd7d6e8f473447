; The thread pool: one pattern, "run body over 0..n", and nothing else.
;
; - A pool starts no thread before the first parallel_for that needs one.  Threads are never bound to a CPU and block
;   every signal but those of their own faults, which the kernel answers by ending the process where they are blocked.
; - One caller at a time owns the workers (`busy`).  A second caller, or a body that calls parallel_for itself, runs its
;   loop alone: nobody ever waits for somebody else's loop.
; - The iterations are cut into chunks, and each worker begins with a part of its own, the same one in every loop of that
;   size: what it wrote in one kernel it finds in its cache in the next.  Who has finished takes chunks from the others.
; - Idle workers spin for $SPIN_NS nanoseconds, then sleep on a futex: between the kernels of one inference they stay
;   awake, and so they do between inferences that follow each other at once; $SPIN_NS ns after that they cost nothing.
; - The caller never waits for a worker that has not joined yet: it closes the gate once no chunk is left and waits only for
;   those inside.
; - Everything but the requested size lies in a mapping that the kernel wipes in a forked child, where all zero means
;   "no thread started, nobody inside": the child starts its own threads when it needs them.
; - Workers compute with the caller's floating-point mode (rounding, flushing of subnormals), so that results do not depend
;   on who computed them.
;
; A text template: $$prefix, $$FUTEX (syscall number), $$SPIN_NS, $$MAX_THREADS, $$CORE_BYTES and the three processor-dependent
; functions at the end are filled in by assembly.py.  Only libc is called: mmap, munmap, madvise, malloc, free, syscall,
; clock_gettime, pthread_create, pthread_join, pthread_sigmask, sigfillset,
; sigdelset.

; What parallel_for takes as `pool`: the shared core and how many threads this user of it wants, the caller included.
%pool = type { ptr, i32 }

; Everything that one thread writes and another waits for has a line of its own, or two where the processor fetches pairs.
%slot = type {
  ptr, i32, i32, i64,                        ;  0 core, 1 worker index, 2 generation at birth, 3 pthread_t
  i64, [12 x i64]                            ;  4 number of a loop and next chunk of the worker's part: job << 16 | chunk
}

%core = type {
  i32, i32, i32, [29 x i32],                 ;  0 busy, 1 threads started, 2 stop
  i32, i32, ptr, ptr, i64, i64, i64, i32, i32, [9 x i64],
  ;  4 generation (futex of idle workers), 5 sleepers; the job: 6 body, 7 ctx, 8 n, 9 floating-point mode, 10 its number, 11 limit,
  ; 12 chunks
  i32, i32, [30 x i32],                      ; 14 gate (futex of the caller): OPEN | workers inside, 15 waiting
  [$MAX_THREADS x %slot]                     ; 17
}

%timespec = type { i64, i64 }

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)
declare ptr @malloc(i64)
declare void @free(ptr)
declare i64 @syscall(i64, ...)
declare i32 @clock_gettime(i32, ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)

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

; Nanoseconds of a clock that only goes forward.
define internal i64 @${prefix}now() nounwind {
  %time = alloca %timespec
  %unused = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest_at = getelementptr %timespec, ptr %time, i32 0, i32 1
  %rest = load i64, ptr %rest_at
  %whole = mul i64 %seconds, 1000000000
  %ns = add i64 %whole, %rest
  ret i64 %ns
}

; Spins while the word holds `value`, for $SPIN_NS nanoseconds at most, and returns what it holds then.
define internal i32 @${prefix}spin_while(ptr %word, i32 %value) nounwind {
entry:
  br label %spin
spin:
  %tries = phi i32 [ 0, %entry ], [ %tried, %pause ]
  %until = phi i64 [ 0, %entry ], [ %due, %pause ]
  %held = load atomic i32, ptr %word acquire, align 4
  %other = icmp ne i32 %held, %value
  br i1 %other, label %done, label %patience
patience:
  %tried = add i32 %tries, 1
  %group = and i32 %tried, 63
  %look = icmp eq i32 %group, 0               ; the clock costs as much as a pause or more
  br i1 %look, label %clock, label %pause
clock:
  %now = call i64 @${prefix}now()
  %first = icmp eq i64 %until, 0
  %end = add i64 %now, $SPIN_NS
  %set = select i1 %first, i64 %end, i64 %until
  %tired = icmp sgt i64 %now, %set
  br i1 %tired, label %done, label %pause
pause:
  %due = phi i64 [ %until, %patience ], [ %set, %clock ]
  call void @${prefix}pause()
  br label %spin
done:
  ret i32 %held
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
  %id_at = getelementptr %core, ptr %core, i32 0, i32 17, i32 %i, i32 3
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
  %f1 = call i32 @sigdelset(ptr %all_signals, i32 4)   ; SIGILL
  %f2 = call i32 @sigdelset(ptr %all_signals, i32 5)   ; SIGTRAP
  %f3 = call i32 @sigdelset(ptr %all_signals, i32 7)   ; SIGBUS
  %f4 = call i32 @sigdelset(ptr %all_signals, i32 8)   ; SIGFPE
  %f5 = call i32 @sigdelset(ptr %all_signals, i32 11)  ; SIGSEGV
  %m = call i32 @pthread_sigmask(i32 2, ptr %all_signals, ptr %old_signals)  ; SIG_SETMASK: a new thread inherits the mask
  %threads_at = getelementptr %core, ptr %core, i32 0, i32 1
  %generation_at = getelementptr %core, ptr %core, i32 0, i32 4
  br label %next
next:
  %threads = load i32, ptr %threads_at
  %more = icmp slt i32 %threads, %wanted
  br i1 %more, label %start, label %done
start:
  %slot = getelementptr %core, ptr %core, i32 0, i32 17, i32 %threads
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

; Runs chunks until none is left: those of the worker's own part first, then those of the workers after it.
; Nobody prepares the slots for a loop: a slot whose number is another loop's says that none of that part is taken.
define internal void @${prefix}chunks(ptr %core, i32 %worker) nounwind {
entry:
  %body_at = getelementptr %core, ptr %core, i32 0, i32 6
  %body = load ptr, ptr %body_at
  %ctx_at = getelementptr %core, ptr %core, i32 0, i32 7
  %ctx = load ptr, ptr %ctx_at
  %n_at = getelementptr %core, ptr %core, i32 0, i32 8
  %n = load i64, ptr %n_at
  %job_at = getelementptr %core, ptr %core, i32 0, i32 10
  %job = load i64, ptr %job_at
  %mark = shl i64 %job, 16
  %limit_at = getelementptr %core, ptr %core, i32 0, i32 11
  %limit = load i32, ptr %limit_at
  %count_at = getelementptr %core, ptr %core, i32 0, i32 12
  %count = load i32, ptr %count_at
  %wide = zext i32 %count to i64
  %share = udiv i64 %n, %wide                 ; the first `more` chunks have one iteration more
  %more = urem i64 %n, %wide
  br label %visit
visit:
  %visited = phi i32 [ 0, %entry ], [ %visits, %next ]
  %part = phi i32 [ %worker, %entry ], [ %following, %next ]
  %slot = getelementptr %core, ptr %core, i32 0, i32 17, i32 %part, i32 4
  %low = mul i32 %part, %count
  %from = udiv i32 %low, %limit
  %high = add i32 %low, %count
  %to = udiv i32 %high, %limit
  %begin_chunk = zext i32 %from to i64
  %end_chunk = zext i32 %to to i64
  %first = or i64 %mark, %begin_chunk
  %last = or i64 %mark, %end_chunk
  br label %look
look:
  %found = load atomic i64, ptr %slot monotonic, align 8
  br label %try
try:
  %held = phi i64 [ %found, %look ], [ %changed, %take ]
  %old = icmp ult i64 %held, %mark
  %at = select i1 %old, i64 %first, i64 %held
  %left = icmp ult i64 %at, %last
  br i1 %left, label %take, label %next
take:
  %after = add i64 %at, 1
  %swap = cmpxchg ptr %slot, i64 %held, i64 %after monotonic monotonic
  %changed = extractvalue { i64, i1 } %swap, 0
  %mine = extractvalue { i64, i1 } %swap, 1
  br i1 %mine, label %run, label %try
run:
  %chunk = and i64 %at, 65535
  %base = mul i64 %chunk, %share
  %extra = call i64 @llvm.umin.i64(i64 %chunk, i64 %more)
  %begin = add i64 %base, %extra
  %longer = icmp ult i64 %chunk, %more
  %one = zext i1 %longer to i64
  %length = add i64 %share, %one
  %end = add i64 %begin, %length
  call void %body(ptr %ctx, i64 %begin, i64 %end, i32 %worker)
  br label %look
next:
  %visits = add i32 %visited, 1
  %up = add i32 %part, 1
  %round = icmp eq i32 %up, %limit
  %following = select i1 %round, i32 0, i32 %up
  %finished = icmp eq i32 %visits, %limit
  br i1 %finished, label %done, label %visit
done:
  ret void
}

declare i64 @llvm.umin.i64(i64, i64)

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
  %gate_at = getelementptr %core, ptr %core, i32 0, i32 14
  %waiting_at = getelementptr %core, ptr %core, i32 0, i32 15
  %mode_at = getelementptr %core, ptr %core, i32 0, i32 9
  %limit_at = getelementptr %core, ptr %core, i32 0, i32 11
  br label %idle
idle:
  %seen = phi i32 [ %birth, %entry ], [ %current, %try ], [ %current, %leave ], [ %current, %wake ]
  %spun = call i32 @${prefix}spin_while(ptr %generation_at, i32 %seen)
  %new = icmp ne i32 %spun, %seen
  br i1 %new, label %awake, label %sleep
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
  %current = phi i32 [ %spun, %idle ], [ %looked, %rise ]
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
open:                                         ; $CHUNKS chunks a thread: enough to even out, few enough to be cheap
  %wide = zext i32 %limit to i64
  %parts = mul i64 %wide, $CHUNKS
  %count = call i64 @llvm.umin.i64(i64 %parts, i64 %n)
  %chunks = trunc i64 %count to i32
  %body_at = getelementptr %core, ptr %core, i32 0, i32 6
  store ptr %body, ptr %body_at
  %ctx_at = getelementptr %core, ptr %core, i32 0, i32 7
  store ptr %ctx, ptr %ctx_at
  %n_at = getelementptr %core, ptr %core, i32 0, i32 8
  store i64 %n, ptr %n_at
  %mode = call i64 @${prefix}get_mode()
  %mode_at = getelementptr %core, ptr %core, i32 0, i32 9
  store i64 %mode, ptr %mode_at
  %job_at = getelementptr %core, ptr %core, i32 0, i32 10
  %previous = load i64, ptr %job_at
  %job = add i64 %previous, 1
  store i64 %job, ptr %job_at
  %limit_at = getelementptr %core, ptr %core, i32 0, i32 11
  store i32 %limit, ptr %limit_at
  %count_at = getelementptr %core, ptr %core, i32 0, i32 12
  store i32 %chunks, ptr %count_at
  %waiting_at = getelementptr %core, ptr %core, i32 0, i32 15
  store atomic i32 0, ptr %waiting_at monotonic, align 4
  %gate_at = getelementptr %core, ptr %core, i32 0, i32 14
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
  br i1 %nobody, label %free_pool, label %wait
wait:                                         ; each who leaves changes the gate, the last one to zero
  %inside = phi i32 [ %others, %work ], [ %fewer, %wait ]
  %fewer = call i32 @${prefix}spin_while(ptr %gate_at, i32 %inside)
  %same = icmp eq i32 %fewer, %inside
  %empty = icmp eq i32 %fewer, 0
  %stop = or i1 %same, %empty
  br i1 %stop, label %waited, label %wait
waited:
  br i1 %empty, label %free_pool, label %sleep
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
