"""Knowledge amalgamation: does a student of several teachers, without labels, know what they know together?"""
