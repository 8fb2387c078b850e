"""How far outputs are that are made over hours by many, and what to run the same command again would do."""
