"""``kzoo repro``: independent stages of the pipelines side by side."""
