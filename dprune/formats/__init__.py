"""Everything that touches a file: shards, stores, arrays, provenance, atomic publishing."""
