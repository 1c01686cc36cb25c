"""Pictures of a matching, drawn with the standard library only."""
