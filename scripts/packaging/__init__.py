"""What is handed out: wheel, sdist and a Debian package with everything in it.

`wheels` builds the first two; `environment` makes the virtual environment that the Debian package
holds; `pages` and `settings_page` write the man pages (`roff`) from the commands and the settings;
`debian` lays the package's tree out and builds it; `check` has `lintian` look at it and proves it
in a fresh Debian, with `newer` to put over it and `listing` to see what is left behind. Reading
starts at `__main__`. Nothing here is installed.
"""
