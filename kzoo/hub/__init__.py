"""The Hugging Face Hub: what lies there, headers by range, locks and pulls. Nothing from it runs as code.

What the environment says of the Hub is looked at first, before the client reads it, which takes what is wrong amiss.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from kzoo.errors import InputError


def check_settings() -> None:
    """Refuse an ``HF_ENDPOINT`` that is no address, and an ``HF_TOKEN`` that cannot be sent.

    Raises:
        InputError: one of them is set so.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    if endpoint and not _is_address(endpoint):
        raise InputError(
            "HF_ENDPOINT is no address of a Hub: expected something like https://huggingface.co, or unset it"
        )
    token = os.environ.get("HF_TOKEN", "")
    if not (token.isascii() and token.strip().isprintable()):
        raise InputError(
            "HF_TOKEN holds characters that no token has: copy it again from the Hub's settings, or unset it"
        )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


check_settings()
