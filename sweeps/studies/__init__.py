"""Studies of trained models: parsing the requested studies, finding the models, storing and reading the findings."""
