"""What a fit is fed: who is held out, which labels count, which images are drawn."""
