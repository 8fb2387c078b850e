"""One module a subcommand: its options, then one library call."""
