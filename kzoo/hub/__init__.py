"""The Hugging Face Hub: what lies there, headers by range, locks and pulls. Nothing from it runs as code."""

from kzoo.hub.settings import check_settings

check_settings()
