"""Messages of a conversation, and the special tokens that mark turns, by tiny backbone."""

SYSTEM = {"role": "system", "content": "Be kind."}
NAMES = {
    "llama": ("<|eot_id|>", "<|start_header_id|>"),
    "gemma": ("<end_of_turn>", "<start_of_turn>"),
}


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """An answer."""
    return {"role": "assistant", "content": text}
