"""What holds of the papers' claims: read from their pipelines, and told as text, Markdown, JSON and a page."""
