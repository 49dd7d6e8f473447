"""From fused kernels to machine code: lowering to loop IR, the LLVM emitter, CPU and GPU targets, the native runtime."""
