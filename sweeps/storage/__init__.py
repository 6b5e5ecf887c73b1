"""Storage of results: the schema of the table, its files, the lease on a sweep folder, and provenance."""
