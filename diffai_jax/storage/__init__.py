"""Files that are written atomically, with checksums; paths, journals, locks."""
