"""The methods that decide what to keep: scores and selection."""
