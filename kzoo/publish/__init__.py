"""Cards, licences, publishing, rebuilding and lineage: what leads to the Hub and back."""
