"""From a kernel to loops: the templates."""
