"""Photos as they are found: decoding, folder layouts, and made-up samples."""
