"""What the scripts share: parsers and argument files, prompts from files, the terminal, printing."""
