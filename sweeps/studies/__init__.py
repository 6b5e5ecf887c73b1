"""Additional studies of stored runs: parsing their names, finding the models, storing and reading the findings."""
