"""Results as users see them: terminal text, the figure, the site. Never imports torch."""
