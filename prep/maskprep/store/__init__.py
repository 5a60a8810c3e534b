"""Files of a cache: tables, keyed shards, the engine that fills them, and model weights."""
