"""Sheets of images for people: rows and columns with names, captions and frames, drawn by Pillow."""
