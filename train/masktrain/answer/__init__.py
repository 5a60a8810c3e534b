"""Networks that were trained, asked: photos, views, videos; scored, exported."""
