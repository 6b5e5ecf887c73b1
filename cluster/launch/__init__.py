"""Launch files: for each kind of cluster one frozen config and one pure function from it to text."""
