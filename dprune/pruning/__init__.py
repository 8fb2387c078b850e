"""The methods that decide what to keep: clustering, scores, selection."""
