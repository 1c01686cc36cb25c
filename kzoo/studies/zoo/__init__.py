"""The embedded zoo: are its networks what their recipes make?"""
