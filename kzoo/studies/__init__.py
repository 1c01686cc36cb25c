"""What the pipelines of papers compute."""
