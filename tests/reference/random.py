"""Plain-Python twin of ``_fastpath.random``."""


def mixed(word: int) -> int:
    """Finalizer of MurmurHash3."""
    word = (word ^ (word >> 33)) * 0xFF51AFD7ED558CCD % 2**64
    word = (word ^ (word >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
    return word ^ (word >> 33)
