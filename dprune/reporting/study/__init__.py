"""What results say of a study: which model each is of, put together to cells and lines that have names."""
