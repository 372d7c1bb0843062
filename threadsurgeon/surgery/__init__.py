"""What we do to one thread, gentlest first."""
