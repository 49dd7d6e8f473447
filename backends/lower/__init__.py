"""From a kernel's body to loop IR: the templates and what they share."""
