"""Whether scores agree: their rank correlation, what the methods keep in common, and whether scores predict results."""
