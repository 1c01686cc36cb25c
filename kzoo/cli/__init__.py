"""The command line: click commands without logic of their own. Nothing heavy is imported before a command needs it."""
