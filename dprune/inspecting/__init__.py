"""What files hold, where they come from, and whether they are sound."""
