"""One file per question; each says its command, its duration and what to expect."""
