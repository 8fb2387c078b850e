"""Charts as Vega draws them: described by Altair, rendered by vl-convert, alive in a page by Vega itself."""
