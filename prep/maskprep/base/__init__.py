"""What every room uses: files, text, progress, the command line."""
