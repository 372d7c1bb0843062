"""What the kernel says of a process: without ptrace, without a stop."""
