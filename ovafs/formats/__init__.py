"""File formats as pure code: bytes in, values out, and back. No I/O."""
