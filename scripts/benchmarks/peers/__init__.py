"""Whom nebfs is compared with: one module per tool, each with the settings that suit it."""
