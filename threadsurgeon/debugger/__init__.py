"""Our end of the pipe to gdb. Nothing outside this package knows pygdbmi or MI."""
