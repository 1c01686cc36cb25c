"""Growing trained networks (Net2Net, DILS): does one that inherits learn faster, or more, than one from a random start?"""
