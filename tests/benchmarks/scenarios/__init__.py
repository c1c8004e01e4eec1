"""What is compared: each module has the scenarios of one kind of thing, and yields their cells."""
