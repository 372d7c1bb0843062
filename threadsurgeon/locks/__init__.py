"""Who waits for what, who holds it, deadlocks, and what to do: all by looking."""
