"""Judges that come with trimtab."""
