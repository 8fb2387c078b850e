"""What `eval` and `memorization` measure: two sides, opened, narrowed and held together, and the jobs over them."""
