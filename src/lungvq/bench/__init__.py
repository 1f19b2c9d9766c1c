"""Every claim of accuracy or speed comes from here: commands that anyone can run again."""
