"""What the command line says besides the work: help, flags, completion, plans, summaries, and what to run next."""
