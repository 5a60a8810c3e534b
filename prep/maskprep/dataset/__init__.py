"""A cache opened to read: views, exports, sheets."""
