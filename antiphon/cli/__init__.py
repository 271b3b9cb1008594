"""The command line: one file for each verb, over the functions of ``antiphon.verbs``."""
