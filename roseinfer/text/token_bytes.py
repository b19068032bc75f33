"""Converting the spelling of tokens in a vocabulary to the bytes that they represent."""

SENTENCEPIECE_SPACE = "\u2581"


def byte_alphabet() -> dict[str, int]:
    """Return the alphabet in which byte-level BPE spells the 256 bytes: character -> byte.

    As in GPT-2's encoder, printable Latin-1 characters represent themselves. The other bytes are assigned characters
    from U+0100 on.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = byte_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes of a byte-level token. A token with characters outside the byte alphabet is plain text."""
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()


def sentencepiece_bytes(token: str) -> bytes:
    """Return the bytes of a SentencePiece token: `<0x0A>` is one byte, U+2581 is a space, the rest is text."""
    byte = byte_fallback_value(token)
    return bytes([byte]) if byte is not None else token.replace(SENTENCEPIECE_SPACE, " ").encode()


def byte_fallback_value(token: str) -> int | None:
    """Return the value of a SentencePiece byte token such as `<0x0A>`, or None for any other token."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def join_bytes(pieces: list[bytes], *, strip_leading_space: bool) -> str:
    """Return the text of consecutive tokens, given their bytes. Invalid UTF-8 becomes U+FFFD."""
    text = b"".join(pieces).decode("utf-8", "replace")
    return text.removeprefix(" ") if strip_leading_space else text
