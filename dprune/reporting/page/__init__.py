"""The report as one HTML page: its sections, tables, charts and images, and how they look."""
