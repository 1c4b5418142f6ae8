"""The same parts inside other people's tools, each imported only where it is named."""
