; The part of the C interface that is the same for every model.  A text template, filled in by abi.py, which also writes the
; functions that depend on the signature: dispatch, bind_inputs, bind_outputs, run and workspace_size.

%tensor = type { ptr, ptr, i32, i32 }          ; octavo_tensor: data, shape, rank, dtype
%handle = type { ptr, ptr, i64, %entries }     ; the model's mark, weights.bin, bytes to unmap, the code for this processor
%threads = type { ptr, ptr, i32 }              ; octavo_threads: parallel_for, pool, workers

; What Python loads: PREFIX_main, PREFIX_workspace, where its weights begin in weights.bin, pool_create, parallel_for.
%entries = type { ptr, ptr, i64, ptr, ptr }

declare i32 @open(ptr, i32, ...)
declare i64 @lseek(i32, i64, i32)
declare i32 @close(i32)

define i32 @${prefix}abi_version() nounwind {
  ret i32 $ABI_VERSION
}

; Chooses the code for this processor and maps the weights, read only.
define i32 @${prefix}load(ptr %path, ptr %out) nounwind {
entry:
  %no_out = icmp eq ptr %out, null
  br i1 %no_out, label %null, label %file
file:
  store ptr null, ptr %out
  br i1 $HAS_WEIGHTS, label %need_path, label %without
without:
  %bare = call i32 @${prefix}new_handle(ptr null, i64 0, ptr %out)
  ret i32 %bare
need_path:
  %no_path = icmp eq ptr %path, null
  br i1 %no_path, label %null, label %open
open:
  %fd = call i32 (ptr, i32, ...) @open(ptr %path, i32 524288)      ; O_RDONLY | O_CLOEXEC
  %refused = icmp slt i32 %fd, 0
  br i1 %refused, label %no_file, label %measure
measure:
  %size = call i64 @lseek(i32 %fd, i64 0, i32 2)                   ; SEEK_END
  %fits = icmp eq i64 %size, $WEIGHTS_BYTES
  br i1 %fits, label %map, label %wrong_size
map:
  %weights = call ptr @mmap(ptr null, i64 $WEIGHTS_BYTES, i32 1, i32 2, i32 %fd, i64 0)  ; PROT_READ, MAP_PRIVATE
  %closed = call i32 @close(i32 %fd)
  %bits = ptrtoint ptr %weights to i64
  %unmapped = icmp eq i64 %bits, -1
  br i1 %unmapped, label %no_file, label %make
make:
  %code = call i32 @${prefix}new_handle(ptr %weights, i64 $WEIGHTS_BYTES, ptr %out)
  %bad = icmp ne i32 %code, 0
  br i1 %bad, label %undo, label %done
undo:
  %u = call i32 @munmap(ptr %weights, i64 $WEIGHTS_BYTES)
  br label %done
done:
  ret i32 %code
wrong_size:
  %also = call i32 @close(i32 %fd)
  ret i32 $WEIGHTS
no_file:
  ret i32 $FILE
null:
  ret i32 $NULL
}

; As load, for weights that the caller holds in memory, at a multiple of 64 bytes, for as long as the handle lives.
define i32 @${prefix}load_memory(ptr %weights, i64 %bytes, ptr %out) nounwind {
entry:
  %no_out = icmp eq ptr %out, null
  br i1 %no_out, label %null, label %sized
sized:
  store ptr null, ptr %out
  %fits = icmp eq i64 %bytes, $WEIGHTS_BYTES
  br i1 %fits, label %given, label %wrong_size
given:
  %nothing = icmp eq ptr %weights, null
  %missing = and i1 %nothing, $HAS_WEIGHTS
  br i1 %missing, label %null, label %place
place:
  %bits = ptrtoint ptr %weights to i64
  %low = and i64 %bits, 63
  %crooked = icmp ne i64 %low, 0
  br i1 %crooked, label %misaligned, label %make
make:
  %code = call i32 @${prefix}new_handle(ptr %weights, i64 0, ptr %out)
  ret i32 %code
misaligned:
  ret i32 $ALIGNMENT
wrong_size:
  ret i32 $WEIGHTS
null:
  ret i32 $NULL
}

define internal i32 @${prefix}new_handle(ptr %weights, i64 %mapped, ptr %out) nounwind {
entry:
  %handle = call ptr @malloc(i64 64)
  %null = icmp eq ptr %handle, null
  br i1 %null, label %no_memory, label %choose
choose:
  %code_at = getelementptr %handle, ptr %handle, i32 0, i32 3
  %failed = call i32 @${prefix}entry(ptr %code_at)
  %unfit = icmp ne i32 %failed, 0
  br i1 %unfit, label %no_cpu, label %fill
fill:
  store ptr @${prefix}info, ptr %handle
  %weights_at = getelementptr %handle, ptr %handle, i32 0, i32 1
  store ptr %weights, ptr %weights_at
  %mapped_at = getelementptr %handle, ptr %handle, i32 0, i32 2
  store i64 %mapped, ptr %mapped_at
  store ptr %handle, ptr %out
  ret i32 0
no_cpu:
  call void @free(ptr %handle)
  ret i32 $CPU
no_memory:
  ret i32 $MEMORY
}

; The functions that fit this processor, and the pool's.
define i32 @${prefix}entry(ptr %out) nounwind {
entry:
  %null = icmp eq ptr %out, null
  br i1 %null, label %no_out, label %choose
choose:
  %variant = call i32 @${prefix}dispatch()
  %none = icmp slt i32 %variant, 0
  br i1 %none, label %no_cpu, label %fill
fill:
  %main_of = getelementptr ptr, ptr @${prefix}mains, i32 %variant
  %main = load ptr, ptr %main_of
  store ptr %main, ptr %out
  %workspace_of = getelementptr ptr, ptr @${prefix}workspaces, i32 %variant
  %workspace = load ptr, ptr %workspace_of
  %workspace_at = getelementptr %entries, ptr %out, i32 0, i32 1
  store ptr %workspace, ptr %workspace_at
  %offset_of = getelementptr i64, ptr @${prefix}offsets, i32 %variant
  %offset = load i64, ptr %offset_of
  %offset_at = getelementptr %entries, ptr %out, i32 0, i32 2
  store i64 %offset, ptr %offset_at
  %create_at = getelementptr %entries, ptr %out, i32 0, i32 3
  store ptr @${prefix}pool_create, ptr %create_at
  %loop_at = getelementptr %entries, ptr %out, i32 0, i32 4
  store ptr @${prefix}parallel_for, ptr %loop_at
  ret i32 0
no_cpu:
  ret i32 $CPU
no_out:
  ret i32 $NULL
}

define void @${prefix}free(ptr %handle) nounwind {
entry:
  %null = icmp eq ptr %handle, null
  br i1 %null, label %done, label %look
look:
  %mark = load ptr, ptr %handle
  %ours = icmp eq ptr %mark, @${prefix}info
  br i1 %ours, label %clear, label %done
clear:
  store ptr null, ptr %handle
  %mapped_at = getelementptr %handle, ptr %handle, i32 0, i32 2
  %mapped = load i64, ptr %mapped_at
  %none = icmp eq i64 %mapped, 0
  br i1 %none, label %release, label %unmap
unmap:
  %weights_at = getelementptr %handle, ptr %handle, i32 0, i32 1
  %weights = load ptr, ptr %weights_at
  %u = call i32 @munmap(ptr %weights, i64 %mapped)
  br label %release
release:
  call void @free(ptr %handle)
  br label %done
done:
  ret void
}

define ptr @${prefix}error_string(i32 %code) nounwind {
entry:
  %known = icmp ult i32 %code, $STATUSES
  br i1 %known, label %look, label %unknown
look:
  %at = getelementptr ptr, ptr @${prefix}texts, i32 %code
  %text = load ptr, ptr %at
  ret ptr %text
unknown:
  ret ptr @${prefix}unknown
}

define ptr @${prefix}query() nounwind {
  ret ptr @${prefix}info
}

; A thread pool of the library's own for programs that bring none.
define i32 @${prefix}threads_create(i32 %count, ptr %out) nounwind {
entry:
  %null = icmp eq ptr %out, null
  br i1 %null, label %no_out, label %create
create:
  %pool = call ptr @${prefix}pool_create(i32 %count)
  %failed = icmp eq ptr %pool, null
  br i1 %failed, label %no_memory, label %fill
fill:
  store ptr @${prefix}parallel_for, ptr %out
  %pool_at = getelementptr %threads, ptr %out, i32 0, i32 1
  store ptr %pool, ptr %pool_at
  %size_of = getelementptr %pool, ptr %pool, i32 0, i32 1
  %size = load i32, ptr %size_of
  %workers_at = getelementptr %threads, ptr %out, i32 0, i32 2
  store i32 %size, ptr %workers_at
  ret i32 0
no_memory:
  ret i32 $MEMORY
no_out:
  ret i32 $NULL
}

define void @${prefix}threads_destroy(ptr %threads) nounwind {
entry:
  %null = icmp eq ptr %threads, null
  br i1 %null, label %done, label %destroy
destroy:
  %pool_at = getelementptr %threads, ptr %threads, i32 0, i32 1
  %pool = load ptr, ptr %pool_at
  call void @${prefix}pool_destroy(ptr %pool)
  store ptr null, ptr %pool_at
  br label %done
done:
  ret void
}

; One tensor against what the model expects: dtype, rank, dims that are not negative, a size that can be addressed, data that is
; there and aligned.  `alignment` 0: an output that the run defines, whose data and dims the caller does not give.
define internal i32 @${prefix}check_tensor(ptr %tensor, i32 %dtype, i32 %rank, i64 %itemsize, i64 %alignment) nounwind {
entry:
  %dtype_at = getelementptr %tensor, ptr %tensor, i32 0, i32 3
  %given_dtype = load i32, ptr %dtype_at
  %same_dtype = icmp eq i32 %given_dtype, %dtype
  br i1 %same_dtype, label %ranked, label %wrong_dtype
ranked:
  %rank_at = getelementptr %tensor, ptr %tensor, i32 0, i32 2
  %given_rank = load i32, ptr %rank_at
  %same_rank = icmp eq i32 %given_rank, %rank
  br i1 %same_rank, label %shaped, label %wrong_rank
shaped:
  %shape_at = getelementptr %tensor, ptr %tensor, i32 0, i32 1
  %shape = load ptr, ptr %shape_at
  %no_shape = icmp eq ptr %shape, null
  %has_dims = icmp ne i32 %rank, 0
  %missing = and i1 %no_shape, %has_dims
  br i1 %missing, label %null, label %defined
defined:
  %by_run = icmp eq i64 %alignment, 0
  br i1 %by_run, label %good, label %dims
dims:
  %i = phi i32 [ 0, %defined ], [ %next, %counted ]
  %bytes = phi i64 [ %itemsize, %defined ], [ %product, %counted ]
  %more = icmp slt i32 %i, %rank
  br i1 %more, label %dim, label %sized
dim:
  %size_at = getelementptr i64, ptr %shape, i32 %i
  %size = load i64, ptr %size_at
  %negative = icmp slt i64 %size, 0
  br i1 %negative, label %wrong_shape, label %count
count:
  %wide = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %bytes, i64 %size)
  %product = extractvalue { i64, i1 } %wide, 0
  %overflow = extractvalue { i64, i1 } %wide, 1
  br i1 %overflow, label %wrong_shape, label %counted
counted:
  %next = add i32 %i, 1
  br label %dims
sized:
  %huge = icmp ugt i64 %bytes, 140737488355328
  br i1 %huge, label %wrong_shape, label %data
data:
  %data_is = load ptr, ptr %tensor
  %no_data = icmp eq ptr %data_is, null
  %some = icmp ne i64 %bytes, 0
  %lost = and i1 %no_data, %some
  br i1 %lost, label %null, label %aligned
aligned:
  %bits = ptrtoint ptr %data_is to i64
  %mask = sub i64 %alignment, 1
  %low = and i64 %bits, %mask
  %straight = icmp eq i64 %low, 0
  br i1 %straight, label %good, label %crooked
good:
  ret i32 0
null:
  ret i32 $NULL
wrong_dtype:
  ret i32 $DTYPE
wrong_rank:
  ret i32 $RANK
wrong_shape:
  ret i32 $SHAPE
crooked:
  ret i32 $ALIGNMENT
}

declare { i64, i1 } @llvm.umul.with.overflow.i64(i64, i64)

$probe
