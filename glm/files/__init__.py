"""Files that appear whole or not at all, JSON files, sizes in words. Needs no Paddle."""
