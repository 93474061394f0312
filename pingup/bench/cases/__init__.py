"""A module for each subject that is measured."""
