"""What a job is given: typed values as JSON, and typed values out of JSON again."""
