"""How the bundled checkpoint is made: tokenizer, config, pictures, vision, language, export."""
