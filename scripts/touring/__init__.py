"""The tour of README.md, taken for real: what a newcomer types, and what the terminal then shows.

`steps` are the commands; `visit` starts the demonstration and types them into it; `page` puts what
was seen into README.md and compares the two; `cast` draws it as an SVG that moves. Reading starts
at `__main__`. Nothing here is installed.
"""
