"""The command line: one thin file per command. Everything a command does is also a function of the package."""
