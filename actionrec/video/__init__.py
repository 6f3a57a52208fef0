"""Video files to clips: exact reading, choosing frames, and preparing them for a network."""
