"""Networks by others that read faces, apart from those in the editing loop: head pose, smile, age, identity."""
