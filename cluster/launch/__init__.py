"""What a launch file is made of: one frozen settings object and one pure function for each kind of cluster."""
