"""Text for language models: which files make a language, how they are split, tokenised and cached."""
